//! A connection on its way to a tunnel: the room, the permit and the slot that it takes.

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
    /// Who the client is by the word of a proxy before, which is to be believed.
    pub fn set_client(&mut self, client: SocketAddr) {
        self.client = canonical(client);
        let Connection { id, source } = self.connection();
        self.registry.handshakes.heard(id, source, Stage::Request);
    }

    /// Number and source, by which the registry knows it.
    #[must_use]
    pub fn connection(&self) -> Connection {
        Connection { id: self.id, source: self.client.ip().into() }
    }

    /// The handshake waits for something else now, so that the client did what was waited for.
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
    /// [`Reason::DialLimit`] when that takes longer than `limit`.
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

    /// Takes one of the slots that [`Limits`] allow, for as long as this lives. The user must be
    /// known by now; `own` is the limit that he has instead of everybody's.
    ///
    /// # Errors
    /// The refusal, with the flag and the value that it ran into; [`Reason::HandshakeLimit`] when this
    /// connection had to make room for another one.
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
