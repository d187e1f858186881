//! Ctrl-C and SIGTERM become an error at the next check, so that every guard on the stack runs and
//! neither a process nor a temporary folder is left behind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Context, Failure, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From here on the two signals set a flag instead of ending the process.
///
/// # Errors
/// When the handlers cannot be installed.
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

/// Whether one of the signals came.
#[must_use]
pub fn requested() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// An error once one of the signals came; for loops that take long.
///
/// # Errors
/// After Ctrl-C or SIGTERM.
pub fn check() -> Result<()> {
    if requested() { Err(Failure::new("interrupted")) } else { Ok(()) }
}
