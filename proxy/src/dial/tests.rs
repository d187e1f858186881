//! Dialling over real sockets on loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::dialer::is_self_connected;
use super::resolve::Resolver;
use super::*;
use crate::policy::{Permit, Policy};
use crate::principal::Principal;
use crate::reason::{Reason, Refusal};
use crate::sys::socket::{LegOptions, is_local_address};
use crate::target::Target;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

fn dialer(timeout: Duration, source: &[&str]) -> Dialer {
    let source: Vec<IpAddr> = source.iter().map(|ip| ip.parse().unwrap()).collect();
    let options = Options::new(timeout, &source, LegOptions::default()).unwrap();
    let found = |_: &str| Ok(vec!["127.0.0.1:1".parse().unwrap(), "127.0.0.2:2".parse().unwrap()]);
    Dialer { resolver: Resolver::by(found), ..Dialer::new(options) }
}

fn policy() -> Policy {
    let allow = ["127.0.0.0/8:*", "[::1]:*"].map(|rule| rule.parse().unwrap()).to_vec();
    Policy::new(allow, Vec::new(), Vec::new(), is_local_address)
}

fn permit(target: &str, addresses: &[SocketAddr]) -> Permit {
    let named = policy().check_name(Target::parse(target).unwrap(), None).unwrap();
    policy().check_addresses(named, addresses.to_vec()).unwrap()
}

fn permit_address(address: SocketAddr) -> Permit {
    permit(&address.to_string(), &[address])
}

async fn dial(dialer: &Dialer, permit: Permit) -> Result<(TcpStream, SocketAddr), Refusal> {
    let reached = timeout(PATIENCE, dialer.dial(&dialer.choose(permit), "")).await.expect("a dial that ends");
    reached.map(|Upstream { socket, address, .. }| (socket, address))
}

async fn addresses(dialer: &Dialer, target: &Target) -> Vec<SocketAddr> {
    dialer.look_up(target, &Principal::Gateway).await.unwrap()
}

/// A bound socket and its address, without a listener: no other process can listen there.
fn closed_port() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// A listener that answers no SYN: its backlog of one is full (listen(2), tcp(7)).
struct BlackHole {
    address: SocketAddr,
    _sockets: [Socket; 2],
}

impl BlackHole {
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        filler.connect(&address).unwrap();
        Self { address: address.as_socket().unwrap(), _sockets: [listener, filler] }
    }
}

#[tokio::test]
async fn a_listener_is_reached_with_the_options_set() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (stream, reached) = dial(&dialer(PATIENCE, &[]), permit_address(address)).await.unwrap();
    assert_eq!((reached, stream.peer_addr().unwrap()), (address, address));
    assert!(stream.nodelay().unwrap());
    let socket = socket2::SockRef::from(&stream);
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(45));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), LegOptions::default().keepalive_interval);
}

#[tokio::test]
async fn a_closed_port_refuses() {
    let (_socket, address) = closed_port();
    let refusal = dial(&dialer(PATIENCE, &[]), permit_address(address)).await.unwrap_err();
    assert_eq!(refusal, Refusal::new(Reason::ConnectRefused, format!("connection refused by {address}")));
}

#[tokio::test]
async fn a_black_hole_times_out() {
    let hole = BlackHole::new();
    let refusal = dial(&dialer(Duration::from_millis(50), &[]), permit_address(hole.address)).await.unwrap_err();
    let detail = format!("no answer from {} (--dial-timeout 50ms)", hole.address);
    assert_eq!(refusal, Refusal::new(Reason::ConnectTimeout, detail));
}

#[tokio::test]
async fn a_name_is_resolved_with_the_port_of_the_target_and_all_its_addresses_are_tried() {
    let dialer = dialer(PATIENCE, &[]);
    let hole = BlackHole::new();
    let port = hole.address.port();
    let listener = TcpListener::bind(("127.0.0.2", port)).unwrap();
    let named = policy().check_name(Target::parse(&format!("a.example:{port}")).unwrap(), None).unwrap();
    let addresses = addresses(&dialer, named.target()).await;
    assert_eq!(addresses, [hole.address, listener.local_addr().unwrap()]);
    let permit = policy().check_addresses(named, addresses).unwrap();
    let (_stream, reached) = dial(&dialer, permit).await.unwrap();
    assert_eq!(reached, listener.local_addr().unwrap());
}

#[tokio::test]
async fn of_several_failures_the_refusal_is_told() {
    let hole = BlackHole::new();
    let port = hole.address.port();
    let closed = SocketAddr::from(([127, 0, 0, 2], port));
    let permit = permit(&format!("a.example:{port}"), &[hole.address, closed]);
    let refusal = dial(&dialer(Duration::from_millis(300), &[]), permit).await.unwrap_err();
    let detail = format!("connection refused by {closed} for a.example; 2 addresses failed");
    assert_eq!(refusal, Refusal::new(Reason::ConnectRefused, detail));
}

#[tokio::test]
async fn a_literal_address_is_not_looked_up() {
    let named = policy().check_name(Target::parse("127.9.9.9:99").unwrap(), None).unwrap();
    let addresses = addresses(&dialer(PATIENCE, &[]), named.target()).await;
    assert_eq!(addresses, ["127.9.9.9:99".parse().unwrap()]);
}

#[tokio::test]
async fn the_source_address_is_that_of_the_family() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let dialer = dialer(PATIENCE, &["127.0.0.3"]);
    let (stream, _) = dial(&dialer, permit_address(listener.local_addr().unwrap())).await.unwrap();
    assert_eq!(stream.local_addr().unwrap().ip(), Ipv4Addr::new(127, 0, 0, 3));
    // A source for the other family is left aside.
    let Ok(listener) = TcpListener::bind(("::1", 0)) else {
        assert!(!is_local_address("::1".parse().unwrap()));
        return;
    };
    let (stream, _) = dial(&dialer, permit_address(listener.local_addr().unwrap())).await.unwrap();
    assert!(stream.local_addr().unwrap().ip().is_ipv6());
}

#[test]
fn sources_are_checked_at_start() {
    let options = |source: &[&str]| {
        let source: Vec<IpAddr> = source.iter().map(|ip| ip.parse().unwrap()).collect();
        Options::new(PATIENCE, &source, LegOptions::default()).map(|options| options.source)
    };
    let errors = options(&["127.0.0.1", "127.0.0.2", "192.0.2.1"]).unwrap_err();
    let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
    let expected = [
        "--source 127.0.0.1 and 127.0.0.2 are of the same family; remove one of the two",
        "--source 127.0.0.1 and 192.0.2.1 are of the same family; remove one of the two",
        "--source 192.0.2.1: this host has no such address; see `ip address`",
    ];
    assert_eq!(errors, expected);
    assert_eq!(options(&["::ffff:127.0.0.1"]), Ok(vec![Ipv4Addr::LOCALHOST.into()]));
}

#[tokio::test]
async fn a_socket_joined_to_itself_is_noticed() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.connect(&socket.local_addr().unwrap()).unwrap();
    let own = socket.local_addr().unwrap().as_socket().unwrap();
    assert!(is_self_connected(&socket.into(), own).unwrap());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let other = TcpStream::connect(address).unwrap();
    assert!(!is_self_connected(&other, address).unwrap());
}
