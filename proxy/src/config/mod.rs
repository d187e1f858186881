//! One definition of every option: from it come the flags, the environment variables, the
//! configuration file, `--help`, the man page and the README's table.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;

use crate::auth::TrustedNetwork;
use crate::dial::{LOOKUPS_EACH, SearchDomain};
use crate::policy::Rule;
use crate::proxy_protocol::ProxyProtocolRule;
use crate::rate::Rate;
use crate::secret::Secret;
use crate::server::ControlChoice;
use crate::sys::user::RunAs;

pub use choices::{Engines, LogFormat, LogLevel, ResolverChoice, engines};

use addresses::{ip, socket};
use sources::ConfigSources;
use values::{SEPARATOR, duration, former_users, network, parsed, positive, secret, size, spin, trusted_network, word};

mod addresses;
mod choices;
pub mod error;
mod file;
pub mod parse;
pub mod settings;
pub mod sources;
pub mod table;
mod users;
mod values;

/// Where the gateway listens and what it permits: what `explain` needs to know as well.
#[derive(Args, Clone, Debug)]
pub struct Rules {
    /// TOML file with any of these options by its long name, over which flags and environment win, and with what each user may (`[users.NAME]`, re-read on change and SIGHUP)
    #[arg(long, env = "SLUICEGATE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Address to accept clients on; repeatable [default: 0.0.0.0:3128, or none if there is --listen-tls]
    #[arg(long, env = "SLUICEGATE_LISTEN", value_name = "ADDR:PORT", value_delimiter = SEPARATOR, value_parser = socket)]
    pub listen: Vec<SocketAddr>,

    /// The same for clients that speak TLS with the gateway, as with an https proxy; needs --tls-cert and --tls-key. Their bytes are copied in this process (engine copy)
    #[arg(long, env = "SLUICEGATE_LISTEN_TLS", value_name = "ADDR:PORT", value_delimiter = SEPARATOR, value_parser = socket)]
    pub listen_tls: Vec<SocketAddr>,

    /// Address of the status page and of all that can be read: /metrics, /healthz, /readyz and the API (users, clients, targets)
    #[arg(long, env = "SLUICEGATE_ADMIN", value_name = "ADDR:PORT", default_value = "127.0.0.1:9128", value_parser = socket)]
    pub admin: SocketAddr,

    /// Address of /metrics, /healthz and /readyz alone, for one that others reach [default: none]
    #[arg(long, env = "SLUICEGATE_METRICS", value_name = "ADDR:PORT", value_parser = socket)]
    pub metrics: Option<SocketAddr>,

    /// What may be dialled.
    #[arg(
        long,
        env = "SLUICEGATE_ALLOW",
        value_name = "RULE",
        value_delimiter = SEPARATOR,
        value_parser = word::<Rule>,
        help = "Permit targets HOST:PORTS (HOST: name, *.suffix, address, CIDR, [v6], *; PORTS: 443, 30000-32767, lists, *); repeatable [default: *:443 *:6443]"
    )]
    pub allow: Vec<Rule>,

    /// Refuse targets; wins over --allow; repeatable
    #[arg(long, env = "SLUICEGATE_DENY", value_name = "RULE", value_delimiter = SEPARATOR, value_parser = word::<Rule>)]
    pub deny: Vec<Rule>,

    /// Dial through another CONNECT proxy, http://USER:PASSWORD@HOST:PORT or https://, or `direct`: every target, or with ` for RULE` those; the first that fits. A rule with a name leaves the name to the parent. Repeatable
    #[arg(long, env = "SLUICEGATE_PARENT", value_name = "URL[ for RULE]", value_delimiter = SEPARATOR, value_parser = secret, hide_env_values = true)]
    pub parent: Vec<Secret>,

    /// How names are resolved: dns asks the name servers of /etc/resolv.conf itself, after /etc/hosts; system asks getaddrinfo(3), and so whatever nsswitch.conf names (mDNS, LDAP, sssd and so on), on a thread for each name. Either way a name is absolute, and the search list of resolv.conf is not used
    #[arg(long, env = "SLUICEGATE_RESOLVER", value_name = "KIND", default_value = "dns")]
    pub resolver: ResolverChoice,

    /// Complete names without a dot by this domain, unless they end in a dot or /etc/hosts lists them; the rules judge the completed name. Repeatable: the first domain in which the name exists counts
    #[arg(long, env = "SLUICEGATE_SEARCH_DOMAIN", value_name = "DOMAIN", value_delimiter = SEPARATOR, value_parser = word::<SearchDomain>)]
    pub search_domain: Vec<SearchDomain>,

    /// Let clients from this network in that send no credentials, as a user of that name (`[users."10.1.2.0/24"]` says what it may); credentials that are sent are checked. A network or address, repeatable
    #[arg(long, env = "SLUICEGATE_NO_AUTH_FROM", value_name = "NETWORK", value_delimiter = SEPARATOR, value_parser = trusted_network)]
    pub no_auth_from: Vec<TrustedNetwork>,

    /// CA certificates for verifying https:// parents (PEM) [default: those of the host]
    #[arg(long, env = "SLUICEGATE_PARENT_CA", value_name = "FILE")]
    pub parent_ca: Option<PathBuf>,
}

/// Where clients are accepted unless told otherwise.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 3128);

impl Rules {
    /// Where clients are accepted who speak no TLS with the gateway.
    #[must_use]
    pub fn listen(&self) -> Vec<SocketAddr> {
        if self.listen.is_empty() && self.listen_tls.is_empty() { vec![LISTEN] } else { self.listen.clone() }
    }

    /// Addresses that are no clients' but those of metrics and of the API.
    pub fn readers(&self) -> impl Iterator<Item = &SocketAddr> {
        [&self.admin].into_iter().chain(&self.metrics)
    }
}

/// The options of `serve` and `check`.
#[derive(Args, Clone, Debug)]
pub struct Serve {
    /// Addresses and rules.
    #[command(flatten)]
    pub rules: Rules,

    /// A user who may come in; repeatable. A password given here is visible to everybody on the host: prefer the variable or --users-file
    #[arg(long, env = "SLUICEGATE_USER", value_name = "NAME:PASSWORD", value_parser = secret, hide_env_values = true)]
    pub user: Vec<Secret>,

    /// Certificate that clients of --listen-tls are shown, and those that it was signed by (PEM); re-read on change and SIGHUP
    #[arg(long, env = "SLUICEGATE_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Its key (PEM)
    #[arg(long, env = "SLUICEGATE_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Users file in htpasswd format (bcrypt, SHA-256-crypt, SHA-512-crypt), re-read on change and SIGHUP
    #[arg(long, env = "SLUICEGATE_USERS_FILE", value_name = "FILE")]
    pub users_file: Option<PathBuf>,

    /// The former name of --users-file
    #[arg(long, env = "SLUICEGATE_USERS", value_name = "FILE", hide = true, value_parser = former_users)]
    pub users: Option<Infallible>,

    /// Let everybody in who can reach the gateway
    #[arg(long, env = "SLUICEGATE_NO_AUTH")]
    pub no_auth: bool,

    /// Engines to try in this order: uring, splice, copy, sockmap; auto is the best of the first three that passes its self-test
    #[arg(long, env = "SLUICEGATE_ENGINE", value_name = "ENGINE", default_value = "auto", value_delimiter = SEPARATOR, value_parser = engines)]
    pub engine: Vec<Engines>,

    /// User to run as once the listeners are bound, with all groups of that user or with GROUP alone; names or numbers
    #[arg(long, env = "SLUICEGATE_RUN_AS", value_name = "USER[:GROUP]", value_parser = parsed::<RunAs>)]
    pub run_as: Option<RunAs>,

    /// How long a loop looks for the next message before it sleeps, while that pays; 0s: it does not
    #[arg(long, env = "SLUICEGATE_SPIN", value_name = "TIME", default_value = "50us", value_parser = spin)]
    pub spin: Duration,

    /// Bytes each way that the engine sockmap gives to a side that has not acknowledged them; at least what its path holds
    #[arg(long, env = "SLUICEGATE_SOCKMAP_BACKLOG", value_name = "SIZE", default_value = "16MiB", value_parser = size)]
    pub sockmap_backlog: u64,

    /// End a tunnel when neither peer has sent or acknowledged a byte for so long [default: never]
    #[arg(long, env = "SLUICEGATE_IDLE_TIMEOUT", value_name = "TIME", value_parser = duration)]
    pub idle_timeout: Option<Duration>,

    /// How long a client may take to send its request, and the whole exchange of an Upgrade, answer included, until the 101
    #[arg(long, env = "SLUICEGATE_HANDSHAKE_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub handshake_timeout: Duration,

    /// How long one address of a target may take to answer; all of them together three times that
    #[arg(long, env = "SLUICEGATE_DIAL_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub dial_timeout: Duration,

    /// Give a peer up that has not answered for so long; a slow reader, which answers, is not given up
    #[arg(long, env = "SLUICEGATE_USER_TIMEOUT", value_name = "TIME", default_value = "2m", value_parser = duration)]
    pub user_timeout: Duration,

    /// On SIGTERM, end the tunnels that are still open after so long [default: wait for them]
    #[arg(long, env = "SLUICEGATE_DRAIN_TIMEOUT", value_name = "TIME", value_parser = duration)]
    pub drain_timeout: Option<Duration>,

    /// Tunnels open at once [default: what the descriptor limit has room for]
    #[arg(long, env = "SLUICEGATE_MAX_TUNNELS", value_name = "N", value_parser = positive)]
    pub max_tunnels: Option<usize>,

    /// Tunnels open at once for each user [default: no limit]
    #[arg(long, env = "SLUICEGATE_MAX_TUNNELS_PER_USER", value_name = "N", value_parser = positive)]
    pub max_tunnels_per_user: Option<usize>,

    /// Connections being opened at once for each user, or for each client address without
    /// authentication; further ones wait [default: a quarter of --max-tunnels, at least 64]
    #[arg(long, env = "SLUICEGATE_MAX_DIALS_PER_USER", value_name = "N", value_parser = positive)]
    pub max_dials_per_user: Option<usize>,

    /// Tunnels open at once for each client address, IPv6 by /64 [default: no limit]
    #[arg(long, env = "SLUICEGATE_MAX_TUNNELS_PER_SOURCE", value_name = "N", value_parser = positive)]
    pub max_tunnels_per_source: Option<usize>,

    /// Name look-ups in progress at once for each user, or for each client address without users (IPv6 by /64); with --resolver system at most 32
    #[arg(long, env = "SLUICEGATE_MAX_LOOKUPS_PER_USER", value_name = "N", default_value_t = LOOKUPS_EACH, value_parser = positive)]
    pub max_lookups_per_user: usize,

    /// Bytes a second of each tunnel, each way, as 100MiB or 1Gbit; the kernel paces them [default: as fast as it can]
    #[arg(long, env = "SLUICEGATE_RATE", value_name = "RATE", value_parser = parsed::<Rate>)]
    pub rate: Option<Rate>,

    /// The same for all tunnels of each user together, of which each has an equal share [default: as fast as they can]
    #[arg(long, env = "SLUICEGATE_RATE_PER_USER", value_name = "RATE", value_parser = parsed::<Rate>)]
    pub rate_per_user: Option<Rate>,

    /// Local address to dial from; repeatable, one for IPv4 and one for IPv6
    #[arg(long, env = "SLUICEGATE_SOURCE", value_name = "ADDR", value_delimiter = SEPARATOR, value_parser = ip)]
    pub source: Vec<IpAddr>,

    /// Congestion control of both legs (cubic) or of one (client=cubic, origin=bbr) [default: the host's]
    #[arg(long, env = "SLUICEGATE_CONGESTION_CONTROL", value_name = "[LEG=]NAME", value_delimiter = SEPARATOR)]
    pub congestion_control: Vec<String>,

    /// Clients from here are proxies, and say first by the PROXY protocol (v1 or v2) whom they connect for; a network or address, repeatable
    #[arg(long, env = "SLUICEGATE_PROXY_PROTOCOL_FROM", value_name = "NETWORK", value_delimiter = SEPARATOR, value_parser = network)]
    pub proxy_protocol_from: Vec<IpNet>,

    /// Targets that are told the client's address by the PROXY protocol: `v1 for RULE` or `v2 for RULE`; the first that fits. Repeatable
    #[arg(long, env = "SLUICEGATE_PROXY_PROTOCOL_TO", value_name = "VERSION for RULE", value_delimiter = SEPARATOR, value_parser = parsed::<ProxyProtocolRule>)]
    pub proxy_protocol_to: Vec<ProxyProtocolRule>,

    /// Unix socket by which `kill`, `rates` and `drain` change something, open to the gateway's user and root; `none`: no socket [default: /run/sluicegate/control.sock for root, else $XDG_RUNTIME_DIR/sluicegate/control.sock]
    #[arg(long, env = "SLUICEGATE_CONTROL", value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// Format of the log on standard error
    #[arg(long, env = "SLUICEGATE_LOG", value_name = "FORMAT", default_value = "text")]
    pub log: LogFormat,

    /// Least severe level that is logged: error, warn, info or debug, which adds port checks and handshakes
    #[arg(long, env = "SLUICEGATE_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// The part that came from a file.
    #[arg(skip)]
    pub sources: ConfigSources,
}

/// The options of `check`.
#[derive(Args, Clone, Debug)]
pub struct Check {
    /// The options of `serve`.
    #[command(flatten)]
    pub serve: Serve,

    /// Print a JSON array of all errors and warnings: severity, option, file, line, message, remedy
    #[arg(long)]
    pub json: bool,

    /// Exit with 2 also when there are only warnings
    #[arg(long)]
    pub strict: bool,
}

impl Serve {
    /// The control socket that was chosen.
    #[must_use]
    pub fn control(&self) -> ControlChoice {
        match &self.control {
            None => ControlChoice::Default,
            Some(path) if path == Path::new("none") => ControlChoice::None,
            Some(path) => ControlChoice::At(path.clone()),
        }
    }
}

/// The options of `explain`.
#[derive(Args, Clone, Debug)]
pub struct Explain {
    /// Addresses and rules.
    #[command(flatten)]
    pub rules: Rules,

    /// Who would ask
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,

    /// Where they would ask from
    #[arg(long, value_name = "IP")]
    pub from: Option<IpAddr>,

    /// The target of the CONNECT
    #[arg(value_name = "HOST:PORT")]
    pub target: String,

    /// The part that came from a file.
    #[arg(skip)]
    pub sources: ConfigSources,
}
