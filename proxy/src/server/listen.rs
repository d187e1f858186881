//! Binds the addresses of the gateway, once for each core with its own listener.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use rustix::net::sockopt::set_socket_reuseport;
use socket2::{Domain, Protocol, Socket, Type};

use crate::admin::{ControlSocket, default_path};
use crate::connection::Transport;
use crate::sys::socket::{LegOptions, apply, prefer_core};

/// Backlog of connections not yet accepted, bounded by `net.core.somaxconn`: all the volumes of a
/// migration connect at once.
const BACKLOG: i32 = 4096;

/// Choice of the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlChoice {
    /// At a configured path: a failure to bind it is an error.
    At(PathBuf),
    /// At the default path; a failure to bind it leaves out the socket, with a warning.
    Default,
    /// No socket.
    None,
}

/// Addresses to bind.
#[derive(Clone, Debug)]
pub struct Addresses<'a> {
    /// For clients: `--listen`.
    pub plain: &'a [SocketAddr],
    /// For TLS clients: `--listen-tls`.
    pub tls: &'a [SocketAddr],
    /// For the read-only endpoints: `--admin`.
    pub admin: SocketAddr,
    /// For metrics and health alone: `--metrics`.
    pub metrics: Option<SocketAddr>,
    /// For changes: `--control`.
    pub control: ControlChoice,
}

/// A listener for clients.
#[derive(Debug)]
pub struct ClientListener {
    /// Bound and listening.
    pub socket: TcpListener,
    /// Transport of the clients that connect to it.
    pub transport: Transport,
}

/// The bound sockets; they accept nothing before the server runs.
#[derive(Debug)]
pub struct Listeners {
    /// Listeners at each address: a list for each core, or one for all of them.
    pub(super) clients: Vec<Vec<ClientListener>>,
    pub(super) admin: TcpListener,
    pub(super) metrics: Option<TcpListener>,
    /// The control socket. It belongs to the user of the process until [`ControlSocket::give_to`].
    pub control: Option<ControlSocket>,
    /// Why there is no control socket, although none was declined.
    pub no_control: Option<String>,
}

impl Listeners {
    /// Binds all addresses, the client addresses once for each of `cores`; options of accepted
    /// connections are set on the listeners, and Linux copies them
    /// (`net/ipv4/inet_connection_sock.c`, `inet_csk_clone_lock`).
    ///
    /// # Errors
    /// The address or the path, the cause and the remedy.
    pub fn bind(addresses: &Addresses<'_>, leg: &LegOptions, cores: &[usize]) -> Result<Self, String> {
        let Addresses { plain, tls, admin, metrics, control } = addresses;
        let of = |all: &'_ [SocketAddr], transport| all.iter().map(move |address| (*address, transport)).collect();
        let clients: [Vec<_>; 2] = [of(plain, Transport::Plain), of(tls, Transport::Tls)];
        let clients = || clients.iter().flatten().copied();
        // `[::]:3128` accepts IPv4 as well, unless IPv4 has a listener of its own.
        let has_own_v4 = |port| clients().any(|(other, _)| other.is_ipv4() && other.port() == port && port != 0);
        let mut by_core: Vec<Vec<ClientListener>> = (0..cores.len().max(1)).map(|_| Vec::new()).collect();
        for (address, transport) in clients() {
            let option = match transport {
                Transport::Plain => "--listen",
                Transport::Tls => "--listen-tls",
            };
            let bound = one_for_each(address, has_own_v4(address.port()), leg, cores);
            let bound = bound.map_err(|error| explain(option, address, &error))?;
            for (listeners, socket) in by_core.iter_mut().zip(bound) {
                listeners.push(ClientListener { socket, transport });
            }
        }
        let reader = |option: &str, address| {
            let bound = bind(address, false, None, false).and_then(listen);
            bound.map_err(|error| explain(option, address, &error))
        };
        let admin = reader("--admin", *admin)?;
        let metrics = metrics.map(|address| reader("--metrics", address)).transpose()?;
        let (control, no_control) = bind_control(control)?;
        Ok(Self { clients: by_core, admin, metrics, control, no_control })
    }

    /// Returns the addresses for clients of a transport, with the ports chosen by the kernel for
    /// port 0.
    ///
    /// # Errors
    /// The error of getsockname(2).
    pub fn client_addresses(&self, transport: Transport) -> io::Result<Vec<SocketAddr>> {
        let listeners = self.clients.first().into_iter().flatten().filter(|listener| listener.transport == transport);
        listeners.map(|listener| listener.socket.local_addr()).collect()
    }

    /// Where the admin server listens.
    ///
    /// # Errors
    /// The error of getsockname(2).
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Address of `--metrics`.
    ///
    /// # Errors
    /// The error of getsockname(2).
    pub fn metrics_address(&self) -> io::Result<Option<SocketAddr>> {
        self.metrics.as_ref().map(TcpListener::local_addr).transpose()
    }
}

/// Binds the control socket, or says why there is none.
///
/// Without being asked for one, a second gateway of a host starts beside the first.
fn bind_control(choice: &ControlChoice) -> Result<(Option<ControlSocket>, Option<String>), String> {
    let path = match choice {
        ControlChoice::None => return Ok((None, None)),
        ControlChoice::At(path) => Some(path.clone()),
        ControlChoice::Default => default_path(),
    };
    let Some(path) = path else {
        let why = "no default control socket: XDG_RUNTIME_DIR is not set; name one with --control PATH, or none";
        return Ok((None, Some(why.to_owned())));
    };
    match (ControlSocket::bind(&path), choice) {
        (Ok(socket), _) => Ok((Some(socket), None)),
        (Err(error), ControlChoice::Default) => Ok((None, Some(error.to_string()))),
        (Err(error), _) => Err(error.to_string()),
    }
}

/// A listener for each core, or one for all where the kernel does not let an address be shared.
///
/// The first is bound and listens like any other socket, so that an address in use is refused, even
/// if its owner would share it: two gateways sharing a port by mistake would each get a part of the
/// clients. Only then is it shared, with this process's own sockets: the kernel checks for an
/// address in use in bind(2) and, since two sockets may be bound before either listens, once more
/// in listen(2).
fn one_for_each(address: SocketAddr, only_v6: bool, leg: &LegOptions, cores: &[usize]) -> io::Result<Vec<TcpListener>> {
    let first = listen(bind(address, only_v6, Some(leg), false)?)?;
    let Some((first_core, others)) = cores.split_first().filter(|(_, others)| !others.is_empty()) else {
        return Ok(vec![first]);
    };
    let address = first.local_addr()?;
    // For speed alone: refused, as by a seccomp filter, one serves all.
    if prefer_core(&first, *first_core).and_then(|()| Ok(set_socket_reuseport(&first, true)?)).is_err() {
        return Ok(vec![first]);
    }
    let mut listeners = vec![first];
    for core in others {
        let shared = bind(address, only_v6, Some(leg), true)?;
        prefer_core(&shared, *core)?;
        listeners.push(listen(shared)?);
    }
    Ok(listeners)
}

fn bind(address: SocketAddr, only_v6: bool, leg: Option<&LegOptions>, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if shared {
        set_socket_reuseport(&socket, true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    if let Some(leg) = leg {
        apply(&socket, leg)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn explain(option: &str, address: SocketAddr, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there: stop it or choose another port",
        io::ErrorKind::AddrNotAvailable => "this host has no such address: see `ip address`",
        io::ErrorKind::PermissionDenied => "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE",
        _ => "choose another address",
    };
    format!("{option} {address}: {error}; {remedy}")
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::thread;

    use super::*;
    use crate::sys::thread::{pin_to_cpus, unthrottled_cpus};

    fn addresses<'a>(plain: &'a [SocketAddr], tls: &'a [SocketAddr]) -> Addresses<'a> {
        let admin = "127.0.0.1:0".parse().unwrap();
        Addresses { plain, tls, admin, metrics: None, control: ControlChoice::None }
    }

    #[test]
    fn both_families_share_a_port_and_a_taken_one_is_explained() {
        for cores in [&[][..], &[0], &[0, 1, 2]] {
            let leg = LegOptions::default();
            let bind = |clients: &[SocketAddr]| Listeners::bind(&addresses(clients, &[]), &leg, cores);
            let first = bind(&["0.0.0.0:0".parse().unwrap()]).unwrap();
            let port = first.client_addresses(Transport::Plain).unwrap()[0].port();
            for other in [&[][..], &[0, 1]] {
                let taken = SocketAddr::new("0.0.0.0".parse().unwrap(), port);
                for (option, plain, secure) in [("--listen ", &[taken][..], &[][..]), ("--listen-tls ", &[], &[taken])]
                {
                    let taken = Listeners::bind(&addresses(plain, secure), &leg, other).unwrap_err();
                    assert!(taken.starts_with(option) && taken.contains("another process listens there"), "{taken}");
                }
            }
            drop(first);
            let both = ["0.0.0.0", "::"].map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
            let bound = bind(&both).unwrap();
            assert_eq!(bound.client_addresses(Transport::Plain).unwrap(), both);
            assert_eq!(bound.clients.len(), cores.len().max(1));
            for listeners in &bound.clients {
                let addresses = listeners.iter().map(|listener| listener.socket.local_addr().unwrap());
                assert_eq!(addresses.collect::<Vec<_>>(), both);
            }
        }
    }

    #[test]
    fn of_two_that_start_at_the_same_moment_one_is_refused() {
        let cores = [0, 1];
        let leg = LegOptions::default();
        let own = |address| one_for_each(address, false, &leg, &cores);
        let free = bind("127.0.0.1:0".parse().unwrap(), false, None, false).unwrap();
        let address = free.local_addr().unwrap().as_socket().unwrap();
        // Both are bound before either listens; the kernel permits it.
        let listeners = own(address).unwrap();
        assert_eq!(listeners.len(), 2);
        assert_eq!(listen(free).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(own(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    /// Before this version the kernel chooses among listeners by a hash alone.
    fn kernel_prefers_cores() -> bool {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
        numbers.next().zip(numbers.next()).is_some_and(|version| version >= (6, 2))
    }

    #[test]
    fn a_connection_comes_to_the_listener_of_the_core_that_its_packets_come_to() {
        let cores = unthrottled_cpus();
        if cores.len() < 2 || !kernel_prefers_cores() {
            return;
        }
        let any = ["127.0.0.1:0", "[::1]:0"].map(|address| address.parse::<SocketAddr>().unwrap());
        let listeners = Listeners::bind(&addresses(&any, &[]), &LegOptions::default(), &cores).unwrap();
        let addresses = listeners.client_addresses(Transport::Plain).unwrap();
        for (number, core) in cores.iter().enumerate().cycle().take(3 * cores.len()) {
            for (place, address) in addresses.iter().enumerate() {
                let connect = || {
                    // Packets sent over loopback are received on the sender's core.
                    pin_to_cpus([*core]).unwrap();
                    TcpStream::connect(address).unwrap()
                };
                let client = thread::scope(|scope| scope.spawn(connect).join().unwrap());
                let came: Vec<bool> =
                    listeners.clients.iter().map(|core| core[place].socket.accept().is_ok()).collect();
                let expected: Vec<bool> = (0..cores.len()).map(|other| other == number).collect();
                assert_eq!(came, expected, "{address} from core {core}");
                drop(client);
            }
        }
    }
}
