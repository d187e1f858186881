//! Commands to an exchange: to end, and to keep to a rate.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::reason::Reason;
use crate::sys::pacing::set_max_pacing_rate;
use crate::sys::stream::SplitStream;
use crate::tunnel::Flow;

/// Receiver of the commands to an exchange, as long as it lives.
pub(super) struct Control<'a> {
    flow: &'a Flow,
    told: Arc<Notify>,
    is_paced: bool,
}

impl<'a> Control<'a> {
    /// Attaches to the flow of an exchange; commands from before are not lost.
    pub(super) fn of(flow: &'a Flow) -> Self {
        let told = Arc::new(Notify::new());
        let tell = Arc::clone(&told);
        flow.attach_control(move |_| tell.notify_one());
        Self { flow, told, is_paced: false }
    }

    /// Keeps both sockets to the rate of the flow until the exchange is to end, and returns why.
    pub(super) async fn obey(&mut self, sockets: [SplitStream<'_>; 2]) -> Reason {
        loop {
            self.told.notified().await;
            if let Some(why) = self.flow.stopped() {
                return why;
            }
            let rate = self.flow.rate().map(|rate| rate.bytes());
            self.is_paced |= rate.is_some();
            sockets.iter().for_each(|socket| pace(socket, rate));
        }
    }

    /// Removes the rate from both sockets: an engine sets the rate of its tunnel again.
    pub(super) fn release_rate(&self, sockets: [SplitStream<'_>; 2]) {
        if self.is_paced {
            sockets.iter().for_each(|socket| pace(socket, None));
        }
    }
}

impl Drop for Control<'_> {
    fn drop(&mut self) {
        self.flow.detach_control();
    }
}

fn pace(socket: &SplitStream<'_>, rate: Option<u64>) {
    // The kernel refuses only descriptors other than sockets.
    let _ = set_max_pacing_rate(socket, rate);
}
