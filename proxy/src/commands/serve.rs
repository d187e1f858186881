//! `serve`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tracing::level_filters::LevelFilter;
use tracing::{info, warn};

use super::failure::Failure;
use super::log::{Flush, Lines};
use super::log_fields::TextFields;
use super::privileges;
use super::reload::ConfigReloader;
use crate::account::{self, Registry};
use crate::admin::{self, Admin, Readiness};
use crate::auth::Authenticator;
use crate::config::error::ConfigErrors;
use crate::config::settings::{Settings, bad_lines};
use crate::config::{LogFormat, LogLevel, Operation, Serve};
use crate::connection::{Gateway, Transport};
use crate::dial::{self, Dialer};
use crate::policy::Policy;
use crate::relay::{Engine, EngineUnavailable, Relay};
use crate::server::{Addresses, Control, ControlChoice, Listeners, Reloader, Server, log_bad_lines};
use crate::sys::socket::is_local_address;
use crate::sys::thread::unthrottled_cpus;

/// Runs the gateway until its end is requested.
///
/// # Errors
/// An unusable configuration (2), or a host unable to run it (1).
pub fn serve(options: &Serve) -> Result<(), Failure> {
    let mut settings = Settings::new(options)?;
    somebody_may_come_in(&settings.authenticator)?;
    // Before the control socket is there, which the user of --run-as may not be able to remove.
    let unreadable = privileges::reload_errors(options).unwrap_or_else(|error| vec![error]);
    if !unreadable.is_empty() {
        return Err(ConfigErrors(unreadable).into());
    }
    let cores = unthrottled_cpus();
    let mut listeners = bind(options, &settings, &cores)?;
    give_control(options, &mut listeners)?;
    privileges::give_up(options, &mut settings)?;
    let _log = start_log(options.log, options.log_level)?;
    log_bad_lines(&settings.authenticator);
    let metrics = admin::recorder();
    let control = Control::new(cores);
    let control = control
        .map_err(|error| Failure::Work(format!("cannot make an event loop: {error}; see `sluicegate doctor`")))?;
    let Bound { plain, tls, admin: admin_address, metrics: metrics_address } = Bound::of(&listeners)?;
    settings.authenticator.start_hashing().map_err(|error| {
        Failure::Work(format!("cannot start a thread for password hashes: {error}; raise pids.max or `ulimit -u`"))
    })?;
    let relay = start_relay(&settings)?;
    let engine = relay.engine().map_or("none", Engine::label);
    let copies = settings.relay.tls && relay.engine() != Some(Engine::Copy);
    account::register_series(&[engine].into_iter().chain(copies.then_some(Engine::Copy.label())).collect::<Vec<_>>());
    dial::register_series(settings.dial.parents());
    let own = plain.iter().chain(&tls).copied().chain([admin_address]).chain(metrics_address).collect();
    let registry = Registry::with_rates(settings.limits, settings.rates);
    registry.publish_limits();
    let readiness = Arc::new(Readiness::default());
    let gateway = Arc::new(Gateway {
        authenticator: match ConfigReloader::of(options) {
            Some(reloader) => settings.authenticator.reading(reloader),
            None => settings.authenticator,
        },
        policy: Policy::new(options.rules.allow.clone(), options.rules.deny.clone(), own, is_local_address),
        dialer: Dialer::new(settings.dial),
        relay,
        certificate: settings.certificate,
        proxy_protocol_from: options.proxy_protocol_from.clone(),
        proxy_protocol_rules: options.proxy_protocol_to.clone(),
        handshake_timeout: options.handshake_timeout,
    });
    let reloader = Reloader::start(gateway.clone(), registry.clone());
    let server = Server {
        gateway,
        registry: registry.clone(),
        readiness: readiness.clone(),
        drain_timeout: options.drain_timeout,
        reloader: reloader.map_err(|error| {
            Failure::Work(format!("cannot start a thread for reloads: {error}; see `sluicegate doctor`"))
        })?,
    };
    let [listen, listen_tls] =
        [&plain, &tls].map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    let listen_tls = Some(listen_tls).filter(|all| !all.is_empty());
    let metrics_listen = metrics_address.map(|address| address.to_string());
    let control_socket = listeners.control.as_ref().map(|socket| socket.path().display().to_string());
    info!(listen, listen_tls, admin = %admin_address, metrics = metrics_listen, control = control_socket, engine, version = env!("CARGO_PKG_VERSION"), "listening");
    say_who_reads(admin_address, metrics_address);
    if let Some(why) = &listeners.no_control {
        warn!("no control socket, so kill, rates and drain cannot reach this gateway: {why}");
    }
    privileges::tell(options);
    if settings.relay.tls {
        info!("tunnels with TLS to the client or the parent are copied in this process (engine copy), and end with it");
    }
    let admin = Admin::new(registry, readiness, metrics);
    let result = control.run(server, listeners, admin);
    result.map_err(|error| Failure::Work(error.to_string()))
}

/// Refuses to start where no line of the users file can be used and there is no other user.
fn somebody_may_come_in(authenticator: &Authenticator) -> Result<(), ConfigErrors> {
    let bad_lines = bad_lines(authenticator);
    if bad_lines.is_empty() || !authenticator.rates().is_empty() { Ok(()) } else { Err(ConfigErrors(bad_lines)) }
}

/// Starts logging on a thread of its own; dropping the guard writes the last lines.
fn start_log(format: LogFormat, level: LogLevel) -> Result<Flush, Failure> {
    let filter = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let (lines, flush) =
        Lines::start(io::stderr()).map_err(|error| Failure::Work(format!("cannot start the log's thread: {error}")))?;
    let log = tracing_subscriber::fmt().with_writer(lines).with_max_level(filter).with_target(false);
    let log = log.log_internal_errors(false);
    match format {
        LogFormat::Text => {
            log.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).fmt_fields(TextFields).init();
        }
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(flush)
}

/// Binds every address and the control socket.
fn bind(options: &Serve, settings: &Settings, cores: &[usize]) -> Result<Listeners, Failure> {
    let plain = options.rules.listen();
    let (listen_tls, Operation { admin, metrics, .. }) = (&options.rules.listen_tls, &options.operation);
    let addresses =
        Addresses { plain: &plain, tls: listen_tls, admin: *admin, metrics: *metrics, control: options.control() };
    Listeners::bind(&addresses, &settings.client_leg, cores).map_err(Failure::Work)
}

/// Changes the owner of the control socket to the user of `--run-as`.
fn give_control(options: &Serve, listeners: &mut Listeners) -> Result<(), Failure> {
    let (Some(user), Some(socket)) = (&options.run_as, &listeners.control) else { return Ok(()) };
    let Err(error) = socket.give_to(user.uid(), user.gid()) else { return Ok(()) };
    let path = socket.path().display();
    let why = format!("--control {path}: cannot be owned by {user}: {error}; start with CAP_CHOWN, or --control none");
    if options.control() != ControlChoice::Default {
        return Err(Failure::Work(why));
    }
    (listeners.control, listeners.no_control) = (None, Some(why));
    Ok(())
}

/// Logs the access to admin and metrics addresses open to other hosts.
fn say_who_reads(admin: SocketAddr, metrics: Option<SocketAddr>) {
    let others = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
    if others(&admin) {
        warn!(
            %admin,
            "every client that reaches the admin address can read users, clients, targets, rates and metrics without a \
             password: keep it on loopback, and use --metrics ADDR:PORT for scrapers and probes"
        );
    }
    if let Some(metrics) = metrics.filter(others) {
        info!(%metrics, "every client that reaches the metrics address can read metrics, with the names of users and parents, and health");
    }
}

/// Bound addresses, with the ports chosen by the kernel for port 0.
struct Bound {
    plain: Vec<SocketAddr>,
    tls: Vec<SocketAddr>,
    admin: SocketAddr,
    metrics: Option<SocketAddr>,
}

impl Bound {
    fn of(listeners: &Listeners) -> Result<Self, Failure> {
        let all = listeners.client_addresses(Transport::Plain).and_then(|plain| {
            Ok(Self {
                plain,
                tls: listeners.client_addresses(Transport::Tls)?,
                admin: listeners.admin_address()?,
                metrics: listeners.metrics_address()?,
            })
        });
        all.map_err(|error| Failure::Work(error.to_string()))
    }
}

fn start_relay(settings: &Settings) -> Result<Relay, Failure> {
    let said =
        |unavailable: &[EngineUnavailable]| unavailable.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let relay = Relay::start(&settings.relay).map_err(|unfit| {
        Failure::Work(format!(
            "no engine of --engine works on this host ({}); see `sluicegate doctor`, or use --engine auto",
            said(&unfit)
        ))
    })?;
    for unfit in &relay.unavailable {
        let what = unfit.what();
        warn!(engine = %unfit.engine, what, error = %unfit.error, "an engine failed its self-test and is not used; see `sluicegate doctor`");
    }
    Ok(relay)
}
