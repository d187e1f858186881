//! How a tunnel goes from the pump to the kernel, and what is left to do for it there.

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

/// What came of asking the kernel to redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::relay) enum Redirect {
    /// Something is still under way here, the tunnel is held to a rate, or it was asked before.
    NotNow,
    /// The same, and it may take long: the pump goes on with the sources that it had left alone.
    GoOn,
    /// A direction at least stays with the pump, which goes on with it.
    Refused,
    /// It redirects both directions, of whose sockets only the ends are of interest now.
    Both,
}

impl Pump {
    /// Has the kernel redirect from now on, as soon as nothing is under way here. It is asked once; what it refuses stays
    /// with the pump.
    ///
    /// For that each source is emptied once and left alone then ([`Half::sealed`]), until what was read has been sent:
    /// what comes meanwhile is whole segments, and a segment of which a part was read would be redirected as a whole.
    pub(in crate::relay) fn redirect(&mut self, program: &Arc<Program>, id: u64, options: &Options) -> Redirect {
        if self.asked {
            return Redirect::NotNow;
        }
        if self.rate_limit.is_some() {
            return self.hold_for_rate();
        }
        let over =
            self.legs.iter().any(|leg| leg.read_closed || leg.broken) || self.halves.iter().any(|half| half.ended);
        // Where one side does not read, the other direction is not held up for that.
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

    /// Leaves a tunnel that is held to a rate with the pump for as long as it is. Its sender is faster as a rule: redirected
    /// it would be past the limit all the time and copied here, which costs twice the CPU of splice(2), and falls short
    /// of a GiB/s.
    fn hold_for_rate(&mut self) -> Redirect {
        if !std::mem::replace(&mut self.kept, true) {
            metrics::ENGINE_FALLBACKS.counter(&["sockmap", "splice", "rate"]).increment(1);
        }
        let left_alone = self.halves.each_mut().map(|half| std::mem::take(&mut half.sealed));
        if left_alone.contains(&true) { Redirect::GoOn } else { Redirect::NotNow }
    }

    /// Whether the kernel has this direction.
    pub(in crate::relay) fn redirects(&self, direction: Direction) -> bool {
        self.pair.as_ref().is_some_and(|pair| pair.redirects(direction))
    }

    /// Whether the kernel has any direction: the tunnel then stays with its worker.
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
    /// Bytes were read that are not sent yet.
    const fn is_under_way(&self) -> bool {
        self.held > 0 || !self.prefix.is_empty()
    }
}
