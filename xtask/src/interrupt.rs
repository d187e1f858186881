//! Turns SIGINT and SIGTERM into an error at the next check, so that every guard on the stack runs:
//! every process ends, and every temporary folder is removed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Context, Failure, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Installs handlers for the two signals: they set a flag instead of ending the process.
///
/// # Errors
/// The handlers cannot be installed.
pub fn catch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("signal handling")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
        });
        INTERRUPTED.store(true, Ordering::Relaxed);
    });
    Ok(())
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).context("signal handling")
}

/// Tests if one of the signals arrived.
#[must_use]
pub fn requested() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Fails after one of the signals; for long loops.
///
/// # Errors
/// SIGINT or SIGTERM arrived.
pub fn check() -> Result<()> {
    if requested() { Err(Failure::new("interrupted")) } else { Ok(()) }
}
