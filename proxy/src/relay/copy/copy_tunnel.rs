//! One tunnel of the engine `copy`: its two directions, and its ends.

use std::future::pending;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::buffer::Buffer;
use super::copy_leg::CopyLeg;
use crate::reason::Reason;
use crate::relay::fault::{Fault, clean_end};
use crate::relay::last_bytes::{LAST_BYTES, LAST_BYTES_POLL, acknowledged};
use crate::relay::options::Options;
use crate::relay::rate_limit::set_rate;
use crate::relay::timeouts::{ActivityMeter, Expired, Watch};
use crate::sys::tcp;
use crate::tls::{self, Session};
use crate::tunnel::{ActivitySource, Direction, Flow};

/// A tunnel, shared by its task and by those who send it commands.
#[derive(Debug)]
pub(super) struct CopyTunnel {
    client: CopyLeg,
    origin: CopyLeg,
    flow: Arc<Flow>,
    meter: ActivityMeter,
    options: Arc<Options>,
    /// The source of a direction ([`Direction::index`]) is known to have failed.
    broken: [AtomicBool; 2],
    /// The copying of a direction has ended, with or without an error.
    copy_ended: [AtomicBool; 2],
    /// Both directions ended cleanly. Otherwise closing the sockets is a reset, whatever becomes of
    /// the task.
    clean_close: AtomicBool,
    /// Locked while the rate of the sockets is set.
    rate_lock: Mutex<()>,
}

impl Drop for CopyTunnel {
    fn drop(&mut self) {
        if !self.clean_close.load(Ordering::Relaxed) {
            let _ = tcp::reset(&self.client);
            let _ = tcp::reset(&self.origin);
        }
    }
}

/// A tunnel as the source of [`Flow::last_activity`], which does not keep it alive.
#[derive(Debug)]
pub(super) struct Activity(pub(super) Weak<CopyTunnel>);

impl ActivitySource for Activity {
    fn last_activity(&self) -> Option<std::time::Instant> {
        self.0.upgrade()?.sample()
    }
}

/// End of a tunnel before both directions have ended.
enum EarlyEnd {
    Fault(Fault),
    Stopped(Reason),
}

impl CopyTunnel {
    /// `tls`: the sessions of the client and the origin.
    pub(super) fn new(
        [client, origin]: [TcpStream; 2],
        [client_tls, origin_tls]: [Option<Box<Session>>; 2],
        flow: Arc<Flow>,
        options: Arc<Options>,
    ) -> Self {
        Self {
            client: CopyLeg::new(client, client_tls),
            origin: CopyLeg::new(origin, origin_tls),
            flow,
            meter: ActivityMeter::default(),
            options,
            broken: Default::default(),
            copy_ended: Default::default(),
            clean_close: AtomicBool::new(false),
            rate_lock: Mutex::default(),
        }
    }

    /// Limits both sockets to the rate of the tunnel.
    pub(super) fn apply_rate(&self) {
        // Locked over both steps, so that the newest rate is set last.
        let _turn = self.rate_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = self.flow.rate();
        [&self.client, &self.origin].into_iter().for_each(|end| set_rate(end, rate));
    }

    /// Samples both connections for the last activity.
    fn sample(&self) -> Option<std::time::Instant> {
        self.meter.sample([&self.client, &self.origin]).activity
    }

    /// Carries the tunnel to its end. `prefix`: bytes from after the heads; `stopped`: the command
    /// to stop.
    pub(super) async fn run(&self, prefix: [Vec<u8>; 2], stopped: oneshot::Receiver<Reason>) -> Reason {
        let why = self.carry(prefix, stopped).await;
        // While the connections still have their counters.
        self.sample().into_iter().for_each(|at| self.flow.record_activity(at));
        why
    }

    async fn carry(&self, [origin_prefix, client_prefix]: [Vec<u8>; 2], stopped: oneshot::Receiver<Reason>) -> Reason {
        let first_end = OnceLock::new();
        let mut to_origin = Box::pin(self.pass(Direction::ToOrigin, origin_prefix, &first_end));
        let mut to_client = Box::pin(self.pass(Direction::ToClient, client_prefix, &first_end));
        let both = async {
            tokio::try_join!(&mut to_origin, &mut to_client)?;
            self.delivered().await;
            Ok(())
        };
        let broken = tokio::select! {
            result = both => match result {
                Ok(()) => {
                    let ends = [&self.client, &self.origin];
                    let may_close = ends.iter().all(|end| tcp::reset_on_close(end, false).is_ok());
                    self.clean_close.store(may_close, Ordering::Relaxed);
                    return clean_end(first_end.get().copied());
                }
                Err(fault) => EarlyEnd::Fault(fault),
            },
            fault = self.failure() => EarlyEnd::Fault(fault),
            broken = self.sample_until_stopped(stopped) => broken,
        };
        let fault = match broken {
            EarlyEnd::Stopped(why) => return why,
            EarlyEnd::Fault(fault) => fault,
        };
        log_tls(&fault);
        // A write may have had the error, which the kernel reports only once.
        self.broken[fault.source_of.index()].store(true, Ordering::Relaxed);
        let last = match fault.source_of {
            Direction::ToOrigin => to_origin,
            Direction::ToClient => to_client,
        };
        self.pass_last(fault.source_of, last).await;
        match first_end.get() {
            Some(first) if tls::is_truncation(&fault.error) && self.peer_had_everything(fault.source_of, *first) => {
                clean_end(Some(*first))
            }
            _ => fault.reason(),
        }
    }

    /// Waits until both sides have acknowledged all that was passed on to them. Sockets closed
    /// earlier would be orphans, which the kernel gives up although a reader is only slow.
    async fn delivered(&self) {
        let mut pause = Duration::from_millis(1);
        while !(tcp::is_delivered(&self.client) && tcp::is_delivered(&self.origin)) {
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    const fn legs(&self, direction: Direction) -> (&CopyLeg, &CopyLeg) {
        match direction {
            Direction::ToOrigin => (&self.client, &self.origin),
            Direction::ToClient => (&self.origin, &self.client),
        }
    }

    // One direction.

    /// Copies one direction until its end has been passed on, and records that.
    async fn pass(&self, direction: Direction, prefix: Vec<u8>, first_end: &OnceLock<Direction>) -> Result<(), Fault> {
        let result = self.copy(direction, prefix, first_end).await;
        self.copy_ended[direction.index()].store(true, Ordering::Relaxed);
        result
    }

    async fn copy(&self, direction: Direction, prefix: Vec<u8>, first_end: &OnceLock<Direction>) -> Result<(), Fault> {
        let (source, destination) = self.legs(direction);
        let lost = |error| Fault::of_source(direction, error);
        self.send(direction, &prefix).await?;
        drop(prefix);
        loop {
            source.readable().await.map_err(lost)?;
            let mut buffer = Buffer::take();
            match source.try_read(&mut buffer.bytes) {
                Ok(0) => break,
                Ok(bytes) => self.send(direction, &buffer.bytes[..bytes]).await?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(lost(error)),
            }
        }
        let _ = first_end.set(direction);
        // After a failure the end that was read is not passed on: a reset follows.
        match source.socket.take_error() {
            Ok(Some(error)) => Err(lost(error)),
            _ if self.broken[direction.index()].load(Ordering::Relaxed) => Err(lost(ErrorKind::ConnectionReset.into())),
            _ => destination.finish().await.map_err(|error| Fault::of_destination(direction, error)),
        }
    }

    async fn send(&self, direction: Direction, mut bytes: &[u8]) -> Result<(), Fault> {
        let (_, destination) = self.legs(direction);
        while !bytes.is_empty() {
            let sent = destination.send(bytes).await.map_err(|error| Fault::of_destination(direction, error))?;
            self.flow.add(direction, sent as u64, std::time::Instant::now());
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    // Ends.

    /// Waits until one of the sockets fails, also while it is not read from.
    async fn failure(&self) -> Fault {
        tokio::select! {
            fault = self.failed(Direction::ToOrigin) => fault,
            fault = self.failed(Direction::ToClient) => fault,
        }
    }

    async fn failed(&self, direction: Direction) -> Fault {
        let (CopyLeg { socket, .. }, _) = self.legs(direction);
        let error = match socket.ready(Interest::ERROR).await {
            Ok(_) => match socket.take_error() {
                Ok(Some(error)) | Err(error) => error,
                // A read or a write had the error already, and returns it.
                Ok(None) => pending().await,
            },
            Err(error) => error,
        };
        // The kernel reports an error once: the next read of the socket finds a clean end.
        self.broken[direction.index()].store(true, Ordering::Relaxed);
        Fault::of_source(direction, error)
    }

    /// Samples the tunnel until it is stopped or a time-out is over.
    async fn sample_until_stopped(&self, mut stop: oneshot::Receiver<Reason>) -> EarlyEnd {
        let timeouts = self.options.timeouts();
        let mut ticks = interval_at(Instant::now() + timeouts.interval, timeouts.interval);
        // After a time in which the process stood still there is one tick, not one for each missed.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Watch::new(std::time::Instant::now());
        loop {
            match watch.sample([&self.client, &self.origin], &self.meter, &self.flow, timeouts) {
                Some(Expired::Idle) => return EarlyEnd::Stopped(Reason::Idle),
                // Bytes that the peer sent before are still passed on.
                Some(Expired::Peer(gone)) => {
                    return EarlyEnd::Fault(Fault::of_source(gone, ErrorKind::TimedOut.into()));
                }
                None => {}
            }
            tokio::select! {
                Ok(why) = &mut stop => return EarlyEnd::Stopped(why),
                _ = ticks.tick() => {}
            }
        }
    }

    /// Delivers bytes of `direction` that came before its source failed, while there is progress.
    /// The reset comes when the sockets are dropped.
    async fn pass_last(&self, direction: Direction, passing: impl Future<Output = Result<(), Fault>>) {
        let (_, sound) = self.legs(direction);
        let arrived = async {
            if !self.copy_ended[direction.index()].load(Ordering::Relaxed) {
                let _ = passing.await;
            }
            while tcp::unacknowledged(sound).is_ok_and(|bytes| bytes > 0) {
                sleep(LAST_BYTES_POLL).await;
            }
        };
        tokio::select! { () = arrived => {} () = self.standstill(direction) => {} }
    }

    /// Waits until the destination of `direction` has acknowledged nothing for [`LAST_BYTES`].
    async fn standstill(&self, direction: Direction) {
        let (_, destination) = self.legs(direction);
        let mut before = acknowledged(&self.flow, direction, destination);
        let mut excused = false;
        loop {
            let since = Instant::now();
            sleep(LAST_BYTES).await;
            // If the process stood still, the bytes under way get their time once more.
            excused = since.elapsed() > LAST_BYTES * 2 && !excused;
            let now = acknowledged(&self.flow, direction, destination);
            if std::mem::replace(&mut before, now) == now && !excused {
                return;
            }
        }
    }

    /// Tests whether the source of `direction`, which closed without notice, had already received
    /// everything of the other direction, including the end that came `first`. The tunnel was then
    /// complete.
    fn peer_had_everything(&self, direction: Direction, first: Direction) -> bool {
        let (left, _) = self.legs(direction);
        let other = direction.opposite();
        first == other
            && self.copy_ended[other.index()].load(Ordering::Relaxed)
            && !self.broken[other.index()].load(Ordering::Relaxed)
            && tcp::is_delivered(left)
    }
}

/// Logs a failure of the TLS in a tunnel.
fn log_tls(fault: &Fault) {
    if tls::is_truncation(&fault.error) {
        let peer = if fault.source_of == Direction::ToOrigin { "client" } else { "origin" };
        tracing::debug!(peer, "TLS ended without close_notify: the other side is reset");
    } else if fault.error.get_ref().is_some() {
        // An error with a source comes from TLS, not from a system call.
        tracing::info!(error = %fault.error, "TLS error in a tunnel");
    }
}
