//! Turns SIGINT and SIGTERM into an error at the next check, so that every guard on the stack runs:
//! every contender ends, and every folder is removed.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Installs handlers for the two signals: they set a flag instead of ending the process.
///
/// # Errors
/// The handlers cannot be installed.
pub fn catch() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
        });
        INTERRUPTED.store(true, Ordering::Relaxed);
    })?;
    Ok(())
}

/// Tests if one of the signals arrived.
#[must_use]
pub fn requested() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Fails after one of the signals.
///
/// # Errors
/// SIGINT or SIGTERM arrived.
pub fn check() -> io::Result<()> {
    if requested() { Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted")) } else { Ok(()) }
}
