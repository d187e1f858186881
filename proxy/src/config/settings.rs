//! The parts of a gateway as the options together describe them, checked before anything is opened.

use super::choices::Engines;
use super::error::{ConfigError, ConfigErrors, Location};
use super::file;
use super::options::Serve;
use super::rules::{Operation, Rules};
use crate::account::{Limits, Rates};
use crate::auth::{Authenticator, Entry, Place, Users, UsersError, parse_user};
use crate::dial::{self, Parent, Parents};
use crate::invalid_value::InvalidValue;
use crate::relay;
use crate::server::descriptors;
use crate::sys::socket::{Leg, LegOptions, is_local_address};
use crate::target::Host;
use crate::tls::{PairError, ServerCertificate};

/// A checked configuration.
#[derive(Debug)]
pub struct Settings {
    /// Users and their credentials.
    pub authenticator: Authenticator,
    /// Options of dialling origins.
    pub dial: dial::Options,
    /// Certificate of `--listen-tls`.
    pub certificate: Option<ServerCertificate>,
    /// Options of the engines.
    pub relay: relay::Options,
    /// Options of the clients' sockets.
    pub client_leg: LegOptions,
    /// Tunnels at once.
    pub limits: Limits,
    /// Rate limits.
    pub rates: Rates,
}

/// Part of the tunnels that one user may be opening at a time, unless told otherwise: targets that
/// do not answer hold slots, and other users need some.
const DIALS_SHARE: usize = 4;

impl Settings {
    /// Checks `serve`'s options.
    ///
    /// # Errors
    /// All that is wrong with them, those of reading them included, in the order of the file.
    pub fn new(options: &Serve) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors(options.sources.errors.clone());
        let settings = Self::checked(options, &mut errors);
        match settings.filter(|_| errors.0.is_empty()) {
            Some(settings) => Ok(settings),
            None => {
                let mut errors: Vec<_> =
                    errors.0.into_iter().map(|error| options.sources.with_location(error)).collect();
                errors.sort_by(|one, other| key(one).cmp(&key(other)));
                errors.dedup();
                Err(ConfigErrors(errors))
            }
        }
    }

    fn checked(options: &Serve, errors: &mut ConfigErrors) -> Option<Self> {
        let refused = Refused::of(&errors.0);
        errors.0.extend(not_distinct(options));
        let listeners = options.rules.listen.len() + options.rules.listen_tls.len();
        let division = descriptors::divide(options.max_tunnels, descriptors::raise(), listeners);
        let division = errors.collect(division.map_err(|error| ConfigError::of("max-tunnels", error)));
        division.iter().for_each(descriptors::Division::apply);
        let tunnels = division.map_or(1, |division| division.tunnels);
        let certificate = certificate(options, &refused).map_err(|found| errors.0.extend(found.0)).ok();
        let parents = parents(&options.rules, &options.operation).map_err(|found| errors.0.extend(found.0)).ok();
        let authenticator = authenticator(options, &refused, errors);
        let tls = matches!(certificate, Some(Some(_))) || parents.as_ref().is_some_and(Parents::speak_tls);
        let relay = relay::Options {
            engines: Engines::of(&options.engine),
            idle_timeout: options.idle_timeout,
            user_timeout: options.user_timeout,
            spin: options.spin,
            sockmap_backlog: options.sockmap_backlog,
            tunnels,
            tls,
            ..relay::Options::default()
        };
        let leg = |which| leg(options, which, relay.send_buffer());
        let mut leg = |which| leg(which).map_err(|found| errors.0.extend(found.0)).ok();
        let (client_leg, origin_leg) = (leg(Leg::Client), leg(Leg::Origin));
        let dial = dial::Options::new(options.dial_timeout, &options.source, origin_leg.unwrap_or_default());
        let of_source = |error| ConfigError::of("source", error);
        let dial = dial.map_err(|found| errors.0.extend(found.into_iter().map(of_source))).ok();
        let dial = dial.zip(parents).and_then(|(dial, parents)| {
            let through = dial.through(parents, options.rules.parent_ca.as_deref());
            errors.collect(through.map_err(|error| ConfigError::of("parent-ca", error)))
        });
        let authenticator = authenticator?;
        if !errors.0.is_empty() {
            // They alone do not keep a gateway from starting, and are named after it has started.
            errors.0.extend(bad_lines(&authenticator));
        }
        let users = authenticator.rates();
        Some(Self {
            authenticator,
            rates: Rates { tunnel: options.rate, user: options.rate_per_user, users },
            dial: dial?.resolving(
                options.rules.resolver.into(),
                options.rules.search_domain.clone(),
                options.max_lookups_per_user,
            ),
            certificate: certificate?,
            client_leg: client_leg?,
            relay,
            limits: Limits {
                tunnels,
                per_user: options.max_tunnels_per_user,
                per_source: options.max_tunnels_per_source,
                handshakes: division?.handshakes,
                dials_per_user: options.max_dials_per_user.unwrap_or((tunnels / DIALS_SHARE).max(1)),
            },
        })
    }
}

/// Errors of the command line and the environment come first, then those of files by their lines.
fn key(error: &ConfigError) -> Option<(&std::path::Path, Option<usize>)> {
    error.location.as_ref().map(|location| (location.file.as_path(), location.line))
}

/// The options about which an error is known already. They are absent here though they were given,
/// so that their absence is no error of its own.
struct Refused(Vec<String>);

impl Refused {
    fn of(errors: &[ConfigError]) -> Self {
        let option = |error: &ConfigError| error.option.as_deref().unwrap_or(file::WHOLE).to_owned();
        Self(errors.iter().map(option).collect())
    }

    /// True if one of these options was given and refused, or may have been: under a name that is
    /// mistyped, or in a file that could not be read.
    fn any(&self, options: &[&str]) -> bool {
        self.0.iter().any(|refused| {
            let name = refused.split('.').next().unwrap_or_default();
            name == file::WHOLE || options.iter().any(|option| file::is_alike(name, option))
        })
    }
}

fn authenticator(options: &Serve, refused: &Refused, errors: &mut ConfigErrors) -> Option<Authenticator> {
    let mut users = Vec::new();
    for (place, text) in options.user.iter().enumerate() {
        let text = std::str::from_utf8(text.expose());
        let text = text.map_err(|_| ConfigError::about("user", "--user: not UTF-8", "write it as UTF-8"));
        let user = text.and_then(|text| parse_user(text).map_err(|error| of_users("user", &error)));
        // The values themselves hold passwords.
        let user = user.map_err(|error| match error.cause.strip_prefix("--user: ") {
            Some(cause) if options.user.len() > 1 => {
                ConfigError { cause: format!("--user, number {}: {cause}", place + 1), ..error }
            }
            _ => error,
        });
        users.extend(errors.collect(user));
    }
    let entries = options.sources.users.clone();
    let networks = options.rules.no_auth_from.clone();
    let has_passwords =
        !options.user.is_empty() || options.users_file.is_some() || entries.iter().any(Entry::has_password);
    let has_users = has_passwords || !networks.is_empty();
    let no_auth = |cause: &str| ConfigError::about("no-auth", cause, "remove one of the two");
    if options.no_auth {
        let contradiction = match (has_passwords, has_users, entries.is_empty()) {
            (true, ..) => Some("--no-auth accepts every client, but users are configured".to_owned()),
            (_, true, _) => Some("--no-auth accepts every client, but --no-auth-from names networks".to_owned()),
            (.., false) => Some("--no-auth accepts every client, but [users] limits users".to_owned()),
            _ => limits_of_users(options).map(|option| format!("{option} needs users, but --no-auth is set")),
        };
        errors.0.extend(contradiction.map(|cause| no_auth(&cause)));
    } else if !has_users && !refused.any(&["user", "users", "users-file", "no-auth", "no-auth-from"]) {
        errors.0.push(ConfigError::new(
            "no users are configured",
            "set --users-file FILE or SLUICEGATE_USER=name:password, or --no-auth to accept every client",
        ));
    }
    if users.is_empty() && options.users_file.is_none() && entries.is_empty() && networks.is_empty() {
        // Without users, or none of those given can be used.
        return options.no_auth.then(Authenticator::open);
    }
    // Beside --no-auth as well, for the errors of the file.
    let authenticator =
        Authenticator::new(Users { inline: users, file: options.users_file.clone(), entries, networks });
    errors.collect(authenticator.map_err(|error| of_users("users-file", &error)))
}

/// Errors of the ignored lines of the users file.
#[must_use]
pub fn bad_lines(authenticator: &Authenticator) -> Vec<ConfigError> {
    authenticator.bad_lines().iter().map(|error| of_users("users-file", error)).collect()
}

/// An error about users, which names its place itself.
fn of_users(option: &str, error: &UsersError) -> ConfigError {
    let about = |cause: String| ConfigError::about(option, cause, error.remedy());
    match error.place() {
        Place::Named(name) => about(format!("{name}: {}", error.cause())),
        Place::File(file, line) => about(error.cause().to_owned()).at(Location { file: file.clone(), line: *line }),
    }
}

/// An option that only means something where there are users.
fn limits_of_users(options: &Serve) -> Option<&'static str> {
    let set = [
        ("--rate-per-user", options.rate_per_user.is_some()),
        ("--max-tunnels-per-user", options.max_tunnels_per_user.is_some()),
    ];
    set.into_iter().find_map(|(option, is_set)| is_set.then_some(option))
}

/// The certificate, where clients speak TLS.
fn certificate(options: &Serve, refused: &Refused) -> Result<Option<ServerCertificate>, ConfigErrors> {
    let wrong = |option: &str, cause: &str, remedy: &str| {
        let is_known = refused.any(&["listen-tls", "tls-cert", "tls-key"]);
        Err(ConfigErrors(if is_known { Vec::new() } else { vec![ConfigError::about(option, cause, remedy)] }))
    };
    match (&options.rules.listen_tls[..], &options.tls_cert, &options.tls_key) {
        ([], None, None) => Ok(None),
        ([_, ..], Some(certificate), Some(key)) => {
            ServerCertificate::load(certificate, key).map(Some).map_err(|errors| {
                let of = |PairError { half, error }| ConfigError::of(half.option(), error);
                ConfigErrors(errors.into_iter().map(of).collect())
            })
        }
        ([], certificate, _) => {
            let option = if certificate.is_some() { "tls-cert" } else { "tls-key" };
            let cause = "--tls-cert and --tls-key need --listen-tls ADDR:PORT";
            wrong(option, cause, "add it, or remove them")
        }
        (_, None, _) => wrong("listen-tls", "--listen-tls has no certificate", "add --tls-cert FILE"),
        (_, _, None) => wrong("listen-tls", "--listen-tls has no key", "add --tls-key FILE, the key of --tls-cert"),
    }
}

fn leg(options: &Serve, leg: Leg, send_buffer: usize) -> Result<LegOptions, ConfigErrors> {
    let values: Vec<_> =
        options.congestion_control.iter().flat_map(|value| value.split(',')).map(str::to_owned).collect();
    let of = |values: &[String]| LegOptions::new(leg, values, options.user_timeout);
    let whole = match of(&values) {
        Ok(leg) => return Ok(LegOptions { send_buffer, ..leg }),
        Err(error) => error,
    };
    let mut errors: Vec<_> = values.chunks(1).filter_map(|value| of(value).err()).collect();
    if errors.is_empty() {
        // Each is sound, and together they contradict each other.
        errors.push(whole);
    }
    let about = |error: InvalidValue| ConfigError::of("congestion-control", error.of("--congestion-control"));
    Err(ConfigErrors(errors.into_iter().map(about).collect()))
}

/// The parents, none of which is this gateway.
///
/// # Errors
/// Every one that cannot be used.
pub fn parents(rules: &Rules, operation: &Operation) -> Result<Parents, ConfigErrors> {
    let parents = Parents::new(&rules.parent)
        .map_err(|errors| ConfigErrors(errors.into_iter().map(|error| ConfigError::of("parent", error)).collect()))?;
    let listen = rules.listen();
    let is_own = |parent: &Parent| match parent.target.host {
        Host::Name(_) => false,
        Host::Address(address) => listen.iter().chain(&rules.listen_tls).chain(operation.readers()).any(|own| {
            let here = own.ip() == address || own.ip().is_unspecified() && is_local_address(address);
            own.port() == parent.target.port && here
        }),
    };
    let own = parents.all().filter(|parent| is_own(parent)).map(|own| {
        let cause = format!("--parent {} is a listener of this gateway: requests would loop", own.url());
        ConfigError::about("parent", cause, "name another proxy, or leave it out")
    });
    let own: Vec<_> = own.collect();
    if own.is_empty() { Ok(parents) } else { Err(ConfigErrors(own)) }
}

/// Every address that is given for two listeners.
fn not_distinct(options: &Serve) -> Vec<ConfigError> {
    let Serve { rules, operation: Operation { admin, metrics, .. }, .. } = options;
    let listen = rules.listen();
    let named = listen.iter().map(|address| ("listen", address));
    let named = named.chain(rules.listen_tls.iter().map(|address| ("listen-tls", address)));
    let named = named.chain([("admin", admin)]).chain(metrics.iter().map(|address| ("metrics", address)));
    let named: Vec<_> = named.filter(|(_, address)| address.port() != 0).collect();
    let twice = named.iter().enumerate().filter_map(|(index, (option, address))| {
        let (first, _) = named[..index].iter().find(|(_, other)| other == address)?;
        let cause = format!("--{option} {address} is used twice, first by --{first}");
        Some(ConfigError::about(option, cause, "give each listener a port of its own"))
    });
    twice.collect()
}
