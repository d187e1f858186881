//! Privileges dropped by the gateway once its listeners are bound: the user at its start,
//! capabilities, and access of other processes to its memory.

use std::io;

use rustix::thread::CapabilitySet;
use tracing::{info, warn};

use super::failure::Failure;
use crate::config::Serve;
use crate::config::error::ConfigError;
use crate::config::settings::Settings;
use crate::file;
use crate::sys::capabilities;
use crate::sys::user::RunAs;

/// Drops the privileges, before the first long-lived thread starts: a thread keeps the capabilities
/// it had at its start. Bound sockets and loaded programs stay usable by their descriptors.
pub(super) fn give_up(options: &Serve, settings: &mut Settings) -> Result<(), Failure> {
    settings.relay.load();
    let mut kept = settings.relay.capabilities();
    if let Some(user) = &options.run_as {
        let refused = |error| Failure::Usage(cannot_become(user, &error).to_string());
        capabilities::survive_change_of_user().and_then(|()| user.become_user()).map_err(refused)?;
    }
    let failed = |error| Failure::Work(format!("cannot drop capabilities: {error}; see `dmesg`"));
    // Tried with only the capabilities to keep; the others can still be regained here.
    let legs = capabilities::with_only(kept, || {
        settings.client_leg.try_again().and_then(|()| settings.dial.leg().try_again())
    });
    if let Err(error) = legs.map_err(failed)? {
        if settings.relay.program.is_some() {
            let why = "(--engine sockmap drops capabilities)";
            return Err(Failure::Usage(format!("--congestion-control: {error} {why}")));
        }
        kept |= CapabilitySet::NET_ADMIN;
    }
    capabilities::keep_only(kept).map_err(failed)?;
    // Once more: a change of user undid it.
    capabilities::conceal_memory().map_err(failed)?;
    let unstarted = |error| Failure::Work(format!("cannot start a thread for reading files: {error}; see `ulimit -u`"));
    file::serving().map_err(unstarted)
}

/// Errors of the files that could not be re-read with the privileges that are left while the
/// gateway serves. A thread that has no others tries, so that `check` can ask as well as `serve`,
/// which asks before anything is bound that another user could not remove.
///
/// # Errors
/// It could not be tried, most often since the process may not become the user of `--run-as`.
pub(super) fn reload_errors(options: &Serve) -> Result<Vec<ConfigError>, ConfigError> {
    let files = [
        ("config", &options.operation.config),
        ("users-file", &options.users_file),
        ("tls-cert", &options.tls_cert),
        ("tls-key", &options.tls_key),
        ("parent-ca", &options.rules.parent_ca),
    ];
    let files: Vec<_> = files.into_iter().filter_map(|(option, file)| Some((option, file.clone()?))).collect();
    let user = options.run_as.clone();
    let prepare = move || {
        user.map_or(Ok(()), |user| user.become_user_in_thread())?;
        capabilities::keep_only(CapabilitySet::empty())
    };
    let tried = file::try_to_read(files.iter().map(|(_, file)| file.clone()).collect(), prepare);
    let tried = tried.map_err(|error| options.sources.with_location(not_tried(options, &error)))?;
    let refused = files.iter().zip(tried).filter_map(|((option, file), tried)| Some((*option, file, tried.err()?)));
    let errors = refused.map(|(option, file, error)| {
        let (who, remedy) = match &options.run_as {
            Some(user) => {
                (format!("--run-as {user}: "), format!("make it readable to {user}, for example by its group"))
            }
            None => (String::new(), "make it readable to the gateway's user without capabilities".to_owned()),
        };
        let cause = format!("{who}--{option} {} could not be reloaded: {error}", file.display());
        options.sources.with_location(ConfigError::about(option, cause, remedy))
    });
    Ok(errors.collect())
}

fn not_tried(options: &Serve, error: &io::Error) -> ConfigError {
    match &options.run_as {
        Some(user) => cannot_become(user, error),
        None => ConfigError::new(
            format!("whether the files can be reloaded cannot be checked: {error}"),
            "see `ulimit -u` and `dmesg`",
        ),
    }
}

fn cannot_become(user: &RunAs, error: &io::Error) -> ConfigError {
    let remedy = "start it as root or with CAP_SETUID and CAP_SETGID, or leave --run-as out";
    ConfigError::about("run-as", format!("--run-as {user}: cannot become this user: {error}"), remedy)
}

/// Logs the remaining privileges.
pub(super) fn tell(options: &Serve) {
    if let Some(user) = &options.run_as {
        let (user, uid, gid) = (user.to_string(), user.uid(), user.gid());
        info!(user, uid, gid, "privileges dropped");
    }
    if let Some((cause, remedy)) = capabilities::root_warning() {
        warn!("{cause}; {remedy}");
    }
}
