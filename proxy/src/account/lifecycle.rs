//! A connection's account: handshake, then live or refused, and ended.

use std::borrow::Cow;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::access_log::{self, Refused};
use super::dials::DialPermit;
use super::handshakes::{Absence, Stage};
use super::limits::Slot;
use super::live::{Live, RequestInfo};
use super::meters::EXCHANGE;
use super::registry::{Connection, Registry};
use crate::metrics;
use crate::principal::Principal;
use crate::reason::{Reason, Refusal};
use crate::target::Target;
use crate::tunnel::{Command, Flow};

/// One connection, accounted when this is consumed or dropped.
#[derive(Debug)]
pub struct Account {
    registry: Arc<Registry>,
    id: u64,
    client: SocketAddr,
    /// Place among the limited tunnels, from [`Account::reserve`] to the end.
    slot: Option<Slot>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// No tunnel yet. Boxed, so that a live tunnel does not keep its memory.
    Handshake(Box<Handshake>),
    /// The tunnel is in the registry.
    Live(Arc<Live>),
    /// Counted and logged. A handshake stays in its stage until its client has read the answer.
    Ended { stage: Option<Stage> },
}

/// Progress towards a tunnel.
#[derive(Debug)]
struct Handshake {
    stage: Stage,
    /// The client sent at least a byte.
    received_bytes: bool,
    user: Option<Arc<str>>,
    request: RequestInfo,
    /// Ends the task that serves the connection, while a slot keeps it out of the handshakes' room.
    task: Option<AbortHandle>,
    /// The connection was ended to make room for another one.
    evicted: bool,
    permit: Option<DialPermit>,
    /// The exchange before a 101, while it lasts.
    exchange: Option<Arc<Live>>,
}

impl Registry {
    /// Opens the account of a connection accepted from `client`.
    #[must_use]
    pub fn accepted(self: &Arc<Self>, client: SocketAddr) -> Account {
        let id = self.connected();
        let stage = Stage::default();
        self.handshakes.moved(None, Some(stage));
        let handshake = Handshake {
            stage,
            received_bytes: false,
            user: None,
            request: RequestInfo::accepted(Instant::now()),
            task: None,
            evicted: false,
            permit: None,
            exchange: None,
        };
        let state = State::Handshake(Box::new(handshake));
        Account { registry: Arc::clone(self), id, client: canonical(client), slot: None, state }
    }
}

/// Parts of the handshake, recorded as they become known; without effect afterwards.
impl Account {
    /// Sets the client's address from the header of a trusted proxy.
    pub fn set_client(&mut self, client: SocketAddr) {
        self.client = canonical(client);
        let Connection { id, source } = self.connection();
        self.registry.handshakes.record_event(id, source, Stage::Request);
    }

    /// Records that the client sent at least a byte. A client that leaves without any was a port
    /// check, and is logged at debug level only.
    pub fn received_bytes(&mut self) {
        self.update(|handshake| handshake.received_bytes = true);
    }

    /// Sets the user: a configured one, or `None` without authentication. The name becomes a metric
    /// label with [`Account::established`], so it must not be one made up by a stranger.
    pub fn set_user(&mut self, user: Option<Arc<str>>) {
        self.update(|handshake| handshake.user = user);
    }

    /// Sets the TLS version of the client's connection.
    pub fn set_tls(&mut self, version: &'static str) {
        self.update(|handshake| handshake.request.tls = Some(version));
    }

    /// Sets the requested target.
    pub fn set_target(&mut self, target: &Target) {
        self.update(|handshake| handshake.request.target = Some(target.clone()));
    }

    /// Sets the protocols requested with `Upgrade`; without them the request is a CONNECT.
    pub fn set_upgrade(&mut self, protocols: &str) {
        self.update(|handshake| handshake.request.upgrade = Some(protocols.into()));
    }

    /// Sets the parent proxy of the tunnel, if any.
    pub fn set_parent(&mut self, parent: Option<Arc<str>>) {
        self.update(|handshake| handshake.request.parent = parent);
    }

    fn update(&mut self, change: impl FnOnce(&mut Handshake)) {
        if let State::Handshake(handshake) = &mut self.state {
            change(handshake);
        }
    }

    const fn handshake(&self) -> Option<&Handshake> {
        match &self.state {
            State::Handshake(handshake) => Some(handshake),
            State::Live(_) | State::Ended { .. } => None,
        }
    }
}

impl Account {
    /// Returns the number of the connection, used by the log and `sluicegate kill`.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Returns the client's address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.client
    }

    /// Returns the client's address without the port.
    #[must_use]
    pub const fn source(&self) -> IpAddr {
        self.client.ip()
    }

    /// Returns number and source, the registry's key.
    #[must_use]
    pub fn connection(&self) -> Connection {
        Connection { id: self.id, source: self.client.ip().into() }
    }

    /// Returns the bytes moved by the tunnel while it is live.
    #[must_use]
    pub fn flow(&self) -> Option<&Arc<Flow>> {
        self.live().map(|live| &live.flow)
    }

    pub(super) const fn live(&self) -> Option<&Arc<Live>> {
        match &self.state {
            State::Live(live) => Some(live),
            State::Handshake(_) | State::Ended { .. } => None,
        }
    }

    /// Enters a stage of the handshake, after an awaited event of the client.
    pub fn enter(&mut self, stage: Stage) {
        let Connection { id, source } = self.connection();
        let State::Handshake(handshake) = &mut self.state else { return };
        self.registry.handshakes.moved(Some(handshake.stage), Some(stage));
        handshake.stage = stage;
        if self.slot.is_none() {
            self.registry.handshakes.record_event(id, source, stage);
        }
    }

    /// Waits until fewer connections of the user than `--max-dials-per-user` are being opened, and
    /// counts among those until the tunnel stands. The user must be known by now.
    ///
    /// # Errors
    /// [`Reason::DialLimit`] if the wait exceeds `limit`.
    pub async fn wait_to_dial(&mut self, limit: Duration) -> Result<(), Refusal> {
        let user = self.handshake().and_then(|handshake| handshake.user.clone());
        let owner = Principal::of(user, self.client.ip());
        let dials = Arc::clone(&self.registry.dials);
        let permit = dials.take_within(limit, owner, || self.enter(Stage::Queue)).await?;
        self.update(|handshake| handshake.permit = Some(permit));
        Ok(())
    }

    /// Takes one of the slots in [`super::Limits`], until the account is dropped. The user must be
    /// set before; `own` is the user's limit that replaces the common one.
    ///
    /// # Errors
    /// The refusal, with the flag and value of the exceeded limit; [`Reason::HandshakeLimit`] if
    /// this connection was evicted.
    pub fn reserve(&mut self, own: Option<usize>) -> Result<(), Refusal> {
        let (State::Handshake(handshake), None) = (&mut self.state, &self.slot) else { return Ok(()) };
        let slot = self.registry.slots().take(handshake.user.clone(), own, self.client.ip())?;
        match self.registry.handshakes.leave(self.id) {
            Err(Absence::Evicted) => {
                handshake.evicted = true;
                return Err(Refusal::new(Reason::HandshakeLimit, self.registry.handshakes.evicted()));
            }
            left => handshake.task = left.ok(),
        }
        self.slot = Some(slot);
        Ok(())
    }

    /// Applies the rate to a tunnel without an engine yet: an engine may start differently for an
    /// unlimited tunnel.
    pub fn limit_rate(&self, flow: &Flow) {
        if let Some(handshake) = self.handshake() {
            self.registry.set_first_rate(self.id, handshake.user.as_ref(), handshake.exchange.is_some(), flow);
        }
    }

    /// Registers the exchange with `origin` before its 101 under [`Account::id`], as a tunnel is:
    /// the flow counts its bytes and takes its rate and its end. It lasts until
    /// [`Account::established`], or until the connection is refused.
    pub fn exchange(&mut self, origin: SocketAddr) -> Arc<Flow> {
        let flow = Arc::new(Flow::default());
        if let State::Handshake(handshake) = &mut self.state {
            let meters = &self.registry.meters;
            let engine = meters.engine(EXCHANGE);
            engine.active.increment(1.0);
            // Copies, since the connection may still be refused.
            let user = handshake.user.clone().map(|name| meters.user(name));
            let request = handshake.request.clone();
            let live = Arc::new(Live::new(self.id, self.client, user, request, origin, engine, Arc::clone(&flow)));
            self.registry.insert(&live);
            handshake.exchange = Some(live);
        }
        flow
    }

    /// Registers the tunnel under [`Account::id`]; from here on its bytes are counted from `flow`.
    /// A second call changes nothing.
    pub fn established(&mut self, origin: SocketAddr, engine: &'static str, flow: Arc<Flow>) {
        let state = mem::replace(&mut self.state, State::Ended { stage: None });
        let State::Handshake(handshake) = state else {
            self.state = state;
            return;
        };
        // A tunnel has no task: `task` would keep the task's memory.
        let Handshake { stage, user, request, exchange, task: _, permit: _, received_bytes: _, evicted: _ } =
            *handshake;
        let meters = &self.registry.meters;
        let (established, duration) = meters.established();
        match &request.upgrade {
            None => established.increment(1),
            Some(_) => metrics::CONNECT_REQUESTS.counter(&["101", "established"]).increment(1),
        }
        duration.record(flow.started().saturating_duration_since(request.accepted));
        let engine = meters.engine(engine);
        engine.active.increment(1.0);
        let user = user.map(|name| meters.user(name));
        let live = Arc::new(Live::new(self.id, self.client, user, request, origin, engine, flow));
        // In this order: a reader of the log line finds the tunnel listed.
        match exchange {
            Some(exchange) => self.replace_exchange(&exchange, &live),
            None => self.registry.insert(&live),
        }
        self.registry.handshakes.moved(Some(stage), None);
        access_log::established(&live);
        self.state = State::Live(live);
    }

    /// Registers a tunnel in place of the exchange that preceded it.
    fn replace_exchange(&self, exchange: &Live, tunnel: &Arc<Live>) {
        exchange.leave();
        self.registry.replace(tunnel);
        // Also passes on a command given between the two.
        let flow = Arc::clone(&tunnel.flow);
        exchange.flow.attach_control(move |command| {
            if let Command::Stop(why) = command {
                flow.stop(why);
            }
        });
    }

    /// Ends a failed handshake. (For an established tunnel, as when the 200 could not be written,
    /// it ends the tunnel.)
    ///
    /// The connection counts as open until this is dropped: its client still has an answer to read.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.end(refusal.reason, &refusal.detail);
    }

    /// Ends a tunnel. (Before [`Account::established`] it is the end of the handshake.)
    pub fn closed(mut self, reason: Reason) {
        self.end(reason, "");
    }

    fn end(&mut self, reason: Reason, detail: &str) {
        match mem::replace(&mut self.state, State::Ended { stage: None }) {
            State::Handshake(handshake) => self.end_handshake(*handshake, reason, detail),
            State::Live(live) => {
                // Before the tunnel is logged and unlisted: an observer of either finds the slot
                // free.
                self.slot = None;
                live.close(reason);
                self.registry.remove(self.id);
            }
            ended @ State::Ended { .. } => self.state = ended,
        }
    }

    fn end_handshake(&mut self, mut handshake: Handshake, reason: Reason, detail: &str) {
        // Before the log line, as for a tunnel.
        handshake.permit = None;
        self.slot = None;
        if let Some(exchange) = handshake.exchange.take() {
            exchange.refuse(reason, detail);
            self.registry.remove(self.id);
        } else {
            access_log::refused(&Refused {
                id: self.id,
                client: self.client,
                user: handshake.user.as_deref(),
                request: &handshake.request,
                received_bytes: handshake.received_bytes,
                moved: None,
                reason,
                detail,
            });
        }
        let mut stage = handshake.stage;
        if !handshake.evicted {
            // It takes room again until its client has read the answer.
            self.registry.handshakes.moved(Some(stage), Some(Stage::Answer));
            stage = Stage::Answer;
            let Connection { id, source } = self.connection();
            match handshake.task {
                Some(task) => self.registry.handshakes.enter(id, source, task),
                None => self.registry.handshakes.record_event(id, source, stage),
            }
        }
        self.state = State::Ended { stage: Some(stage) };
    }

    /// Returns the end of a connection dropped without a reason: its task was dropped or panicked.
    fn abandoned(&self) -> (Reason, Cow<'static, str>) {
        if std::thread::panicking() {
            // Handshake or tunnel, the fault is the gateway's.
            (Reason::EngineFailed, "internal error: the task that served it panicked".into())
        } else if self.handshake().is_some_and(|handshake| handshake.evicted) {
            (Reason::HandshakeLimit, self.registry.handshakes.evicted().into())
        } else if self.registry.stopping() {
            (Reason::Shutdown, "the gateway stopped".into())
        } else if self.live().is_some() {
            (Reason::EngineFailed, "internal error: the task that served it was dropped".into())
        } else {
            (Reason::ClientGone, "abandoned before it was answered".into())
        }
    }
}

/// Converts the ::ffff:a.b.c.d of a dual-stack listener to IPv4, for the limits and the log.
fn canonical(client: SocketAddr) -> SocketAddr {
    SocketAddr::new(client.ip().to_canonical(), client.port())
}

impl Drop for Account {
    fn drop(&mut self) {
        if let State::Handshake(handshake) = &mut self.state {
            let left = self.registry.handshakes.leave(self.id);
            handshake.evicted |= left.is_err_and(|absence| absence == Absence::Evicted);
            // No client is left to read an answer.
            handshake.task = None;
        }
        if !matches!(self.state, State::Ended { .. }) {
            let (reason, detail) = self.abandoned();
            self.end(reason, &detail);
        }
        if let State::Ended { stage: Some(stage) } = self.state {
            // A handshake took room until its answer was read.
            drop(self.registry.handshakes.leave(self.id));
            self.registry.handshakes.moved(Some(stage), None);
        }
        // Last, so that a caller waiting for all connections to leave finds everything counted.
        self.registry.leave();
    }
}
