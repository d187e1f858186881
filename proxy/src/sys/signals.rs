//! Signals before the event loop watches them, and signals ignored for good (signal(7)).

use std::ffi::c_int;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// The event loop watches SIGTERM, SIGINT and SIGHUP.
static WATCHED: AtomicBool = AtomicBool::new(false);

/// SIGHUP arrived before the event loop watched it.
static HANGUP: AtomicBool = AtomicBool::new(false);

/// Ignored signals that would end or stop the process by default.
///
/// SIGXFSZ: a log file at its size limit loses lines. SIGXCPU: the hard limit of RLIMIT_CPU ends
/// the process all the same. SIGTTIN and SIGTTOU: a terminal with `tostop` does not stop a gateway
/// in the background. SIGUSR2 is reserved for a later use.
const IGNORED: [c_int; 13] = [
    libc::SIGPIPE,
    libc::SIGXFSZ,
    libc::SIGXCPU,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGSTKFLT,
    libc::SIGPWR,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// Exit status of a start-up ended by SIGINT, as in shells: 128 and the signal's number.
const INTERRUPTED: c_int = 128 + libc::SIGINT;

/// Ignores the signals that must not end a gateway, including the real-time ones. Until
/// [`watched`], SIGTERM ends the process with status 0, SIGINT with 130, and SIGHUP is kept for
/// [`take_early_hangup`].
///
/// # Errors
/// The error of sigaction(2).
pub fn prepare() -> io::Result<()> {
    // The signals between 31 and SIGRTMIN belong to the C library.
    for signal in IGNORED.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX()) {
        set(signal, libc::SIG_IGN)?;
    }
    set(libc::SIGHUP, record_hangup as *const () as libc::sighandler_t)?;
    for signal in [libc::SIGTERM, libc::SIGINT] {
        set(signal, end_start as *const () as libc::sighandler_t)?;
    }
    Ok(())
}

/// Hands SIGTERM, SIGINT and SIGHUP over to the event loop, which calls the handlers of [`prepare`]
/// as well.
pub fn watched() {
    WATCHED.store(true, Ordering::Relaxed);
}

/// Returns true, once, if SIGHUP arrived before the event loop watched it.
#[must_use]
pub fn take_early_hangup() -> bool {
    HANGUP.swap(false, Ordering::Relaxed)
}

fn set(signal: c_int, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: the handler is SIG_IGN or a function below, which does only what signal-safety(7)
    // permits.
    let before = unsafe { libc::signal(signal, handler) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

extern "C" fn record_hangup(_: c_int) {
    if !WATCHED.load(Ordering::Relaxed) {
        HANGUP.store(true, Ordering::Relaxed);
    }
}

extern "C" fn end_start(signal: c_int) {
    if WATCHED.load(Ordering::Relaxed) {
        return;
    }
    let status = if signal == libc::SIGINT { INTERRUPTED } else { 0 };
    // SAFETY: _exit(2) is async-signal-safe and runs nothing of this process.
    unsafe { libc::_exit(status) };
}
