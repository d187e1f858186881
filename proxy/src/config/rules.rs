//! The common options of `serve`, `check` and `explain`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use super::addresses::socket;
use super::choices::ResolverChoice;
use super::heading;
use super::values::{SEPARATOR, secret, trusted_network, word};
use crate::auth::TrustedNetwork;
use crate::dial::SearchDomain;
use crate::policy::Rule;
use crate::secret::Secret;

/// Listeners and rules: the part of the configuration for `explain` as well.
#[derive(Args, Clone, Debug)]
pub struct Rules {
    /// Accept clients here; repeatable [default: 0.0.0.0:3128]
    ///
    /// An IP address and a port, [::]:3128 for all addresses of both families. Names are not
    /// resolved. With --listen-tls alone there is no listener in the clear.
    #[arg(long, env = "SLUICEGATE_LISTEN", value_name = "ADDR:PORT", value_delimiter = SEPARATOR, value_parser = socket, help_heading = heading::LISTENING)]
    pub listen: Vec<SocketAddr>,

    /// Accept clients that speak TLS to the gateway; repeatable
    ///
    /// For clients configured with an https:// proxy URL. Needs --tls-cert and --tls-key. TLS 1.2
    /// and 1.3; the kernel cannot splice such a tunnel, so that the gateway copies its bytes
    /// (engine copy).
    #[arg(long, env = "SLUICEGATE_LISTEN_TLS", value_name = "ADDR:PORT", value_delimiter = SEPARATOR, value_parser = socket, help_heading = heading::LISTENING)]
    pub listen_tls: Vec<SocketAddr>,

    /// Accept clients of this network without credentials; repeatable
    ///
    /// For clients that cannot send a password. Such a client is the user named like the network:
    /// its limits are those of the section [users."10.1.2.0/24"]. The narrowest network counts.
    /// Credentials that are sent are still checked. Example: --no-auth-from 10.1.2.0/24
    #[arg(long, env = "SLUICEGATE_NO_AUTH_FROM", value_name = "CIDR", value_delimiter = SEPARATOR, value_parser = trusted_network, help_heading = heading::USERS)]
    pub no_auth_from: Vec<TrustedNetwork>,

    /// Permit HOST:PORTS; repeatable [default: *:443 *:6443]
    ///
    /// HOST is a name, *.SUFFIX for the names below it, an address, a network in CIDR notation, an
    /// IPv6 address or network in brackets, or * for any. PORTS is a port, a range, a list of those
    /// separated by commas, or *. Loopback, link-local, multicast and cloud metadata addresses need
    /// a rule that names them. Examples: --allow '*.apps.east.example:443' --allow
    /// '10.0.0.0/8:22,8000-8099'
    #[arg(long, env = "SLUICEGATE_ALLOW", value_name = "RULE", value_delimiter = SEPARATOR, value_parser = word::<Rule>, help_heading = heading::TARGETS)]
    pub allow: Vec<Rule>,

    /// Refuse HOST:PORTS, even if permitted; repeatable
    ///
    /// Rules are written as for --allow, and take precedence over them. Example: --deny
    /// '*.internal.example:*'
    #[arg(long, env = "SLUICEGATE_DENY", value_name = "RULE", value_delimiter = SEPARATOR, value_parser = word::<Rule>, help_heading = heading::TARGETS)]
    pub deny: Vec<Rule>,

    /// Name resolution: dns or system
    ///
    /// dns reads /etc/hosts and queries the name servers of /etc/resolv.conf. system calls
    /// getaddrinfo(3) on a thread for each look-up, and so uses the modules of nsswitch.conf (mDNS,
    /// LDAP, sssd). Names are absolute with both: the search list of resolv.conf is not used.
    #[arg(long, env = "SLUICEGATE_RESOLVER", value_name = "KIND", default_value = "dns", hide_possible_values = true, help_heading = heading::TARGETS)]
    pub resolver: ResolverChoice,

    /// Domain of target names without a dot; repeatable
    ///
    /// Completes such names. Names that end in a dot or are listed in /etc/hosts are not completed.
    /// The rules judge the completed name. With several domains, the first one in which the name
    /// exists is used. Example: with --search-domain corp.example the target db:443 is
    /// db.corp.example:443.
    #[arg(long, env = "SLUICEGATE_SEARCH_DOMAIN", value_name = "DOMAIN", value_delimiter = SEPARATOR, value_parser = word::<SearchDomain>, help_heading = heading::TARGETS)]
    pub search_domain: Vec<SearchDomain>,

    /// Dial through this CONNECT proxy; repeatable
    ///
    /// http://USER:PASSWORD@HOST:PORT, https://HOST:PORT, or direct for no proxy, for every target;
    /// followed by " for RULE", for targets of that rule. The first one that matches is used. A
    /// rule with a host name leaves resolving it to the parent. Special characters of the password
    /// are percent-encoded. Example: --parent 'http://proxy.east.example:8080 for
    /// *.east.example:443'
    #[arg(long, env = "SLUICEGATE_PARENT", value_name = "URL[ for RULE]", value_delimiter = SEPARATOR, value_parser = secret, hide_env_values = true, help_heading = heading::PARENTS)]
    pub parent: Vec<Secret>,

    /// CA certificates for https:// parents, PEM [default: the host's]
    #[arg(long, env = "SLUICEGATE_PARENT_CA", value_name = "FILE", help_heading = heading::PARENTS)]
    pub parent_ca: Option<PathBuf>,
}

/// Default address of clients.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 3128);

impl Rules {
    /// Returns the addresses for clients without TLS to the gateway.
    #[must_use]
    pub fn listen(&self) -> Vec<SocketAddr> {
        if self.listen.is_empty() && self.listen_tls.is_empty() { vec![LISTEN] } else { self.listen.clone() }
    }
}

/// The configuration file and the addresses of monitoring, for `explain` as well.
#[derive(Args, Clone, Debug)]
pub struct Operation {
    /// Configuration file, TOML
    ///
    /// Its keys are the long names of the options (max-tunnels = 200); sections [users.NAME] hold
    /// each user's password hashes, targets, networks, expiry and limits. Flags and variables take
    /// precedence over it. User sections are reloaded when the file changes and on SIGHUP; other
    /// settings take effect after a restart.
    #[arg(long, env = "SLUICEGATE_CONFIG", value_name = "FILE", help_heading = heading::OPERATION)]
    pub config: Option<PathBuf>,

    /// Status page, read-only API and metrics
    ///
    /// Serves /, /api, /metrics, /healthz and /readyz. Every client that reaches the address can
    /// read users, clients and targets without a password: keep it on loopback, and give scrapers
    /// and probes --metrics.
    #[arg(long, env = "SLUICEGATE_ADMIN", value_name = "ADDR:PORT", default_value = "127.0.0.1:9128", value_parser = socket, help_heading = heading::OPERATION)]
    pub admin: SocketAddr,

    /// Metrics and health checks alone [default: none]
    ///
    /// Serves /metrics, /healthz and /readyz, for scrapers and probes of other hosts.
    /// Example: --metrics 0.0.0.0:9129
    #[arg(long, env = "SLUICEGATE_METRICS", value_name = "ADDR:PORT", value_parser = socket, help_heading = heading::OPERATION)]
    pub metrics: Option<SocketAddr>,
}

impl Operation {
    /// Addresses of the status page, the API and metrics.
    pub fn readers(&self) -> impl Iterator<Item = &SocketAddr> {
        [&self.admin].into_iter().chain(&self.metrics)
    }
}
