//! Readiness of the gateway for new tunnels, and the state of a drain.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::{Notify, watch};

/// Readiness of the gateway for new tunnels.
#[derive(Debug, Default)]
pub struct Readiness {
    state: AtomicU8,
    drain: Notify,
    closed: watch::Sender<bool>,
}

/// A state of [`Readiness`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ready {
    /// Not listening yet.
    Starting = 0,
    /// Taking tunnels.
    Ready = 1,
    /// Taking no more until an open tunnel ends: `--max-tunnels`.
    Full = 3,
    /// Taking no more, and waiting for the open tunnels to end.
    Draining = 2,
}

impl Readiness {
    /// Enters a state.
    pub fn set(&self, state: Ready) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// The state.
    #[must_use]
    pub fn get(&self) -> Ready {
        match self.state.load(Ordering::Acquire) {
            0 => Ready::Starting,
            1 => Ready::Ready,
            _ => Ready::Draining,
        }
    }

    /// Asks for a drain. A further request while one is under way changes nothing.
    pub fn request_drain(&self) {
        self.drain.notify_one();
    }

    /// Waits for [`Readiness::request_drain`].
    pub async fn drain_requested(&self) {
        self.drain.notified().await;
    }

    /// Records the close of the listeners for clients.
    pub fn set_closed(&self) {
        self.closed.send_replace(true);
    }

    /// The listeners for clients are closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Waits for [`Readiness::set_closed`].
    pub async fn closed(&self) {
        // The sender outlives this call.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }
}

/// Progress of a drain: the content of `/api/drain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainView {
    /// A drain has begun.
    pub draining: bool,
    /// The listeners for clients are open.
    pub accepting: bool,
    /// Live tunnels.
    pub tunnels: usize,
    /// Connections without a tunnel.
    pub handshakes: usize,
}
