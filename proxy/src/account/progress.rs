//! Progress of a connection to a tunnel: the room, the permit and the slot it takes.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

use super::handshakes::Absence;
use super::{Account, Connection, Stage, canonical};
use crate::principal::Principal;
use crate::reason::{Reason, Refusal};

impl Account {
    /// Sets the client's address from the header of a trusted proxy.
    pub fn set_client(&mut self, client: SocketAddr) {
        self.client = canonical(client);
        let Connection { id, source } = self.connection();
        self.registry.handshakes.heard(id, source, Stage::Request);
    }

    /// Returns number and source, the registry's key.
    #[must_use]
    pub fn connection(&self) -> Connection {
        Connection { id: self.id, source: self.client.ip().into() }
    }

    /// Enters a stage of the handshake, after an awaited event of the client.
    pub fn enter(&mut self, stage: Stage) {
        self.registry.handshakes.moved(self.stage, Some(stage));
        self.stage = Some(stage);
        if self.slot.is_none() {
            let Connection { id, source } = self.connection();
            self.registry.handshakes.heard(id, source, stage);
        }
    }

    /// Waits until fewer connections of the user than `--max-dials-per-user` are being opened, and
    /// counts among those until the tunnel stands. The user must be known by now.
    ///
    /// # Errors
    /// [`Reason::DialLimit`] if the wait exceeds `limit`.
    pub async fn wait_to_dial(&mut self, limit: Duration) -> Result<(), Refusal> {
        let owner = Principal::of(self.user.clone(), self.client.ip());
        let dials = Arc::clone(&self.registry.dials);
        let mut taking = pin!(dials.take(owner));
        let permit = match poll_fn(|context| Poll::Ready(taking.as_mut().poll(context))).await {
            Poll::Ready(permit) => permit,
            Poll::Pending => {
                self.enter(Stage::Queue);
                timeout(limit, taking).await.unwrap_or(None)
            }
        };
        self.permit = permit;
        match self.permit {
            Some(_) => Ok(()),
            None => Err(Refusal::new(
                Reason::DialLimit,
                format!(
                    "--max-dials-per-user {} reached, and no connection attempt ended within {limit:?}",
                    dials.most()
                ),
            )),
        }
    }

    /// Takes one of the slots in [`Limits`], until the account is dropped. The user must be set
    /// before; `own` is the user's limit that replaces the common one.
    ///
    /// # Errors
    /// The refusal, with the flag and value of the exceeded limit; [`Reason::HandshakeLimit`] if
    /// this connection was evicted.
    pub fn reserve(&mut self, own: Option<usize>) -> Result<(), Refusal> {
        if self.slot.is_none() {
            let slot = self.registry.slots().take(self.user.clone(), own, self.client.ip())?;
            match self.registry.handshakes.leave(self.id) {
                Err(Absence::Evicted) => {
                    self.evicted = true;
                    return Err(Refusal::new(Reason::HandshakeLimit, self.made_room()));
                }
                left => self.task = left.ok(),
            }
            self.slot = Some(slot);
        }
        Ok(())
    }

    pub(super) fn made_room(&self) -> String {
        format!(
            "closed to make room for another connection: {} without a tunnel are the limit; raise the descriptor limit \
             (LimitNOFILE=, ulimit -Hn)",
            self.registry.handshakes.room()
        )
    }
}
