//! Binds the addresses of the gateway.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::sys::socket::{LegOptions, apply};
use crate::sys::stream::Listener;

/// Connections that wait to be accepted, bounded by `net.core.somaxconn`: all the volumes of a
/// migration connect at once.
const BACKLOG: i32 = 4096;

/// The bound sockets, which accept nothing before the server runs.
#[derive(Debug)]
pub struct Listeners {
    clients: Vec<std::net::TcpListener>,
    admin: std::net::TcpListener,
}

impl Listeners {
    /// Binds all addresses; options of accepted connections are set on the listeners, from which
    /// Linux copies them (`net/ipv4/inet_connection_sock.c`, `inet_csk_clone_lock`).
    ///
    /// # Errors
    /// The address, the cause and the remedy.
    pub fn bind(clients: &[SocketAddr], admin: SocketAddr, leg: &LegOptions) -> Result<Self, String> {
        // `[::]:3128` takes IPv4 as well, unless that has a listener of its own.
        let has_own_v4 = |port| clients.iter().any(|other| other.is_ipv4() && other.port() == port && port != 0);
        let bind = |option: &str, address: SocketAddr, leg: Option<&LegOptions>| {
            listener(address, has_own_v4(address.port()), leg).map_err(|error| explain(option, address, &error))
        };
        let clients = clients.iter().map(|&address| bind("--listen", address, Some(leg)));
        Ok(Self { clients: clients.collect::<Result<_, _>>()?, admin: bind("--admin", admin, None)? })
    }

    /// Where clients are accepted, with the ports that the kernel chose for port 0.
    ///
    /// # Errors
    /// The error of getsockname(2).
    pub fn client_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.clients.iter().map(std::net::TcpListener::local_addr).collect()
    }

    /// Where the admin server listens.
    ///
    /// # Errors
    /// The error of getsockname(2).
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Registers them with the runtime: first where clients are accepted, then the admin server's.
    pub(super) fn into_tokio(self) -> io::Result<(Vec<Listener>, TcpListener)> {
        let clients = self.clients.into_iter().map(Listener::new).collect::<io::Result<_>>()?;
        Ok((clients, TcpListener::from_std(self.admin)?))
    }
}

fn listener(address: SocketAddr, only_v6: bool, leg: Option<&LegOptions>) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    if let Some(leg) = leg {
        apply(&socket, leg)?;
    }
    socket.bind(&address.into())?;
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
    use super::*;

    #[test]
    fn both_families_share_a_port_and_a_taken_one_is_explained() {
        let admin = "127.0.0.1:0".parse().unwrap();
        let bind = |clients: &[SocketAddr]| Listeners::bind(clients, admin, &LegOptions::default());
        let first = bind(&["0.0.0.0:0".parse().unwrap()]).unwrap();
        let port = first.client_addresses().unwrap()[0].port();
        let taken = bind(&[SocketAddr::new("0.0.0.0".parse().unwrap(), port)]).unwrap_err();
        assert!(taken.starts_with("--listen ") && taken.contains("another process listens there"), "{taken}");
        drop(first);
        let both = ["0.0.0.0", "::"].map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
        assert_eq!(bind(&both).unwrap().client_addresses().unwrap(), both);
    }
}
