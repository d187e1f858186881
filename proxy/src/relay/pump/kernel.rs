//! Hand-over of a tunnel from the pump to the kernel, and the work left to the pump afterwards.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use super::{Half, Pump, Step};
use crate::metrics;
use crate::relay::sockmap::{Pair, Program, State};
use crate::relay::{Options, unavailable};
use crate::sys::tcp;
use crate::tunnel::Direction;

/// Result of a request to redirect a tunnel in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::relay) enum Redirect {
    /// Not requested: bytes are under way in the pump, the tunnel is rate-limited, or the kernel
    /// was asked before.
    NotNow,
    /// Not requested, and it may take long: the pump resumes reading from the sources it had
    /// stopped.
    GoOn,
    /// At least one direction stays with the pump, which resumes it.
    Refused,
    /// The kernel redirects both directions; from now on only the ends of the sockets matter.
    Both,
}

impl Pump {
    /// Asks the kernel to redirect the tunnel as soon as no bytes are under way in the pump. Asks
    /// once; a refused direction stays with the pump.
    ///
    /// Before the request, each source is emptied once and then left alone ([`Half::sealed`]) until
    /// the bytes read from it are sent. Later bytes arrive in whole segments; a partly read segment
    /// would be redirected as a whole.
    pub(in crate::relay) fn redirect(&mut self, program: &Arc<Program>, id: u64, options: &Options) -> Redirect {
        if self.asked {
            return Redirect::NotNow;
        }
        if self.rate_limit.is_some() {
            return self.hold_for_rate();
        }
        let over =
            self.legs.iter().any(|leg| leg.read_closed || leg.broken) || self.halves.iter().any(|half| half.ended);
        // A side that does not read must not hold up the other direction.
        let [to_origin, to_client] = &self.halves;
        let stuck =
            to_origin.is_under_way() && !self.legs[1].writable || to_client.is_under_way() && !self.legs[0].writable;
        let left_alone = self.halves.iter().any(|half| half.sealed);
        let mut ready = true;
        for (half, leg) in self.halves.iter_mut().zip(&self.legs) {
            half.sealed =
                !stuck && !leg.urgent && (half.sealed || tcp::unread(&leg.socket).is_ok_and(|bytes| bytes == 0));
            ready &= half.sealed && !half.is_under_way();
        }
        if !ready && !over {
            return if stuck && left_alone { Redirect::GoOn } else { Redirect::NotNow };
        }
        self.asked = true;
        self.halves.iter_mut().for_each(|half| half.sealed = false);
        let engaged = if over {
            Err(Errno::OPNOTSUPP.into())
        } else {
            Pair::offload(program, id, self.sockets(), &self.flow, options)
        };
        let refused = |cause| metrics::ENGINE_FALLBACKS.counter(&["sockmap", "splice", cause]).increment(1);
        match engaged {
            Ok(pair) => {
                let refusals = Direction::BOTH.into_iter().filter(|direction| !pair.redirects(*direction));
                let left = refusals.map(|_| refused("half_closed")).count();
                self.pair = Some(pair);
                if left == 0 { Redirect::Both } else { Redirect::Refused }
            }
            Err(error) => {
                refused(unavailable::cause_of_tunnel(&error));
                Redirect::Refused
            }
        }
    }

    /// Keeps a rate-limited tunnel with the pump for as long as the limit applies. Its sender is
    /// usually faster than the rate: redirected, the tunnel would always be over the backlog limit
    /// and be copied by userspace, at twice the CPU of splice(2) and less than one GiB/s.
    fn hold_for_rate(&mut self) -> Redirect {
        if !std::mem::replace(&mut self.kept, true) {
            metrics::ENGINE_FALLBACKS.counter(&["sockmap", "splice", "rate"]).increment(1);
        }
        let left_alone = self.halves.each_mut().map(|half| std::mem::take(&mut half.sealed));
        if left_alone.contains(&true) { Redirect::GoOn } else { Redirect::NotNow }
    }

    /// Tests if the kernel redirects `direction`.
    pub(in crate::relay) fn redirects(&self, direction: Direction) -> bool {
        self.pair.as_ref().is_some_and(|pair| pair.redirects(direction))
    }

    /// Tests if the kernel redirects any direction. Such a tunnel stays with its worker.
    pub(in crate::relay) const fn is_redirected(&self) -> bool {
        self.pair.is_some()
    }

    pub(super) fn sockets(&self) -> [&TcpStream; 2] {
        [&self.legs[0].socket, &self.legs[1].socket]
    }

    pub(super) fn step_offloaded(&mut self, direction: Direction, scratch: &mut [u8], now: Instant) -> Step {
        let Self { legs, pair, halves, first_end, .. } = self;
        let Some(pair) = pair else { return Step::Blocked };
        let leg = &legs[direction.index()];
        let state = State { read_closed: leg.read_closed, broken: leg.broken, scratch, now };
        let step = pair.step(direction, [&legs[0].socket, &legs[1].socket], state);
        if matches!(step, Step::Finished) {
            halves[direction.index()].finished = true;
            first_end.get_or_insert(direction);
        }
        step
    }
}

impl Half {
    /// Tests for bytes read but not yet sent.
    const fn is_under_way(&self) -> bool {
        self.held > 0 || !self.prefix.is_empty()
    }
}
