//! The engine `splice`: loop threads that wait by epoll and move bytes by splice(2).
//!
//! A thread has its own epoll instance, tunnels and pipes, and shares nothing with the others; a
//! tunnel stays with one thread. Readiness is edge-triggered, so that a tunnel costs no system call
//! but those that move its bytes.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use rustix::event::{EventfdFlags, epoll, eventfd};
use tokio::sync::oneshot;

use super::pump::Pump;
use super::{Adopted, Options};
use crate::reason::Reason;
use crate::tunnel::Tunnel;

mod event_loop;
mod registration;

use event_loop::{Loop, WAKE};

/// The loop threads.
#[derive(Debug)]
pub(super) struct Splice {
    loops: Vec<Handle>,
    next_id: AtomicU64,
}

/// What other threads hold of a loop thread.
#[derive(Clone, Debug)]
struct Handle {
    epoll: Arc<OwnedFd>,
    wake: Arc<OwnedFd>,
    messages: mpsc::Sender<Message>,
    /// Tunnels that it has, for balance.
    load: Arc<AtomicUsize>,
}

/// The load of a loop whose thread is gone: more than it can ever have.
const GONE: usize = usize::MAX / 2;

/// Lets nobody choose a loop whose thread has left, as by a panic. Its tunnels were reset then.
struct Presence(Arc<AtomicUsize>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.store(GONE, Ordering::Relaxed);
    }
}

/// What a loop thread is told.
#[derive(Debug)]
enum Message {
    Adopt {
        id: u64,
        pump: Box<Pump>,
        end: oneshot::Sender<Reason>,
    },
    Stop {
        id: u64,
        why: Reason,
    },
    /// The engine is gone: leave when the last tunnel has.
    Retire,
}

impl Splice {
    /// Starts the loop threads.
    pub(super) fn start(options: &Options) -> io::Result<Self> {
        let loops = (0..options.threads.max(1)).map(|n| Handle::start(n, options)).collect::<io::Result<_>>()?;
        Ok(Self { loops, next_id: AtomicU64::new(1) })
    }

    /// Hands a tunnel to the loop with the fewest.
    pub(super) fn adopt(&self, tunnel: Tunnel) -> Adopted {
        let alive = self.loops.iter().filter(|handle| handle.load.load(Ordering::Relaxed) < GONE);
        let Some(handle) = alive.min_by_key(|handle| handle.load.load(Ordering::Relaxed)) else {
            return Err((Box::new(tunnel), io::Error::other("every loop thread has panicked")));
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        handle.adopt(id, tunnel)
    }
}

impl Drop for Splice {
    fn drop(&mut self) {
        self.loops.iter().for_each(|handle| handle.tell(Message::Retire));
    }
}

impl Handle {
    fn start(number: usize, options: &Options) -> io::Result<Self> {
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        epoll::add(&*epoll, &*wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        let (messages, inbox) = mpsc::channel();
        let load = Arc::new(AtomicUsize::new(0));
        let handle = Self { epoll, wake, messages, load };
        let (mut turning, name) = (Loop::new(handle.clone(), inbox, options), format!("splice-{number}"));
        let presence = Presence(handle.load.clone());
        thread::Builder::new().name(name).spawn(move || {
            let _presence = presence;
            turning.run();
        })?;
        Ok(handle)
    }

    /// Registers both sockets, so that a refusal is known while the tunnel can still go elsewhere;
    /// what they report before the loop knows the tunnel is reported to it once more.
    fn adopt(&self, id: u64, tunnel: Tunnel) -> Adopted {
        let flow = tunnel.flow.clone();
        let mut pump = Pump::new(tunnel);
        if let Err(error) = registration::register(&self.epoll, id, &mut pump) {
            return Err((Box::new(pump.into_tunnel()), error));
        }
        let handle = self.clone();
        flow.on_stop(move |why| handle.tell(Message::Stop { id, why }));
        let (end, ended) = oneshot::channel();
        self.load.fetch_add(1, Ordering::Relaxed);
        self.tell(Message::Adopt { id, pump: Box::new(pump), end });
        Ok(ended)
    }

    fn tell(&self, message: Message) {
        // A thread that is gone has no tunnels; whoever waits for one learns it from its channel.
        if self.messages.send(message).is_ok() {
            let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        }
    }
}
