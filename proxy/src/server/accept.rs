//! The accept loop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::sleep;
use tracing::warn;

use crate::account::{Account, Registry};
use crate::connection::{Gateway, Transport, serve};
use crate::reason::{Reason, Refusal};
use crate::sys::descriptors::{self, Purpose};
use crate::sys::stream::Listener;

/// First and longest pause after an error likely to repeat in the next accept.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Most connections still taken from the queue once the gateway drains: closing the listener would
/// reset the ones the kernel has already accepted.
const LAST: usize = 4096;

/// Accepts until `draining` is true and the queue is empty; `transport` is the
/// one of its clients.
pub(super) async fn accept(
    listener: Listener,
    transport: Transport,
    gateway: Arc<Gateway>,
    registry: Arc<Registry>,
    mut draining: watch::Receiver<bool>,
) {
    let (mut pause, mut last, mut failing) = (BACK_OFF.0, LAST, None);
    loop {
        let accepted = tokio::select! {
            biased;
            _ = draining.wait_for(|draining| *draining) => {
                if last == 0 {
                    return;
                }
                last -= 1;
                // The runtime may not have been notified yet of connections in the queue.
                listener.accept_now()
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                (pause, failing) = (BACK_OFF.0, None);
                let account = registry.accepted(client);
                let is_short = descriptors::admit(&stream, Purpose::Socket).is_err();
                if is_short && !registry.make_room() {
                    turn_away(account);
                    continue;
                }
                let connection = account.connection();
                let task = tokio::spawn(serve(gateway.clone(), stream, transport, account));
                // The task runs on this thread, so it has not begun.
                registry.serving(&connection, task.abort_handle());
                if is_short {
                    // Lets the evicted connection end.
                    yield_now().await;
                }
            }
            Err(_) if *draining.borrow() => return,
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                // Once for as long as it stays the same.
                if failing != error.raw_os_error() {
                    failing = error.raw_os_error();
                    warn!(%error, "cannot accept connections; retrying: {}", remedy(&error));
                }
                registry.make_room();
                sleep(pause).await;
                pause = (pause * 2).min(BACK_OFF.1);
            }
        }
    }
}

/// Ends a connection without a descriptor to serve it; only closing it frees one. An answer would
/// hold the descriptor for longer.
fn turn_away(mut account: Account) {
    account.refused(&Refusal::new(Reason::HandshakeLimit, "out of descriptors for tunnels and outgoing connections"));
}

/// Errors of the one connection that was to be accepted, or of its network (accept(2)): the next
/// one
/// is not concerned. All other errors would be met again at once.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EAGAIN
                | libc::EINTR
                | libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::EOPNOTSUPP
                | libc::ETIMEDOUT
        )
    )
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "raise the descriptor limit (LimitNOFILE=, ulimit -n) or lower --max-tunnels",
        Some(libc::ENFILE) => "raise fs.file-max",
        Some(libc::ENOBUFS | libc::ENOMEM) => "the host is short of memory for sockets (net.ipv4.tcp_mem)",
        Some(libc::EPERM | libc::EACCES) => "a filter of the host (seccomp, SELinux, BPF) forbids accept4(2)",
        _ => "unexpected error of a listener: see `dmesg`, and restart the gateway if it persists",
    }
}
