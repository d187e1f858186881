//! Limits of incoming and outgoing connections: queues, ports, connection tracking.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use super::host::{Host, HostError, Scope};
use super::row::{Row, State};

/// The gateway's listen backlog (`server/listen.rs`); the kernel cuts it to `somaxconn`
/// (listen(2)).
const BACKLOG: u64 = 4_096;

/// The queue of connections waiting for accept.
pub(super) fn accept_queue(host: &Host) -> Row {
    let (name, needed) = ("net.core.somaxconn", BACKLOG.to_string());
    let row = host.number(name).map(|most| {
        Row::ok("somaxconn", most.to_string(), &needed).unless(most >= BACKLOG, |row| {
            // TCP sends a lost SYN again after one second (RFC 6298).
            row.costs(State::Slow, "beyond that, a client waits 1 s or more for its next SYN").fix(host.set(
                Scope::Network,
                name,
                &needed,
            ))
        })
    });
    Row::or_unknown(row, "somaxconn", &needed)
}

/// Without SYN cookies unknown clients can use three quarters of the queue (`tcp_conn_request`,
/// `net/ipv4/tcp_input.c`), and a migration opens about 200 connections at once.
const HALF_OPEN: u64 = 512;

/// The queue of half-open connections; with SYN cookies it is no limit.
pub(super) fn half_open(host: &Host) -> Row {
    let check = "syn_backlog";
    let needed = format!("SYN cookies, or {HALF_OPEN}");
    let row = (|| {
        let most = host.number("net.ipv4.tcp_max_syn_backlog")?;
        let cookies = host.try_sysctl("net.ipv4.tcp_syncookies")?.unwrap_or_else(|| "not there".to_owned());
        let is_enough = most >= HALF_OPEN || ["1", "2"].contains(&cookies.as_str());
        let found = format!("tcp_max_syn_backlog {most}, tcp_syncookies {cookies}");
        Ok(Row::ok(check, found, &needed).unless(is_enough, |row| {
            row.costs(State::Slow, "beyond that, a client waits 1 s or more for its next SYN").fix(host.set(
                Scope::Network,
                "net.ipv4.tcp_max_syn_backlog",
                "4096",
            ))
        }))
    })();
    Row::or_unknown(row, check, &needed)
}

/// Ports to dial from: the connections to one target address at most (ip(7)); a closed connection
/// keeps its port for 60 s (`TCP_TIMEWAIT_LEN`, `include/net/tcp.h`).
const PORTS: u64 = 10_000;

/// The range of local ports.
pub(super) fn ports(host: &Host) -> Row {
    let name = "net.ipv4.ip_local_port_range";
    let needed = format!("{PORTS} for each target address");
    let row = host.numbers(name).map(|[first, last]| {
        let ports = (last + 1).saturating_sub(first);
        let found = format!("{first} to {last}: {ports} tunnels to one target address");
        Row::ok("ports", found, &needed).unless(ports >= PORTS, |row| {
            row.costs(State::Slow, "no further tunnel to that address (EADDRNOTAVAIL); each --source adds as many")
                .fix(host.set(Scope::Network, name, "10240 65535"))
        })
    });
    Row::or_unknown(row, "ports", &needed)
}

/// Entries needed by tunnels: two each, for a migration's burst of about 200.
const ENTRIES: u64 = 400;

const COUNT: &str = "net.netfilter.nf_conntrack_count";
const MOST: &str = "net.netfilter.nf_conntrack_max";

/// Entries of connection tracking while a connection over loopback is open.
pub(super) fn tracked(host: &Host) -> io::Result<Result<Option<u64>, HostError>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let _client = TcpStream::connect(listener.local_addr()?)?;
    let _accepted = listener.accept()?;
    Ok(match host.try_sysctl(COUNT) {
        Ok(None) => Ok(None),
        Ok(Some(_)) => host.number(COUNT).map(Some),
        Err(unread) => Err(unread),
    })
}

/// Connection tracking, and the room in its table
/// (Documentation/networking/nf_conntrack-sysctl.rst).
pub(super) fn conntrack(host: &Host, tracked: io::Result<Result<Option<u64>, HostError>>) -> Row {
    let (check, needed) = ("conntrack", "not in the path, or room in its table");
    let row = tracked.unwrap_or_else(|error| Err(HostError(format!("no connection over loopback: {error}"))));
    let row = row.and_then(|count| {
        let Some(count) = count else { return Ok(Row::ok(check, "not loaded", needed)) };
        let most = host.number(MOST)?;
        if count == 0 {
            let found = format!("loaded, 0 of {most} entries with a test connection open: not in the path");
            return Ok(Row::ok(check, found, needed));
        }
        let row = Row::ok(check, format!("tracking is on: {count} of {most} entries are in use"), needed);
        Ok(if most.saturating_sub(count) >= ENTRIES {
            row.costs(State::Ok, "a table look-up for each packet")
                .fix("nft: notrack for the gateway's ports, if no rule needs them tracked")
        } else {
            row.costs(State::Slow, "new connections are dropped once the table is full").fix(host.set(
                Scope::Machine,
                MOST,
                &(most.max(65_536) * 4).to_string(),
            ))
        })
    });
    Row::or_unknown(row, check, needed)
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    #[test]
    fn queues_and_ports_are_held_against_what_a_burst_needs() {
        let tree = Tree::new(&[
            ("proc/sys/net/core/somaxconn", "128"),
            ("proc/sys/net/ipv4/tcp_max_syn_backlog", "256"),
            ("proc/sys/net/ipv4/tcp_syncookies", "0"),
            ("proc/sys/net/ipv4/ip_local_port_range", "60000\t60999"),
        ]);
        let host = tree.host();
        for (row, fix) in [
            (accept_queue(&host), "sysctl -w net.core.somaxconn=4096"),
            (half_open(&host), "sysctl -w net.ipv4.tcp_max_syn_backlog=4096"),
            (ports(&host), "sysctl -w net.ipv4.ip_local_port_range=\"10240 65535\""),
        ] {
            assert_eq!((row.state, row.fix[0].as_str(), row.degrades), (State::Slow, fix, false), "{row:?}");
        }
        assert!(ports(&host).found.ends_with(": 1000 tunnels to one target address"));
        tree.file("proc/sys/net/core/somaxconn", "4096");
        tree.file("proc/sys/net/ipv4/tcp_syncookies", "1");
        tree.file("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999");
        for row in [accept_queue(&host), half_open(&host), ports(&host)] {
            assert_eq!(row.state, State::Ok, "{row:?}");
        }
        let nothing = Tree::new(&[]);
        for row in [accept_queue(&nothing.host()), half_open(&nothing.host()), ports(&nothing.host())] {
            assert_eq!(row.state, State::Unknown, "{row:?}");
        }
    }

    #[test]
    fn tracking_is_in_the_path_if_an_own_connection_counts() {
        let tree = Tree::new(&[("proc/sys/net/netfilter/nf_conntrack_max", "65536")]);
        let host = tree.host();
        let seen = |count: u64| {
            tree.file("proc/sys/net/netfilter/nf_conntrack_count", &count.to_string());
            conntrack(&host, tracked(&host))
        };
        assert_eq!(conntrack(&host, tracked(&host)).found, "not loaded");
        assert!(seen(0).found.ends_with("not in the path"));
        let row = seen(1_000);
        assert!(row.state == State::Ok && row.costs == "a table look-up for each packet", "{row:?}");
        let row = seen(65_200);
        assert!(row.state == State::Slow && row.fix[0].ends_with("nf_conntrack_max=262144"), "{row:?}");
        let refused = conntrack(&host, Err(rustix::io::Errno::PERM.into()));
        assert!(refused.state == State::Unknown && refused.found.contains("not permitted"), "{refused:?}");
    }
}
