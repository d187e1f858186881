//! The exchange before an origin's 101, registered as a tunnel is: its bytes are counted, and commands reach it.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Account;
use super::live::{Asked, EXCHANGE, Live};
use crate::tunnel::{Command, Flow};

impl Account {
    /// Registers an exchange with `origin` under [`Account::id`]. The flow counts its bytes, gives it its rate and its end;
    /// the exchange lasts until [`Account::established`], or until the connection is refused.
    pub fn exchange(&mut self, origin: SocketAddr) -> Arc<Flow> {
        let flow = Arc::new(Flow::default());
        let meters = &self.registry.meters;
        let engine = meters.engine(EXCHANGE);
        engine.active.increment(1.0);
        let user = self.user.clone().map(|name| meters.user(name));
        // Copies, since the connection may still be refused.
        let asked = Asked {
            accepted: self.accepted,
            tls: self.tls,
            target: self.target.clone(),
            upgrade: self.upgrade.clone(),
            parent: self.parent.clone(),
        };
        let live = Arc::new(Live::new(self.id, self.client, user, asked, origin, engine, Arc::clone(&flow)));
        self.registry.insert(&live);
        self.exchange = Some(live);
        flow
    }

    /// Registers a tunnel, in the place of its exchange if it had one.
    pub(super) fn register(&mut self, tunnel: &Arc<Live>) {
        let Some(exchange) = self.exchange.take() else { return self.registry.insert(tunnel) };
        exchange.leave();
        self.registry.replace(tunnel);
        // Also what was commanded between the two.
        let flow = Arc::clone(&tunnel.flow);
        exchange.flow.attach_control(move |command| {
            if let Command::Stop(why) = command {
                flow.stop(why);
            }
        });
    }
}
