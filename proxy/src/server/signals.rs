//! Signals handled by a running gateway.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::sys::signals;

/// The signals handled by the gateway.
#[derive(Debug)]
pub struct Signals {
    pub(super) stop: Stop,
    pub(super) hangup: Signal,
}

impl Signals {
    /// Watches the signals from now on, in place of the handlers of start-up
    /// ([`signals::prepare`]). To be called in the context of a runtime, before the gateway
    /// announces itself.
    ///
    /// # Errors
    /// The error of sigaction(2).
    pub fn watch() -> io::Result<Self> {
        let watched = Self { stop: Stop::new()?, hangup: signal(SignalKind::hangup())? };
        signals::watched();
        Ok(watched)
    }
}

/// The signals for ending the gateway.
#[derive(Debug)]
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
