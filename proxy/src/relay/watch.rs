//! A look at each connection every few seconds: what holds its sending up, and whether its silence is
//! a slow reader or a dead one.

use std::os::fd::AsFd;
use std::time::Duration;

use crate::metrics::{self, LimitedBy, LimitedSide};
use crate::sys::tcp::{self, Limits};

/// How often a tunnel is looked at.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

/// A peer that has left so many window probes unanswered is not slow: one may be on its way, and
/// another may be lost.
const DEAD: u8 = 3;

/// What was seen of a connection at the last look.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: Limits,
    /// `TCP_USER_TIMEOUT` is lifted.
    patient: bool,
}

impl Watch {
    /// Counts what held up the sending to `side` since the last look.
    ///
    /// With `user_timeout` set, a peer that keeps its window closed but still answers probes would be
    /// given up when the time is over (`net/ipv4/tcp_timer.c`, `tcp_probe_timer`), although it is
    /// only slow: for as long as it does that, the timeout is lifted. One that no longer answers is
    /// dead, and gets it back.
    pub(super) fn look(&mut self, socket: &impl AsFd, side: LimitedSide, user_timeout: Duration) {
        let Ok(now) = tcp::limits(socket) else { return };
        let before = std::mem::replace(&mut self.seen, now);
        let receiver = now.receiver.saturating_sub(before.receiver);
        let gateway = now.send_buffer.saturating_sub(before.send_buffer);
        let busy = now.busy.saturating_sub(before.busy);
        metrics::tcp_limited(side, LimitedBy::Receiver, receiver);
        metrics::tcp_limited(side, LimitedBy::Gateway, gateway);
        let rest = if now.paced { LimitedBy::Rate } else { LimitedBy::Network };
        metrics::tcp_limited(side, rest, busy.saturating_sub(receiver + gateway));
        let patient = now.window_closed && now.unanswered_probes < DEAD;
        if patient != self.patient && !user_timeout.is_zero() {
            let timeout = if patient { Duration::ZERO } else { user_timeout };
            self.patient = tcp::set_user_timeout(socket, timeout).is_ok() == patient;
        }
    }
}
