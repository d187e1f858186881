//! Relay on tokio-uring, for comparison: readiness by poll operations of its ring, data by
//! non-blocking splice(2) on the thread of the runtime. tokio-uring has no multishot operations, so
//! each wait is a submission of its own. The target is fixed, and pipes are held for the life of
//! the tunnel.

use std::io;
use std::marker::PhantomData;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::thread;

use io_uring_06::{cqueue, opcode, types};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use socket2::Socket;
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

use crate::socket;

/// Capacity of a pipe in bytes, and the maximum moved by one step.
const PIPE_BYTES: usize = 1 << 20;

/// Serves on `threads` threads, each with its own listener for the address and its own runtime.
/// Returns the address and serves until the process exits.
///
/// # Errors
/// Errors of the sockets, and of a kernel that refuses io_uring.
pub fn start(address: SocketAddr, target: SocketAddr, threads: usize) -> io::Result<SocketAddr> {
    let first = listener(address)?;
    let address = first.local_addr()?;
    let more = (1..threads).map(|_| listener(address)).collect::<io::Result<Vec<_>>>()?;
    for listener in [first].into_iter().chain(more) {
        // Created here, so that a refusal is an error of the start.
        let (sender, started) = std::sync::mpsc::channel();
        thread::Builder::new().name("relay".into()).spawn(move || {
            let runtime = tokio_uring::Runtime::new(&tokio_uring::builder());
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(sender.send(Err(error))),
            };
            drop(sender.send(Ok(())));
            runtime.block_on(accept(&Rc::new(listener), target));
        })?;
        started.recv().map_err(|_| io::Error::other("a thread of the relay ended"))??;
    }
    Ok(address)
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket::new(address)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

async fn accept(listener: &Rc<TcpListener>, target: SocketAddr) {
    loop {
        match listener.accept() {
            Ok((client, _)) => {
                tokio_uring::spawn(async move {
                    // Any end of a tunnel: both its sockets are closed.
                    let _ = tunnel(client, target).await;
                });
            }
            Err(_) => drop(ready(listener, PollFlags::IN).await),
        }
    }
}

async fn tunnel(client: TcpStream, target: SocketAddr) -> io::Result<()> {
    client.set_nonblocking(true)?;
    client.set_nodelay(true)?;
    let origin = dial(target).await?;
    let (client, origin) = (Rc::new(client), Rc::new(origin));
    let upward = tokio_uring::spawn(pump(client.clone(), origin.clone()));
    let downward = pump(origin, client).await;
    upward.await.map_err(io::Error::other)?.and(downward)
}

async fn dial(target: SocketAddr) -> io::Result<TcpStream> {
    let socket: Rc<Socket> = socket::new(target)?.into();
    socket.set_nonblocking(true)?;
    if let Err(error) = socket.connect(&target.into()) {
        if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) {
            return Err(error);
        }
        ready(&socket, PollFlags::OUT).await?;
        socket.take_error()?.map_or(Ok(()), Err)?;
    }
    Ok(Rc::into_inner(socket).ok_or_else(|| io::Error::other("the socket is still waited for"))?.into())
}

/// Relays one direction to its end. An error ends the other direction too.
async fn pump(from: Rc<TcpStream>, to: Rc<TcpStream>) -> io::Result<()> {
    let result = carry(&from, &to).await;
    let _ = to.shutdown(if result.is_ok() { Shutdown::Write } else { Shutdown::Both });
    result
}

async fn carry(from: &Rc<TcpStream>, to: &Rc<TcpStream>) -> io::Result<()> {
    let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
    // An ordinary user gets 64 pipes of this size, then smaller ones.
    let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
    loop {
        let mut filled = match once(&**from, &write, PIPE_BYTES) {
            // The next step starts with a wait, so that other tunnels make progress.
            Err(Errno::AGAIN) => {
                ready(from, PollFlags::IN).await?;
                continue;
            }
            Ok(0) => return Ok(()),
            other => other?,
        };
        while filled > 0 {
            match once(&read, &**to, filled) {
                Err(Errno::AGAIN) => ready(to, PollFlags::OUT).await?,
                moved => filled -= moved?,
            }
        }
        ready(from, PollFlags::IN).await?;
    }
}

fn once(from: impl AsFd, to: impl AsFd, most: usize) -> rustix::io::Result<usize> {
    splice(from, None, to, None, most, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)
}

/// Waits for any of `events`, an error or the end. The operation shares the socket, because it
/// outlives a dropped future.
async fn ready<S: AsRawFd + Unpin + 'static>(socket: &Rc<S>, events: PollFlags) -> io::Result<()> {
    let poll = opcode::PollAdd::new(types::Fd(socket.as_raw_fd()), u32::from(events.bits())).build();
    UnsubmittedOneshot::new(socket.clone(), Polled(PhantomData), poll).submit().await
}

struct Polled<S>(PhantomData<S>);

impl<S: 'static> OneshotOutputTransform for Polled<S> {
    type Output = io::Result<()>;
    type StoredData = Rc<S>;

    fn transform_oneshot_output(self, _socket: Rc<S>, entry: cqueue::Entry) -> io::Result<()> {
        if entry.result() < 0 { Err(io::Error::from_raw_os_error(-entry.result())) } else { Ok(()) }
    }
}
