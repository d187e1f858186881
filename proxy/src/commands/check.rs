//! `check`: validates a configuration, and warns of what is probably not as it was meant.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::failure::{Failure, print};
use super::privileges;
use crate::account::sanitize;
use crate::admin::ControlSocket;
use crate::auth::{Entry, Place};
use crate::config::error::{ConfigError, ConfigErrors, Location, Severity};
use crate::config::settings::{Settings, bad_lines};
use crate::config::{Check, Serve};
use crate::file;
use crate::secret::Secret;
use crate::server::ControlChoice;
use crate::sys::capabilities;

/// Remaining time from which on a user is about to expire.
const SOON: Duration = Duration::from_hours(24 * 30);

/// Validates a configuration and prints what it comes to, or what is wrong with it.
///
/// # Errors
/// The errors of `serve`, and with `--strict` the warnings as well (2).
pub(super) fn run(options: &Check) -> Result<(), Failure> {
    let (settings, mut findings) = match Settings::new(&options.serve) {
        Ok(settings) => (Some(settings), Vec::new()),
        Err(errors) => (None, errors.0),
    };
    findings.extend(settings.iter().flat_map(|settings| bad_lines(&settings.authenticator)));
    findings.extend(control_error(&options.serve));
    // Only of files that could be read as the user that this is.
    let reload = settings.as_ref().map_or(Ok(Vec::new()), |_| privileges::reload_errors(&options.serve));
    let untried = reload.as_ref().err().map(|error| ConfigError { severity: Severity::Warning, ..error.clone() });
    findings.extend(reload.unwrap_or_default());
    let usable = settings.is_some() && findings.is_empty();
    findings.extend(untried);
    findings.extend(warnings(&options.serve, settings.as_ref(), SystemTime::now()));
    if options.json {
        print(serde_json::to_string_pretty(&findings).map_err(|error| Failure::Work(error.to_string())))?;
        let passes = usable && (findings.is_empty() || !options.strict);
        // All is said.
        return if passes { Ok(()) } else { Err(Failure::Usage(String::new())) };
    }
    if let Some(settings) = settings.as_ref().filter(|_| usable) {
        print(Ok::<_, Failure>(summary(&options.serve, settings)))?;
    }
    let warnings = findings.iter().filter(|finding| finding.severity == Severity::Warning).count();
    let mut text = ConfigErrors(findings).to_string();
    if usable && warnings == 0 {
        return Ok(());
    }
    if usable && !options.strict {
        for line in text.lines() {
            let _ = writeln!(std::io::stderr(), "sluicegate: {line}");
        }
        return Ok(());
    }
    if usable {
        let _ = write!(text, "\n--strict: {warnings} warning{}", if warnings == 1 { "" } else { "s" });
    }
    Err(Failure::Usage(text))
}

/// Why no control socket can be made at the path of `--control`, as far as the path tells.
fn control_error(options: &Serve) -> Option<ConfigError> {
    let ControlChoice::At(path) = options.control() else { return None };
    let error = ControlSocket::check(&path).err()?;
    Some(options.sources.with_location(ConfigError::of("control", error.invalid())))
}

/// The outcome of a sound configuration, in a line.
fn summary(options: &Serve, settings: &Settings) -> String {
    let users = match settings.authenticator.users() {
        _ if settings.authenticator.is_open() => "no authentication".to_owned(),
        1 => "1 user".to_owned(),
        users => format!("{users} users"),
    };
    let networks = options.rules.no_auth_from.iter().map(|network| format!(", no credentials from {}", network.name()));
    let networks: String = networks.collect();
    let listen = options.rules.listen().into_iter().chain(options.rules.listen_tls.iter().copied());
    let listen = listen.map(|address| address.to_string()).collect::<Vec<_>>().join(" ");
    format!(
        "The configuration is valid: {users}{networks}, up to {} tunnels, listening on {listen}.",
        settings.limits.tunnels
    )
}

/// Settings that are probably not as they were meant; `settings` are absent where something is
/// wrong.
fn warnings(options: &Serve, settings: Option<&Settings>, now: SystemTime) -> Vec<ConfigError> {
    let mut warnings = Vec::new();
    for entry in &options.sources.users {
        let known = settings.is_none_or(|settings| settings.authenticator.knows(entry.name()));
        warnings.extend(of_user(entry, known, now));
    }
    let certificate = settings.and_then(|settings| settings.certificate.as_ref());
    let validity = certificate.and_then(|certificate| certificate.validity_warning(now));
    warnings.extend(validity.map(|(cause, remedy)| ConfigError::warning("tls-cert", cause, remedy)));
    warnings.extend(options.tls_key.as_deref().and_then(|file| mode("tls-key", file, true)));
    warnings.extend(options.users_file.as_deref().and_then(|file| mode("users-file", file, true)));
    warnings.extend(options.operation.config.as_deref().and_then(|file| mode("config", file, holds_secrets(options))));
    warnings.extend(open_to_others(options));
    let root = capabilities::root_warning().filter(|_| options.run_as.is_none());
    warnings.extend(root.map(|(cause, remedy)| ConfigError::warning("run-as", cause, remedy)));
    warnings.extend(options.rules.no_auth_from.iter().filter(|network| network.is_everything()).map(|network| {
        let cause = format!("--no-auth-from {}: every client of that address family needs no password", network.name());
        ConfigError::warning("no-auth-from", cause, "name the networks of the clients that cannot send one")
    }));
    warnings.extend(shown_to_others(options));
    warnings.extend(options.user.iter().filter_map(list_of_users));
    warnings.into_iter().map(|warning| options.sources.with_location(warning)).collect()
}

/// Warnings about one user. `known`: the user has a password somewhere.
fn of_user(entry: &Entry, known: bool, now: SystemTime) -> Vec<ConfigError> {
    let name = entry.name();
    let warning = |setting: &str, cause: String, remedy| {
        let warning = ConfigError::warning(&format!("users.{name}{setting}"), cause, remedy);
        match entry.place() {
            Place::File(file, line) => warning.at(Location { file: file.clone(), line: *line }),
            Place::Named(_) => warning,
        }
    };
    let mut warnings = Vec::new();
    if !known {
        let cause = format!("user '{name}' has no password, here or in --users-file or --user");
        warnings.push(warning("", cause, "add passwords, or remove the section"));
    }
    let user_policy = entry.user_policy();
    let left = user_policy.expires.and_then(|expires| expires.duration_since(now).ok());
    if user_policy.has_expired(now) {
        let cause = format!("user '{name}' has expired: every request of the user is refused");
        warnings.push(warning(".expires", cause, "set another time, or remove the section"));
    } else if left.is_some_and(|left| left < SOON) {
        let until = user_policy.expires.map(humantime::format_rfc3339_seconds);
        let cause = format!("user '{name}' expires at {}", until.map(|until| until.to_string()).unwrap_or_default());
        warnings.push(warning(".expires", cause, "set another time if that is too soon"));
    }
    warnings
}

/// The file itself holds passwords, or hashes of them.
fn holds_secrets(options: &Serve) -> bool {
    let parents = || options.rules.parent.iter().any(|parent| parent.expose().contains(&b'@'));
    let sources = &options.sources;
    sources.users.iter().any(Entry::has_password) || sources.has("user") || sources.has("parent") && parents()
}

/// Warns of a file that others may change, and of a `secret` one that everybody may read.
///
/// A group may read it: keys of Debian's `ssl-cert` are 0640. That anybody may is what sshd(8) and
/// stunnel complain of.
fn mode(option: &str, file: &Path, secret: bool) -> Option<ConfigError> {
    let mode = file::metadata(file).ok().filter(std::fs::Metadata::is_file)?.permissions().mode() & 0o777;
    let may = match (mode & 0o022 != 0, secret && mode & 0o004 != 0) {
        (true, true) => "lets others change and read it",
        (true, false) => "lets others change it",
        (false, true) => "lets every user of this host read it",
        (false, false) => return None,
    };
    let right = if secret { mode & 0o750 } else { mode & 0o755 };
    let (file, cause) = (file.display(), format!("--{option} {}: mode {mode:04o} {may}", file.display()));
    let remedy = format!("chmod {right:04o} {file} (in Kubernetes: defaultMode: {right:#o})");
    Some(ConfigError::warning(option, cause, remedy.replace("0o", "0")))
}

/// Warns of `--no-auth` where others than this host can connect.
fn open_to_others(options: &Serve) -> Option<ConfigError> {
    let listen = options.rules.listen();
    let open =
        listen.iter().chain(&options.rules.listen_tls).find(|address| !address.ip().to_canonical().is_loopback());
    let address = open.filter(|_| options.no_auth)?;
    let cause = format!("--no-auth: every client that reaches {address} may use this gateway");
    let remedy = "configure users, listen on 127.0.0.1, or restrict access with a firewall";
    Some(ConfigError::warning("no-auth", cause, remedy))
}

/// Warns of a password that looks like a list of further users: other options are lists with
/// semicolons, and `--user` and `SLUICEGATE_USER` are not.
fn list_of_users(user: &Secret) -> Option<ConfigError> {
    let text = std::str::from_utf8(user.expose()).ok()?;
    let (name, password) = text.split_once(':')?;
    let mut names = password.split(';').skip(1).filter_map(|part| Some(part.split_once(':')?.0));
    let further = names.find(|name| !name.is_empty())?;
    let cause = format!(
        "the password of user '{}' holds ';{}:', and --user and SLUICEGATE_USER take one user",
        sanitize(name),
        sanitize(further)
    );
    Some(ConfigError::warning("user", cause, "name several users by --users-file, or by --user several times"))
}

/// Warns of an admin address that others than this host can connect to.
fn shown_to_others(options: &Serve) -> Option<ConfigError> {
    let admin = Some(options.operation.admin).filter(|address| !address.ip().to_canonical().is_loopback())?;
    let cause = format!(
        "--admin {admin}: every client that reaches it can read users, clients, targets, rates and metrics without a password"
    );
    let remedy = "keep it on loopback, and use --metrics ADDR:PORT for scrapers and probes";
    Some(ConfigError::warning("admin", cause, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_that_let_others_in_are_warned_of() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (bits, secret, said) in [
            (0o600, true, None),
            (0o640, true, None),
            (0o644, false, None),
            (0o644, true, Some("mode 0644 lets every user of this host read it; chmod 0640 ")),
            (0o666, true, Some("mode 0666 lets others change and read it; chmod 0640 ")),
            (0o660, true, Some("mode 0660 lets others change it; chmod 0640 ")),
            (0o666, false, Some("mode 0666 lets others change it; chmod 0644 ")),
        ] {
            file.as_file().set_permissions(std::fs::Permissions::from_mode(bits)).unwrap();
            let warning = mode("tls-key", file.path(), secret).map(|warning| warning.to_string());
            match said {
                None => assert_eq!(warning, None, "{bits:o}"),
                Some(said) => assert!(warning.as_ref().is_some_and(|warning| warning.contains(said)), "{warning:?}"),
            }
        }
        assert_eq!(mode("tls-key", Path::new("/nonexistent"), true), None);
    }
}
