//! The thread for re-reading files at run time.
//!
//! Reading waits for file systems and checking takes CPU time: neither belongs on a thread that
//! serves connections, where a signal to stop or a request to the admin address would wait for it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::{error, info, warn};

use crate::account::Registry;
use crate::auth::{Authenticator, UsersError, name_list};
use crate::connection::Gateway;
use crate::metrics::{CERTIFICATE_EXPIRY, CONFIG_RELOAD_SUCCESSFUL, CONFIG_RELOAD_TIME};
use crate::tls::ServerCertificate;

/// Requests checks of the files from the thread.
#[derive(Clone, Debug)]
pub struct Reloader {
    /// Holds one request: a check not yet begun covers every request until then.
    requests: SyncSender<()>,
    /// The next check re-reads files also if they are unchanged.
    forced: Arc<AtomicBool>,
}

impl Reloader {
    /// Starts the thread at start-up, so that no reload fails for lack of one. It ends with the
    /// last `Reloader`.
    ///
    /// # Errors
    /// The error of starting a thread.
    pub fn start(gateway: Arc<Gateway>, registry: Arc<Registry>) -> io::Result<Self> {
        let is_whole = gateway.authenticator.bad_lines().is_empty();
        let mut reload = Reload { gateway, registry, users_error: None, certificate_error: None, concern: None };
        // The configuration of the start was just read.
        show_reload(is_whole);
        Self::with(move |forced| reload.check(forced))
    }

    fn with(mut check: impl FnMut(bool) + Send + 'static) -> io::Result<Self> {
        let (requests, wanted) = sync_channel(1);
        let forced = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&forced);
        let work = move || {
            for () in wanted {
                check(flag.swap(false, Ordering::AcqRel));
            }
        };
        thread::Builder::new().name("reload".into()).spawn(work)?;
        Ok(Self { requests, forced })
    }

    /// Requests a check of the files; changed files are re-read, and all of them if `forced`. Never
    /// waits.
    pub(super) fn request(&self, forced: bool) {
        if forced {
            self.forced.store(true, Ordering::Release);
        }
        // Full: a check is about to begin.
        let _ = self.requests.try_send(());
    }
}

/// The files to re-read, and the messages already logged about them.
struct Reload {
    gateway: Arc<Gateway>,
    registry: Arc<Registry>,
    users_error: Option<UsersError>,
    certificate_error: Option<String>,
    concern: Option<String>,
}

impl Reload {
    fn check(&mut self, forced: bool) {
        let mut read = self.check_users(forced);
        let gateway = Arc::clone(&self.gateway);
        if let Some(certificate) = &gateway.certificate {
            read |= self.check_certificate(certificate, forced);
        }
        if read {
            let is_whole = gateway.authenticator.bad_lines().is_empty();
            show_reload(is_whole && self.users_error.is_none() && self.certificate_error.is_none());
        }
        gateway.dialer.reread(forced);
    }

    /// Re-reads the users if due, and returns true if they were. A failed read is tried again until
    /// it succeeds, and each error is logged once.
    fn check_users(&mut self, forced: bool) -> bool {
        let authenticator = &self.gateway.authenticator;
        if !forced && !authenticator.changed() {
            return false;
        }
        let before = authenticator.snapshot();
        match authenticator.reload() {
            Ok(users) => {
                self.users_error = None;
                self.registry.set_users(authenticator.rates());
                let changes = before.changes_to(&authenticator.snapshot());
                let [added, removed, changed] =
                    [&changes.added, &changes.removed, &changes.changed].map(|names| name_list(names));
                info!(
                    users,
                    added = added.as_deref(),
                    removed = removed.as_deref(),
                    changed = changed.as_deref(),
                    "users reloaded"
                );
                log_bad_lines(authenticator);
            }
            Err(error) if !forced && self.users_error.as_ref() == Some(&error) => {}
            Err(error) => {
                error!(%error, "users not reloaded: the previous ones stay in use");
                self.users_error = Some(error);
            }
        }
        true
    }

    /// Re-reads the certificate if due, and returns true if it was; warns once for each reason
    /// clients refuse it.
    fn check_certificate(&mut self, certificate: &ServerCertificate, forced: bool) -> bool {
        let read = forced || certificate.changed();
        if read {
            match certificate.reload() {
                Ok(()) => {
                    (self.certificate_error, self.concern) = (None, None);
                    let until = certificate.until().map(|until| humantime::format_rfc3339_seconds(until).to_string());
                    info!(names = certificate.names().join(", "), until, "certificate reloaded");
                }
                Err(error) if !forced && self.certificate_error.as_ref() == Some(&error) => {}
                Err(error) => {
                    error!(%error, "certificate not reloaded: the previous one stays in use");
                    self.certificate_error = Some(error);
                }
            }
        }
        show_expiry(certificate);
        let concern = certificate.validity_warning(SystemTime::now());
        let concern = concern.map(|(cause, remedy)| format!("{cause}; {remedy}"));
        if let Some(concern) = concern.as_ref().filter(|concern| self.concern.as_ref() != Some(*concern)) {
            warn!("{concern}");
        }
        self.concern = concern;
        read
    }
}

/// Sets the gauges of the last reload.
fn show_reload(successful: bool) {
    CONFIG_RELOAD_SUCCESSFUL.gauge(&[]).set(f64::from(u8::from(successful)));
    if successful {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        CONFIG_RELOAD_TIME.gauge(&[]).set(now.as_secs() as f64);
    }
}

/// Sets the gauge of the certificate's expiry.
fn show_expiry(certificate: &ServerCertificate) {
    let since = certificate.until().and_then(|until| until.duration_since(UNIX_EPOCH).ok());
    CERTIFICATE_EXPIRY.gauge(&[]).set(since.map_or(f64::NAN, |since| since.as_secs_f64()));
}

/// Logs each invalid line of the users file.
pub fn log_bad_lines(authenticator: &Authenticator) {
    for error in authenticator.bad_lines() {
        error!(%error, "a line of the users file is ignored");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_reload_that_hangs_holds_nobody_up_and_a_request_meanwhile_is_not_lost() {
        let deadline = Duration::from_secs(30);
        let (begun, begins) = channel();
        let (release, released) = channel::<()>();
        let reloader = Reloader::with(move |forced| {
            begun.send(forced).unwrap();
            let _ = released.recv();
        });
        let reloader = reloader.unwrap();
        reloader.request(false);
        assert!(!begins.recv_timeout(deadline).unwrap());
        // The thread hangs: none of these waits, and together they are one more look.
        for forced in [false, true, false, false] {
            reloader.request(forced);
        }
        release.send(()).unwrap();
        assert!(begins.recv_timeout(deadline).unwrap(), "SIGHUP was lost");
        drop(reloader);
        drop(release);
        assert!(begins.recv_timeout(deadline).is_err(), "one look too many");
    }
}
