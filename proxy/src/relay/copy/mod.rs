//! The engine `copy`: read and write on tokio, the portable fallback and the oracle of the tests.
//!
//! It shares no code with the splice engine, so agreement between the two means something. It holds
//! a buffer only while bytes are in flight, but those bytes are in this process alone and die with
//! it.

use std::future::pending;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::timeouts::ActivityMeter;
use super::{Adopted, Fault, Options, clean_end, set_rate};
use crate::reason::Reason;
use crate::sys::tcp;
use crate::tls;
use crate::tunnel::{Command, Direction, Flow, Tunnel};

mod buffer;
mod end;
mod expiry;
mod last;
mod threads;

use buffer::Buffer;
use end::End;
use threads::has_threads;

/// The engine with a runtime of its own: bulk copying does not hold up handshakes.
#[derive(Debug)]
pub(super) struct Copy {
    /// Taken on drop.
    runtime: Option<tokio::runtime::Runtime>,
    options: Arc<Options>,
}

impl Copy {
    /// Starts the threads.
    pub(super) fn start(options: &Options) -> io::Result<Self> {
        has_threads(options.threads.max(1) + 1)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.threads.max(1))
            .thread_name("copy")
            .enable_all()
            .build()?;
        Ok(Self { runtime: Some(runtime), options: Arc::new(options.clone()) })
    }

    /// Starts copying.
    pub(super) fn adopt(&self, tunnel: Tunnel) -> Adopted {
        let runtime = self.runtime.as_ref().expect("there until dropped");
        let _context = runtime.enter();
        let Tunnel { client, origin, tls, prefix, flow } = tunnel;
        let copies = client.try_clone().and_then(|client| Ok((client, origin.try_clone()?)));
        let streams = copies.and_then(|(client, origin)| Ok((stream(client)?, stream(origin)?)));
        let (client_stream, origin_stream) = match streams {
            Ok(streams) => streams,
            Err(error) => return Err((Box::new(Tunnel { client, origin, tls, prefix, flow }), error)),
        };
        drop((client, origin));
        let [client_tls, origin_tls] = tls;
        let (end, ended) = oneshot::channel();
        let pair = Arc::new(Pair {
            client: End::new(client_stream, client_tls),
            origin: End::new(origin_stream, origin_tls),
            flow: flow.clone(),
            meter: ActivityMeter::default(),
            options: self.options.clone(),
            broken: Default::default(),
            passed: Default::default(),
            clean_close: AtomicBool::new(false),
            rate_lock: Mutex::default(),
        });
        flow.attach_activity(Arc::new(expiry::Activity(Arc::downgrade(&pair))));
        let (stop, stopped) = oneshot::channel();
        let stop = Mutex::new(Some(stop));
        // A weak reference: the pair is closed when its task ends, even if commands may still
        // arrive.
        let paced = Arc::downgrade(&pair);
        flow.attach_control(move |command| match command {
            Command::ApplyRate => paced.upgrade().into_iter().for_each(|pair| pair.apply_rate()),
            Command::Stop(why) => {
                let stop = stop.lock().unwrap_or_else(PoisonError::into_inner).take();
                let _ = stop.map(|stop| stop.send(why));
            }
        });
        runtime.spawn(async move {
            let why = pair.run(prefix, stopped).await;
            pair.note_last_activity();
            drop(pair);
            let _ = end.send(why);
        });
        Ok(ended)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // A runtime must not be dropped on a thread of another runtime, such as the gateway's.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn stream(socket: std::net::TcpStream) -> io::Result<TcpStream> {
    socket.set_nonblocking(true)?;
    // A process killed in mid-stream must not look like the end of the stream.
    tcp::reset_on_close(&socket, true)?;
    TcpStream::from_std(socket)
}

#[derive(Debug)]
struct Pair {
    client: End,
    origin: End,
    flow: Arc<Flow>,
    meter: ActivityMeter,
    options: Arc<Options>,
    /// The source of a direction ([`Direction::index`]) is known to have failed.
    broken: [AtomicBool; 2],
    /// The copying of a direction has ended, cleanly or not.
    passed: [AtomicBool; 2],
    /// Both directions ended cleanly. Otherwise the sockets are reset: closing them would look like
    /// a clean end to a peer, even if this task was dropped.
    clean_close: AtomicBool,
    /// Held while the rate of the sockets is set.
    rate_lock: Mutex<()>,
}

impl Drop for Pair {
    fn drop(&mut self) {
        if !self.clean_close.load(Ordering::Relaxed) {
            let _ = tcp::reset(&self.client);
            let _ = tcp::reset(&self.origin);
        }
    }
}

/// Cause of a tunnel's end before both its directions had ended.
enum Broken {
    Fault(Fault),
    Stopped(Reason),
}

impl Pair {
    /// Applies the tunnel's rate limit to both sockets.
    fn apply_rate(&self) {
        // Held meanwhile: the newest rate is then set last.
        let _turn = self.rate_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = self.flow.rate();
        [&self.client, &self.origin].into_iter().for_each(|end| set_rate(end, rate));
    }

    async fn run(&self, prefix: [Vec<u8>; 2], stopped: oneshot::Receiver<Reason>) -> Reason {
        let [to_origin, to_client] = prefix;
        let first_end = OnceLock::new();
        let mut up = Box::pin(self.pass(Direction::ToOrigin, to_origin, &first_end));
        let mut down = Box::pin(self.pass(Direction::ToClient, to_client, &first_end));
        let both = async {
            tokio::try_join!(&mut up, &mut down)?;
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
                Err(fault) => Broken::Fault(fault),
            },
            fault = self.failure() => Broken::Fault(fault),
            broken = self.stopped(stopped) => broken,
        };
        let fault = match broken {
            Broken::Stopped(why) => return why,
            Broken::Fault(fault) => fault,
        };
        let is_truncation = tls::is_truncation(&fault.error);
        if is_truncation {
            let peer = if fault.source_of == Direction::ToOrigin { "client" } else { "origin" };
            tracing::debug!(peer, "TLS ended without close_notify: the other side is reset");
        } else if fault.error.get_ref().is_some() {
            // An error of the TLS session, not of the kernel.
            tracing::info!(error = %fault.error, "TLS error in a tunnel");
        }
        // A write may have taken the error, which the kernel reports only once.
        self.broken[fault.source_of.index()].store(true, Ordering::Relaxed);
        let last = match fault.source_of {
            Direction::ToOrigin => up,
            Direction::ToClient => down,
        };
        self.pass_last(fault.source_of, last).await;
        match first_end.get() {
            Some(first) if is_truncation && self.is_answered(fault.source_of, *first) => clean_end(Some(*first)),
            _ => fault.reason(),
        }
    }

    /// Waits until both sides have acknowledged all bytes passed on to them. Sockets closed earlier
    /// become orphans, and the kernel drops orphans while a reader is merely slow.
    async fn delivered(&self) {
        let mut pause = Duration::from_millis(1);
        while !(tcp::is_delivered(&self.client) && tcp::is_delivered(&self.origin)) {
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    fn ends(&self, direction: Direction) -> (&End, &End) {
        match direction {
            Direction::ToOrigin => (&self.client, &self.origin),
            Direction::ToClient => (&self.origin, &self.client),
        }
    }

    /// Copies one direction until its end has been passed on, and records the end.
    async fn pass(&self, direction: Direction, prefix: Vec<u8>, first_end: &OnceLock<Direction>) -> Result<(), Fault> {
        let result = self.copy(direction, prefix, first_end).await;
        self.passed[direction.index()].store(true, Ordering::Relaxed);
        result
    }

    async fn copy(&self, direction: Direction, prefix: Vec<u8>, first_end: &OnceLock<Direction>) -> Result<(), Fault> {
        let (source, destination) = self.ends(direction);
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
        // An end read after a failure is not passed on: a reset follows.
        match source.socket.take_error() {
            Ok(Some(error)) => Err(lost(error)),
            _ if self.broken[direction.index()].load(Ordering::Relaxed) => Err(lost(ErrorKind::ConnectionReset.into())),
            _ => destination.finish().await.map_err(|error| Fault::of_destination(direction, error)),
        }
    }

    async fn send(&self, direction: Direction, mut bytes: &[u8]) -> Result<(), Fault> {
        let (_, destination) = self.ends(direction);
        while !bytes.is_empty() {
            let sent = destination.send(bytes).await.map_err(|error| Fault::of_destination(direction, error))?;
            self.flow.add(direction, sent as u64, std::time::Instant::now());
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Waits until one of the sockets fails, even while nothing is read from it.
    async fn failure(&self) -> Fault {
        tokio::select! {
            fault = self.failed(Direction::ToOrigin) => fault,
            fault = self.failed(Direction::ToClient) => fault,
        }
    }

    async fn failed(&self, direction: Direction) -> Fault {
        let (End { socket, .. }, _) = self.ends(direction);
        let error = match socket.ready(Interest::ERROR).await {
            Ok(_) => match socket.take_error() {
                Ok(Some(error)) | Err(error) => error,
                // A read or a write has taken the error, and reports it.
                Ok(None) => pending().await,
            },
            Err(error) => error,
        };
        // The kernel reports an error once: the next read of the socket finds a plain end.
        self.broken[direction.index()].store(true, Ordering::Relaxed);
        Fault::of_source(direction, error)
    }
}
