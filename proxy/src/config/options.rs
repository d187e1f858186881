//! Options of the subcommands that read a configuration: `serve`, `check` and `explain`.

use std::convert::Infallible;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;

use crate::dial::LOOKUPS_EACH;
use crate::proxy_protocol::ProxyProtocolRule;
use crate::rate::Rate;
use crate::secret::Secret;
use crate::server::ControlChoice;
use crate::sys::user::RunAs;

use super::addresses::{client, ip};
use super::choices::{Engines, LogFormat, LogLevel, engines};
use super::heading;
use super::rules::{Operation, Rules};
use super::sources::ConfigSources;
use super::values::{SEPARATOR, duration, former_users, network, parsed, positive, secret, size, spin};

/// The options of `serve` and `check`.
#[derive(Args, Clone, Debug)]
pub struct Serve {
    /// Addresses and rules.
    #[command(flatten)]
    pub rules: Rules,

    /// Certificate chain of --listen-tls, PEM
    ///
    /// The certificate of the gateway first, then the intermediate certificates. Reloaded when the
    /// file changes and on SIGHUP; new connections get the new one.
    #[arg(long, env = "SLUICEGATE_TLS_CERT", value_name = "FILE", help_heading = heading::LISTENING)]
    pub tls_cert: Option<PathBuf>,

    /// Private key of --tls-cert, PEM
    ///
    /// Not encrypted: ECDSA (P-256, P-384), Ed25519, or RSA of at least 2048 bits. Reloaded
    /// together with the certificate.
    #[arg(long, env = "SLUICEGATE_TLS_KEY", value_name = "FILE", help_heading = heading::LISTENING)]
    pub tls_key: Option<PathBuf>,

    /// Require a PROXY protocol header from this network; repeatable
    ///
    /// For load balancers that send the client's address, PROXY protocol v1 or v2. Connections from
    /// the network without a header are refused, headers from elsewhere too.
    /// Example: --proxy-protocol-from 10.1.0.0/24
    #[arg(long, env = "SLUICEGATE_PROXY_PROTOCOL_FROM", value_name = "CIDR", value_delimiter = SEPARATOR, value_parser = network, help_heading = heading::LISTENING)]
    pub proxy_protocol_from: Vec<IpNet>,

    /// User and password; repeatable
    ///
    /// Every user of this host can read the arguments of a process: prefer the variable
    /// SLUICEGATE_USER or --users-file.
    #[arg(long, env = "SLUICEGATE_USER", value_name = "NAME:PASSWORD", value_parser = secret, hide_env_values = true, help_heading = heading::USERS)]
    pub user: Vec<Secret>,

    /// Users and password hashes, htpasswd format
    ///
    /// Lines NAME:HASH with bcrypt, SHA-256-crypt or SHA-512-crypt, as `sluicegate hash-password
    /// NAME` or `htpasswd -B` print them. Reloaded when the file changes and on SIGHUP.
    #[arg(long, env = "SLUICEGATE_USERS_FILE", value_name = "FILE", help_heading = heading::USERS)]
    pub users_file: Option<PathBuf>,

    /// Former name of --users-file
    #[arg(long, env = "SLUICEGATE_USERS", value_name = "FILE", hide = true, value_parser = former_users, help_heading = heading::USERS)]
    pub users: Option<Infallible>,

    /// Accept every client without credentials
    #[arg(long, env = "SLUICEGATE_NO_AUTH", help_heading = heading::USERS)]
    pub no_auth: bool,

    /// Local address of outgoing connections; repeatable
    ///
    /// One for IPv4 and one for IPv6. Example: --source 192.0.2.10 --source 2001:db8::10
    #[arg(long, env = "SLUICEGATE_SOURCE", value_name = "ADDR", value_delimiter = SEPARATOR, value_parser = ip, help_heading = heading::TARGETS)]
    pub source: Vec<IpAddr>,

    /// Send a PROXY protocol header to targets; repeatable
    ///
    /// The value is "v1 for RULE" or "v2 for RULE", with a rule as for --allow; the first one that
    /// matches is used. The header carries the client's address. Example: --proxy-protocol-to 'v2
    /// for 10.0.0.0/8:873'
    #[arg(long, env = "SLUICEGATE_PROXY_PROTOCOL_TO", value_name = "RULE", value_delimiter = SEPARATOR, value_parser = parsed::<ProxyProtocolRule>, help_heading = heading::TARGETS)]
    pub proxy_protocol_to: Vec<ProxyProtocolRule>,

    /// Reset a tunnel after this long without activity [default: never]
    ///
    /// Activity is a byte that either peer sent or acknowledged; answered keepalive probes do not
    /// count. The tunnel ends up to a quarter of the time late. Example: --idle-timeout 2h
    #[arg(long, env = "SLUICEGATE_IDLE_TIMEOUT", value_name = "TIME", value_parser = duration, help_heading = heading::LIMITS)]
    pub idle_timeout: Option<Duration>,

    /// Time limit for a client's request
    ///
    /// Also bounds the TLS handshake and the PROXY protocol header, and the whole exchange of an
    /// Upgrade request up to the 101 of the origin.
    #[arg(long, env = "SLUICEGATE_HANDSHAKE_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = duration, help_heading = heading::LIMITS)]
    pub handshake_timeout: Duration,

    /// Time limit for connecting to one address
    ///
    /// All addresses of a target together, or the answer of a parent proxy, may take three times as
    /// long.
    #[arg(long, env = "SLUICEGATE_DIAL_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = duration, help_heading = heading::LIMITS)]
    pub dial_timeout: Duration,

    /// Reset a tunnel whose peer stops answering
    ///
    /// A peer does not answer when for this long it acknowledges neither data nor keepalive nor
    /// window probes (TCP_USER_TIMEOUT); one that answers with a closed window is kept. Detection
    /// takes up to three times as long.
    #[arg(long, env = "SLUICEGATE_USER_TIMEOUT", value_name = "TIME", default_value = "2m", value_parser = duration, help_heading = heading::LIMITS)]
    pub user_timeout: Duration,

    /// Open tunnels in all [default: by the descriptor limit]
    ///
    /// Further requests are answered 503. The default is as many as fit in the hard limit of
    /// descriptors (LimitNOFILE=, ulimit -Hn).
    #[arg(long, env = "SLUICEGATE_MAX_TUNNELS", value_name = "N", value_parser = positive, help_heading = heading::LIMITS)]
    pub max_tunnels: Option<usize>,

    /// Open tunnels of each user [default: no limit]
    #[arg(long, env = "SLUICEGATE_MAX_TUNNELS_PER_USER", value_name = "N", value_parser = positive, help_heading = heading::LIMITS)]
    pub max_tunnels_per_user: Option<usize>,

    /// Open tunnels of each client address [default: no limit]
    ///
    /// IPv6 addresses count by their /64.
    #[arg(long, env = "SLUICEGATE_MAX_TUNNELS_PER_SOURCE", value_name = "N", value_parser = positive, help_heading = heading::LIMITS)]
    pub max_tunnels_per_source: Option<usize>,

    /// Connections being opened of each user [default: max-tunnels / 4]
    ///
    /// Further ones wait in a queue. Without authentication the limit holds for each client
    /// address. The default is a quarter of --max-tunnels.
    #[arg(long, env = "SLUICEGATE_MAX_DIALS_PER_USER", value_name = "N", value_parser = positive, help_heading = heading::LIMITS)]
    pub max_dials_per_user: Option<usize>,

    /// Name look-ups of each user in progress
    ///
    /// Further ones are answered 503. Without authentication the limit holds for each client
    /// address (IPv6: /64). It is at most half of all look-ups, whose number follows from the
    /// descriptor limit (416 at 20000, 1024 at most); with --resolver system it is at most 32.
    #[arg(long, env = "SLUICEGATE_MAX_LOOKUPS_PER_USER", value_name = "N", default_value_t = LOOKUPS_EACH, value_parser = positive, help_heading = heading::LIMITS)]
    pub max_lookups_per_user: usize,

    /// Rate limit of each tunnel [default: no limit]
    ///
    /// In bytes per second with a binary unit (100MiB) or bits per second with a decimal one
    /// (1Gbit), for each direction. The kernel paces the sockets.
    #[arg(long, env = "SLUICEGATE_RATE", value_name = "RATE", value_parser = parsed::<Rate>, help_heading = heading::LIMITS)]
    pub rate: Option<Rate>,

    /// Rate limit of all tunnels of a user together [default: no limit]
    ///
    /// Each open tunnel gets an equal share. Units as for --rate.
    #[arg(long, env = "SLUICEGATE_RATE_PER_USER", value_name = "RATE", value_parser = parsed::<Rate>, help_heading = heading::LIMITS)]
    pub rate_per_user: Option<Rate>,

    /// Engines to try, in this order
    ///
    /// uring, splice, copy or sockmap, separated by commas; auto is uring,splice,copy. The first
    /// one that passes its self-test at start is used; `sluicegate doctor` shows the results.
    /// Example: --engine sockmap,uring
    #[arg(long, env = "SLUICEGATE_ENGINE", value_name = "ENGINE", default_value = "auto", value_delimiter = SEPARATOR, value_parser = engines, help_heading = heading::ENGINES)]
    pub engine: Vec<Engines>,

    /// Longest busy-poll of a worker
    ///
    /// Before it sleeps. Lowers the latency of small messages at the cost of CPU time; workers poll
    /// only while that pays. At most 1ms; 0s turns it off.
    #[arg(long, env = "SLUICEGATE_SPIN", value_name = "TIME", default_value = "50us", value_parser = spin, help_heading = heading::ENGINES)]
    pub spin: Duration,

    /// Unacknowledged bytes sent by sockmap
    ///
    /// For each direction of a tunnel of the engine sockmap, from 64KiB to 256MiB; at least the
    /// bandwidth-delay product of the path. Set net.core.wmem_max to twice as much, so that send
    /// buffers can hold it.
    #[arg(long, env = "SLUICEGATE_SOCKMAP_BACKLOG", value_name = "SIZE", default_value = "16MiB", value_parser = size, help_heading = heading::ENGINES)]
    pub sockmap_backlog: u64,

    /// TCP congestion control [default: the host's]
    ///
    /// For both legs (cubic), or for one with LEG=NAME, where LEG is client or origin.
    /// Example: --congestion-control client=cubic --congestion-control origin=bbr
    #[arg(long, env = "SLUICEGATE_CONGESTION_CONTROL", value_name = "NAME", value_delimiter = SEPARATOR, help_heading = heading::ENGINES)]
    pub congestion_control: Vec<String>,

    /// Configuration file, admin and metrics addresses.
    #[command(flatten)]
    pub operation: Operation,

    /// Unix socket for kill, rates and drain; none for no socket
    ///
    /// Serves the gateway's user and root alone. The default is /run/sluicegate/control.sock for
    /// root and $XDG_RUNTIME_DIR/sluicegate/control.sock for other users.
    #[arg(long, env = "SLUICEGATE_CONTROL", value_name = "PATH", help_heading = heading::OPERATION)]
    pub control: Option<PathBuf>,

    /// Run as this user once the listeners are bound
    ///
    /// Names or numbers; with all groups of the user, or with GROUP alone. The files that are
    /// reloaded must be readable to that user. Example: --run-as nobody:nogroup
    #[arg(long, env = "SLUICEGATE_RUN_AS", value_name = "USER[:GROUP]", value_parser = parsed::<RunAs>, help_heading = heading::OPERATION)]
    pub run_as: Option<RunAs>,

    /// Reset tunnels that outlive SIGTERM by this long [default: never]
    ///
    /// On SIGTERM the gateway accepts no more connections and ends with its last tunnel; a second
    /// SIGTERM resets them at once.
    #[arg(long, env = "SLUICEGATE_DRAIN_TIMEOUT", value_name = "TIME", value_parser = duration, help_heading = heading::OPERATION)]
    pub drain_timeout: Option<Duration>,

    /// Log format: text or json
    ///
    /// The log goes to standard error. json is one flat object per line.
    #[arg(long, env = "SLUICEGATE_LOG", value_name = "FORMAT", default_value = "text", hide_possible_values = true, help_heading = heading::OPERATION)]
    pub log: LogFormat,

    /// Log level: error, warn, info or debug
    ///
    /// debug adds handshakes and connections that close without sending a byte (port probes).
    #[arg(long, env = "SLUICEGATE_LOG_LEVEL", value_name = "LEVEL", default_value = "info", hide_possible_values = true, help_heading = heading::OPERATION)]
    pub log_level: LogLevel,

    /// Settings from the configuration file.
    #[arg(skip)]
    pub sources: ConfigSources,
}

/// The options of `check`.
#[derive(Args, Clone, Debug)]
pub struct Check {
    /// The options of `serve`.
    #[command(flatten)]
    pub serve: Serve,

    /// Print all errors and warnings as a JSON array
    ///
    /// Each element has the members severity, option, file, line, message and remedy.
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Exit with 2 on warnings too
    #[arg(long, help_heading = "Output")]
    pub strict: bool,
}

impl Serve {
    /// The selected control socket.
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
    /// Target of the CONNECT
    #[arg(value_name = "HOST:PORT")]
    pub target: String,

    /// User of the request
    #[arg(long, value_name = "NAME", help_heading = "Request")]
    pub user: Option<String>,

    /// Client address of the request
    #[arg(long, value_name = "IP", value_parser = client, help_heading = "Request")]
    pub from: Option<IpAddr>,

    /// Addresses and rules.
    #[command(flatten)]
    pub rules: Rules,

    /// Configuration file, admin and metrics addresses.
    #[command(flatten)]
    pub operation: Operation,

    /// Settings from the configuration file.
    #[arg(skip)]
    pub sources: ConfigSources,
}
