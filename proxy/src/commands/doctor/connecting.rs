//! Limits of incoming and outgoing connections: the accept queue and the local ports.

use super::finding::{Found, State};
use super::host::{Host, HostError, Scope};

/// The gateway's listen backlog (`server/listen.rs`); the kernel cuts it to `somaxconn`
/// (listen(2)).
pub(super) const BACKLOG: u64 = 4_096;

/// The queue of connections waiting for accept.
pub(super) fn accept_queue(host: &Host) -> Result<Found, HostError> {
    let name = "net.core.somaxconn";
    let most = host.number(name)?;
    Ok(Found::ok(most.to_string()).unless(most >= BACKLOG, |found| {
        // TCP sends a lost SYN again after one second (RFC 6298).
        let found = found.costs(State::Slow, "beyond that, a client waits 1 s or more for its next SYN");
        found.fix(host.set(Scope::Network, name, &BACKLOG.to_string()))
    }))
}

/// Ports to dial from: the connections to one target address at most (ip(7)); a closed connection
/// keeps its port for 60 s (`TCP_TIMEWAIT_LEN`, `include/net/tcp.h`).
pub(super) const PORTS: u64 = 10_000;

/// The range of local ports.
pub(super) fn ports(host: &Host) -> Result<Found, HostError> {
    let name = "net.ipv4.ip_local_port_range";
    let [first, last] = host.numbers(name)?;
    let ports = (last + 1).saturating_sub(first);
    let found = Found::ok(format!("{first} to {last}: {ports} tunnels to one target address"));
    Ok(found.unless(ports >= PORTS, |found| {
        found
            .costs(State::Slow, "no further tunnel to that address (EADDRNOTAVAIL); each --source adds as many")
            .fix(host.set(Scope::Network, name, "10240 65535"))
    }))
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    #[test]
    fn queues_and_ports_are_held_against_what_a_burst_needs() {
        let tree = Tree::new(&[
            ("proc/sys/net/core/somaxconn", "128"),
            ("proc/sys/net/ipv4/ip_local_port_range", "60000\t60999"),
        ]);
        let host = tree.host();
        for (row, fix) in [
            (accept_queue(&host), "sysctl -w net.core.somaxconn=4096"),
            (ports(&host), "sysctl -w net.ipv4.ip_local_port_range=\"10240 65535\""),
        ] {
            let row = row.unwrap();
            assert_eq!((row.state, row.fix[0].as_str(), row.degrades), (State::Slow, fix, false), "{row:?}");
        }
        assert!(ports(&host).unwrap().found.ends_with(": 1000 tunnels to one target address"));
        tree.file("proc/sys/net/core/somaxconn", "4096");
        tree.file("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999");
        for row in [accept_queue(&host), ports(&host)] {
            assert_eq!(row.as_ref().unwrap().state, State::Ok, "{row:?}");
        }
        let nothing = Tree::new(&[]);
        for row in [accept_queue(&nothing.host()), ports(&nothing.host())] {
            assert!(row.is_err(), "{row:?}");
        }
    }
}
