//! Privileges dropped by the gateway once its listeners are bound: the user at its start,
//! capabilities, and access of other processes to its memory.

use std::path::Path;

use rustix::thread::CapabilitySet;
use tracing::{info, warn};

use super::failure::Failure;
use crate::config::Serve;
use crate::config::error::{ConfigError, ConfigErrors};
use crate::config::settings::Settings;
use crate::file;
use crate::sys::capabilities;

/// Drops the privileges, before the first long-lived thread starts: a thread keeps the capabilities
/// it had at its start. Bound sockets and loaded programs stay usable by their descriptors.
pub(super) fn give_up(options: &Serve, settings: &mut Settings) -> Result<(), Failure> {
    settings.relay.load();
    let mut kept = settings.relay.capabilities();
    if let Some(user) = &options.run_as {
        let refused = |error| {
            let remedy = "start it as root or with CAP_SETUID and CAP_SETGID, or leave --run-as out";
            Failure::Usage(format!("--run-as {user}: cannot become this user: {error}; {remedy}"))
        };
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
    file::serving().map_err(unstarted)?;
    re_readable(options)
}

/// Checks read access to the reloaded files with the remaining privileges.
fn re_readable(options: &Serve) -> Result<(), Failure> {
    let files = [
        ("config", &options.operation.config),
        ("users-file", &options.users_file),
        ("tls-cert", &options.tls_cert),
        ("tls-key", &options.tls_key),
        ("parent-ca", &options.rules.parent_ca),
    ];
    for (option, file) in files.into_iter().filter_map(|(option, file)| Some((option, file.as_deref()?))) {
        // Content of a pipe is not read again.
        let is_file = file::metadata(file).is_ok_and(|metadata| metadata.is_file());
        let error = if is_file { file::try_to_read(file).err() } else { unseen(file) };
        if let Some(error) = error {
            let (who, remedy) = match &options.run_as {
                Some(user) => {
                    (format!("--run-as {user}: "), format!("make it readable to {user}, for example by its group"))
                }
                None => (String::new(), "make it readable to the gateway's user without capabilities".to_owned()),
            };
            let cause = format!("{who}--{option} {} could not be reloaded: {error}", file.display());
            let error = ConfigError::about(option, cause, remedy);
            return Err(ConfigErrors(vec![options.sources.with_location(error)]).into());
        }
    }
    Ok(())
}

/// Returns the error of looking at a file with the remaining privileges, if any.
fn unseen(file: &Path) -> Option<file::ReadError> {
    file::metadata(file).err()
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
