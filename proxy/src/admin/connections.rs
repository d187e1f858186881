//! Connections to the listeners of [`Admin`]: accepted, bounded, ended.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::access::Access;
use super::control::may_control;
use super::server::Admin;
use crate::source::Source;

/// Most connections of each listener. A further one replaces one with an incomplete request, the
/// oldest of the source with most of them; or, if all are being answered, the oldest.
pub const MAX_CONNECTIONS: usize = 64;

/// Most bytes of a request head; hyper answers 431 past it.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// First and longest pause after a failed accept, because the cause, such as too many open files,
/// lasts for a while.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Longest time to finish answers in progress once the gateway ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

const DEADLINES: Deadlines =
    Deadlines { head: Duration::from_secs(5), content: Duration::from_secs(5), whole: Duration::from_secs(30) };

/// Time limits of a connection, from its accept on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// Until its request head is complete.
    pub(super) head: Duration,
    /// From there until its content is complete.
    pub(super) content: Duration,
    /// Until its end, even with a slow reader.
    pub(super) whole: Duration,
}

/// A listener of [`Admin`].
#[derive(Debug)]
pub enum Listener {
    /// A TCP address, and its access.
    Tcp(TcpListener, Access),
    /// The control socket.
    Control(UnixListener),
}

/// A connection as the handler of its request sees it.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) access: Access,
    /// The peer may use the listener.
    pub(super) permitted: bool,
    pub(super) deadlines: Deadlines,
    /// Absent for the control socket.
    source: Option<Source>,
    complete: Arc<AtomicBool>,
}

impl Connection {
    pub(super) fn new(access: Access, permitted: bool, deadlines: Deadlines) -> Self {
        Self { access, permitted, deadlines, source: None, complete: Arc::default() }
    }

    fn from(self, peer: SocketAddr) -> Self {
        Self { source: Some(peer.ip().into()), ..self }
    }

    /// Records a completely read request.
    pub(super) fn set_complete(&self) {
        self.complete.store(true, Ordering::Relaxed);
    }

    fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Relaxed)
    }
}

/// The open connections of a listener.
#[derive(Debug, Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// Connections in the order of their accepts.
    order: VecDeque<(AbortHandle, Connection)>,
}

impl Connections {
    fn add(&mut self, connection: Connection, task: impl Future<Output = ()> + Send + 'static) {
        self.order.retain(|(task, _)| !task.is_finished());
        if self.order.len() >= MAX_CONNECTIONS {
            let replaced = self.replaceable().unwrap_or(0);
            self.order.remove(replaced).into_iter().for_each(|(task, _)| task.abort());
        }
        self.order.push_back((self.tasks.spawn(task), connection));
    }

    /// Ends one connection, for want of descriptors.
    fn make_room(&mut self) {
        self.order.retain(|(task, _)| !task.is_finished());
        if let Some(replaced) = self.replaceable() {
            self.order.remove(replaced).into_iter().for_each(|(task, _)| task.abort());
        }
    }

    /// Place of the oldest incomplete request of the source with most of them: a source that floods
    /// the listener ends its own connections, and not that of a slow prober.
    fn replaceable(&self) -> Option<usize> {
        let incomplete = || self.order.iter().enumerate().filter(|(_, (_, other))| !other.is_complete());
        let mut by_source: HashMap<Option<Source>, (usize, usize)> = HashMap::new();
        for (place, (_, connection)) in incomplete() {
            by_source.entry(connection.source).or_insert((0, place)).0 += 1;
        }
        // Of sources with as many, the one with the oldest connection.
        by_source.into_values().max_by_key(|(count, oldest)| (*count, Reverse(*oldest))).map(|(_, oldest)| oldest)
    }

    /// Finishes writing the answers in progress, and ends the other connections.
    async fn finish(mut self) {
        self.order.iter().filter(|(_, connection)| !connection.is_complete()).for_each(|(task, _)| task.abort());
        let _ = timeout(LAST_ANSWERS, async { while self.tasks.join_next().await.is_some() {} }).await;
    }
}

impl Admin {
    /// Serves `listener` until `stopping` is true, then finishes the answers in progress.
    pub async fn run(self, listener: Listener, stopping: watch::Receiver<bool>) {
        self.run_with(listener, stopping, DEADLINES).await;
    }

    pub(super) async fn run_with(self, listener: Listener, mut stopping: watch::Receiver<bool>, deadlines: Deadlines) {
        let mut connections = Connections::default();
        let (mut pause, mut failing) = (BACK_OFF.0, None);
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => break,
                Some(_) = connections.tasks.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(accepted) => {
                    (pause, failing) = (BACK_OFF.0, None);
                    self.start(accepted, deadlines, &mut connections);
                    // The request of this connection may have arrived already: read it before
                    // accepting more, because one of those could otherwise replace it at once.
                    yield_now().await;
                }
                Err(error) => {
                    // Once for as long as it stays the same.
                    if failing != error.raw_os_error() {
                        failing = error.raw_os_error();
                        warn!(%error, "the {} cannot accept connections; retrying", listener.access().listener());
                    }
                    connections.make_room();
                    sleep(pause).await;
                    pause = (pause * 2).min(BACK_OFF.1);
                }
            }
        }
        drop(listener);
        connections.finish().await;
    }

    fn start(&self, accepted: Accepted, deadlines: Deadlines, among: &mut Connections) {
        match accepted {
            Accepted::Tcp(stream, peer, access) => {
                let connection = Connection::new(access, true, deadlines).from(peer);
                among.add(connection.clone(), self.clone().serve(stream, connection));
            }
            Accepted::Control(stream) => {
                let connection = Connection::new(Access::Control, may_control(&stream), deadlines);
                among.add(connection.clone(), self.clone().serve(stream, connection));
            }
        }
    }

    /// Serves one connection. An error of it concerns its peer alone.
    pub(super) async fn serve<S>(self, stream: S, connection: Connection)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Deadlines { head, whole, .. } = connection.deadlines;
        let service = service_fn(|request| async { Ok::<_, Infallible>(self.respond(&connection, request).await) });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head)
            .max_buf_size(MAX_HEAD_BYTES)
            .keep_alive(false)
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service);
        let ended = timeout(whole, served).await;
        tracing::trace!(?ended, listener = connection.access.listener(), "an admin connection ended");
    }
}

/// A connection without a request so far.
enum Accepted {
    Tcp(TcpStream, SocketAddr, Access),
    Control(UnixStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener, access) => {
                let (stream, peer) = listener.accept().await?;
                Ok(Accepted::Tcp(stream, peer, *access))
            }
            Self::Control(listener) => Ok(Accepted::Control(listener.accept().await?.0)),
        }
    }

    const fn access(&self) -> Access {
        match self {
            Self::Tcp(_, access) => *access,
            Self::Control(_) => Access::Control,
        }
    }
}
