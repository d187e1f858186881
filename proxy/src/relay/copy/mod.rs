//! The engine `copy`: read and write on tokio, the portable fallback and the oracle of the tests.
//!
//! It shares no code with the pump, so that both agreeing means something. Bytes under way are in a
//! buffer of this process alone, and lost if it dies.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::engine::Adopted;
use super::options::Options;
use crate::sys::tcp;
use crate::tunnel::{Command, Tunnel};

mod buffer;
mod copy_leg;
mod copy_tunnel;

use copy_tunnel::{Activity, CopyTunnel};

/// A runtime of its own, so that bulk copying does not hold up handshakes.
#[derive(Debug)]
pub(super) struct Copy {
    /// Taken when dropped.
    runtime: Option<tokio::runtime::Runtime>,
    options: Arc<Options>,
}

impl Copy {
    /// Starts the threads.
    pub(super) fn start(options: &Options) -> io::Result<Self> {
        check_threads(options.threads.max(1) + 1)?;
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
        let streams = match copies.and_then(|(client, origin)| Ok([stream(client)?, stream(origin)?])) {
            Ok(streams) => streams,
            Err(error) => return Err((Box::new(Tunnel { client, origin, tls, prefix, flow }), error)),
        };
        drop((client, origin));
        let tunnel = Arc::new(CopyTunnel::new(streams, tls, flow.clone(), self.options.clone()));
        flow.attach_activity(Arc::new(Activity(Arc::downgrade(&tunnel))));
        let (stop, stopped) = oneshot::channel();
        let stop = Mutex::new(Some(stop));
        // The control does not keep the tunnel alive: its sockets are closed when its task ends.
        let paced = Arc::downgrade(&tunnel);
        flow.attach_control(move |command| match command {
            Command::ApplyRate => paced.upgrade().into_iter().for_each(|tunnel| tunnel.apply_rate()),
            Command::Stop(why) => {
                let stop = stop.lock().unwrap_or_else(PoisonError::into_inner).take();
                let _ = stop.map(|stop| stop.send(why));
            }
        });
        let (end, ended) = oneshot::channel();
        runtime.spawn(async move {
            let why = tunnel.run(prefix, stopped).await;
            drop(tunnel);
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
    // A crash of the process in mid-stream must not look like the end of the stream.
    tcp::reset_on_close(&socket, true)?;
    TcpStream::from_std(socket)
}

/// Checks that `count` threads can be started at once: if not, the runtime would panic.
fn check_threads(count: usize) -> io::Result<()> {
    let (hold, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    thread::scope(|scope| {
        let wait = || held.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let started = (0..count).map(|_| thread::Builder::new().spawn_scoped(scope, wait).map(drop));
        let result = started.collect::<io::Result<()>>();
        drop(hold);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_threads_can_be_had() {
        check_threads(3).unwrap();
    }
}
