//! A stand-in until the dialler is merged.
use crate::policy::{Named, Permit};
use crate::reason::{Reason, Refusal};
use crate::sys::socket::LegOptions;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
/// Options.
#[derive(Debug, Clone)]
pub struct Options {
    leg: LegOptions,
}
impl Options {
    /// New.
    pub fn new(_t: Duration, _s: &[IpAddr], leg: LegOptions) -> Result<Self, String> {
        Ok(Self { leg })
    }
}
/// Dialer.
#[derive(Debug)]
pub struct Dialer(Options);
impl Dialer {
    /// New.
    pub fn new(o: Options) -> Self {
        Self(o)
    }
    /// Resolve.
    pub async fn resolve(&self, named: &Named) -> Result<Vec<SocketAddr>, Refusal> {
        let a = tokio::net::lookup_host(named.target().to_string()).await;
        a.map(Iterator::collect).map_err(|e| Refusal::new(Reason::ResolveFailed, e.to_string()))
    }
    /// Dial.
    pub async fn dial(&self, permit: Permit) -> Result<(tokio::net::TcpStream, SocketAddr), Refusal> {
        let a = permit.addresses()[0];
        let s = tokio::net::TcpSocket::new_v4().unwrap();
        crate::sys::socket::apply(&s, &self.0.leg).unwrap();
        s.connect(a).await.map(|s| (s, a)).map_err(|e| Refusal::new(Reason::ConnectRefused, e.to_string()))
    }
}
