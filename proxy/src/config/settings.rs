//! What the options mean together: the parts of a gateway, checked, before anything is opened.

use super::{EngineChoice, Rules, Serve};
use crate::account::{Limits, Rates};
use crate::auth::{Authenticator, Entry, parse_user};
use crate::dial::{self, Parent, Parents};
use crate::relay;
use crate::server::descriptors;
use crate::sys::socket::{Leg, LegOptions, is_local_address};
use crate::target::Host;
use crate::tls::Identity;

/// A checked configuration.
#[derive(Debug)]
pub struct Settings {
    /// Who may come in.
    pub authenticator: Authenticator,
    /// How origins are dialled.
    pub dial: dial::Options,
    /// What clients of `--listen-tls` are shown.
    pub identity: Option<Identity>,
    /// How bytes are moved.
    pub relay: relay::Options,
    /// Options of the clients' sockets.
    pub client_leg: LegOptions,
    /// Tunnels at once.
    pub limits: Limits,
    /// How fast they may be.
    pub rates: Rates,
}

/// Connections that one user may have opened at a time, unless told otherwise: a quarter of the tunnels,
/// and no less than so many, which is as much as a migration needs to open its volumes at once.
const DIALS: usize = 64;
const DIALS_SHARE: usize = 4;

impl Settings {
    /// Checks `serve`'s options.
    ///
    /// # Errors
    /// Cause and remedy, in a line.
    pub fn new(options: &Serve) -> Result<Self, String> {
        Self::checked(options).map_err(|error| options.origins.blame(error))
    }

    fn checked(options: &Serve) -> Result<Self, String> {
        distinct(&options.rules)?;
        let division = descriptors::divide(options.max_tunnels, descriptors::raise())?;
        division.apply();
        let tunnels = division.tunnels;
        let limits = Limits {
            tunnels,
            per_user: options.max_tunnels_per_user,
            per_source: options.max_tunnels_per_source,
            handshakes: division.handshakes,
            dials_per_user: options.max_dials_per_user.unwrap_or(tunnels.min(DIALS.max(tunnels / DIALS_SHARE))),
        };
        let (identity, parents) = (identity(options)?, parents(&options.rules)?);
        let relay = relay::Options {
            engines: EngineChoice::expand(&options.engine),
            idle_timeout: options.idle_timeout,
            user_timeout: options.user_timeout,
            spin: options.spin,
            sockmap_backlog: options.sockmap_backlog,
            tunnels: limits.tunnels,
            tls: identity.is_some() || parents.speak_tls(),
            ..relay::Options::default()
        };
        let leg = |which| leg(options, which, relay.send_buffer());
        let authenticator = authenticator(options)?;
        let users = authenticator.rates();
        Ok(Self {
            authenticator,
            rates: Rates { tunnel: options.rate, user: options.rate_per_user, users },
            dial: dial::Options::new(options.dial_timeout, &options.source, leg(Leg::Origin)?)?
                .through(parents, options.rules.parent_ca.as_deref())?,
            identity,
            client_leg: leg(Leg::Client)?,
            relay,
            limits,
        })
    }
}

fn authenticator(options: &Serve) -> Result<Authenticator, String> {
    let users = options.user.iter().map(|text| {
        let text = std::str::from_utf8(text.expose()).map_err(|_| "--user: not UTF-8".to_owned())?;
        parse_user(text).map_err(|error| error.to_string())
    });
    let users = users.collect::<Result<Vec<_>, String>>()?;
    let entries = options.origins.users.clone();
    let nobody = users.is_empty() && options.users_file.is_none() && !entries.iter().any(Entry::has_password);
    match (options.no_auth, nobody) {
        (true, true) if entries.is_empty() => match of_users(options) {
            Some(option) => Err(format!("--no-auth knows no users, whom {option} is for: leave one of the two out")),
            None => Ok(Authenticator::open()),
        },
        (true, true) => {
            Err("--no-auth lets everybody in, but [users] says what some may: leave one of the two out".into())
        }
        (true, false) => Err("--no-auth lets everybody in, but there are users: leave one of the two out".into()),
        (false, true) => {
            Err("nobody may come in: name users by --users-file FILE or SLUICEGATE_USER=name:password, or say \
                              --no-auth if everybody who reaches this gateway may use it"
                .into())
        }
        (false, false) => {
            Authenticator::new(users, options.users_file.clone(), entries).map_err(|error| error.to_string())
        }
    }
}

/// An option that is about users and nobody else.
fn of_users(options: &Serve) -> Option<&'static str> {
    let set = [
        ("--rate-per-user", options.rate_per_user.is_some()),
        ("--max-tunnels-per-user", options.max_tunnels_per_user.is_some()),
    ];
    set.into_iter().find_map(|(option, is_set)| is_set.then_some(option))
}

/// The certificate, where clients speak TLS.
fn identity(options: &Serve) -> Result<Option<Identity>, String> {
    match (&options.rules.listen_tls[..], &options.tls_cert, &options.tls_key) {
        ([], None, None) => Ok(None),
        ([_, ..], Some(certificate), Some(key)) => Identity::load(certificate, key).map(Some),
        ([], ..) => Err("--tls-cert and --tls-key are for --listen-tls ADDR:PORT: add that, or leave them out".into()),
        (_, None, _) => Err("--listen-tls needs --tls-cert FILE, the certificate that clients are shown".into()),
        (_, _, None) => Err("--listen-tls needs --tls-key FILE, the key of --tls-cert".into()),
    }
}

fn leg(options: &Serve, leg: Leg, send_buffer: usize) -> Result<LegOptions, String> {
    let leg = LegOptions::new(leg, &options.congestion_control, options.user_timeout);
    leg.map(|leg| LegOptions { send_buffer, ..leg }).map_err(|error| format!("--congestion-control: {error}"))
}

/// The parents, none of which is this gateway.
///
/// # Errors
/// Cause and remedy, in a line.
pub fn parents(rules: &Rules) -> Result<Parents, String> {
    let parents = Parents::new(&rules.parent)?;
    let listen = rules.listen();
    let is_own = |parent: &Parent| match parent.target.host {
        Host::Name(_) => false,
        Host::Address(address) => listen.iter().chain(&rules.listen_tls).chain([&rules.admin]).any(|own| {
            let here = own.ip() == address || own.ip().is_unspecified() && is_local_address(address);
            own.port() == parent.target.port && here
        }),
    };
    if let Some(own) = parents.all().find(|parent| is_own(parent)) {
        return Err(format!("--parent {} is a listener of this gateway: a tunnel would never end", own.url()));
    }
    Ok(parents)
}

fn distinct(rules: &Rules) -> Result<(), String> {
    let listen = rules.listen();
    let listen = listen.iter().chain(&rules.listen_tls);
    let mut all: Vec<_> = listen.chain([&rules.admin]).filter(|address| address.port() != 0).collect();
    all.sort_unstable();
    match all.windows(2).find(|two| two[0] == two[1]) {
        Some(two) => Err(format!(
            "{} is named twice among --listen, --listen-tls and --admin: each needs a port of its own",
            two[0]
        )),
        None => Ok(()),
    }
}
