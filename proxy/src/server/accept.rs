//! The accept loop.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::warn;

use crate::account::Registry;
use crate::client::Client;
use crate::connection::{Gateway, serve};
use crate::reason::{Reason, Refusal};
use crate::sys::stream::Listener;

/// Handshakes at once. One costs a descriptor and at most 16 KiB; the limit is there for those who
/// never finish theirs.
const HANDSHAKES: usize = 4096;

/// The first and the longest pause after an error that the next accept would meet again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Connections still taken from the queue once the gateway drains: what the kernel has accepted
/// already would be reset by closing the listener.
const LAST: usize = 4096;

/// Accepts until `draining` is true and the queue is empty; clients speak TLS if the listener is `secure`.
pub(super) async fn accept(
    listener: Listener,
    secure: bool,
    gateway: Arc<Gateway>,
    registry: Arc<Registry>,
    mut draining: watch::Receiver<bool>,
) {
    let (mut pause, mut last) = (BACK_OFF.0, LAST);
    loop {
        let accepted = tokio::select! {
            biased;
            _ = draining.wait_for(|draining| *draining) => {
                if last == 0 {
                    return;
                }
                last -= 1;
                // The runtime may not have heard yet of what is in the queue.
                listener.accept_now()
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                pause = BACK_OFF.0;
                let (account, handshakes) = registry.accepted(client);
                if handshakes <= HANDSHAKES {
                    tokio::spawn(serve(gateway.clone(), stream, secure, account));
                } else {
                    tokio::spawn(turn_away(stream, secure, account));
                }
            }
            Err(_) if *draining.borrow() => return,
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                warn!(%error, pause_ms = pause.as_millis(), "cannot accept: {}", remedy(&error));
                sleep(pause).await;
                pause = (pause * 2).min(BACK_OFF.1);
            }
        }
    }
}

async fn turn_away(stream: TcpStream, secure: bool, mut account: crate::account::Account) {
    let refusal = Refusal::new(Reason::HandshakeLimit, format!("{HANDSHAKES} handshakes are under way"));
    account.refused(&refusal);
    // One that waits for TLS would not understand.
    if !secure {
        Client::new(stream).refuse(&refusal).await;
    }
}

/// The connection was gone, or its network, before it was accepted (accept(2)): the next one is not
/// concerned.
fn is_of_the_connection(error: &io::Error) -> bool {
    !matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "raise the descriptor limit (LimitNOFILE=, ulimit -n) or lower --max-tunnels",
        Some(libc::ENFILE) => "raise fs.file-max",
        _ => "the host is short of memory for sockets (net.ipv4.tcp_mem)",
    }
}
