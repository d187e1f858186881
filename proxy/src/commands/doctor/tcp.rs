//! TCP: congestion control and buffers.

use super::finding::{Found, State};
use super::host::{Host, HostError, Scope};

/// Round trip for the printed rates: a long leg between two sites.
pub(super) const ROUND_TRIP_MS: u64 = 50;

/// A single tunnel should reach this over such a leg: 1 Gbit/s.
const WANTED_BITS: u64 = 1_000_000_000;

/// Percentage of the largest receive buffer usable as window, and of the largest send buffer in
/// flight; the rest is the kernel's overhead. Measured on Linux 6.18 over 50 ms with buffers of 2
/// and 4 MiB: 62 and 87 at 1,500 bytes a packet, 70 and 89 at 9,000. (Before 6.6 the window was
/// half of the buffer: `tcp_adv_win_scale`, tcp(7).)
const WINDOW_PERCENT: u64 = 60;
const FLIGHT_PERCENT: u64 = 85;

/// Proposed maximum for small buffers: four times the default maximum of `tcp_wmem` (4 MiB,
/// tcp(7)).
const PROPOSED: u64 = 16 << 20;

/// Congestion control of the legs.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    /// Chosen for each leg by `--congestion-control`, client's first; `None` leaves the host's.
    pub(super) legs: [Option<String>; 2],
    /// Why cubic could not be chosen, if it could not.
    pub(super) no_cubic: Option<String>,
}

/// The congestion control: bbr paces bytes a local leg could take at once.
pub(super) fn congestion(host: &Host, chosen: &Chosen) -> Result<Found, HostError> {
    let default = host.sysctl("net.ipv4.tcp_congestion_control")?;
    let available = host.sysctl("net.ipv4.tcp_available_congestion_control")?;
    let leg = |leg: usize| chosen.legs[leg].as_deref().unwrap_or(&default);
    let found = Found::ok(format!("client leg {}, origin leg {}; available: {available}", leg(0), leg(1)));
    let is_left_to_bbr = chosen.legs == [None, None] && default.starts_with("bbr");
    Ok(found.unless(!is_left_to_bbr, |found| {
        // Measured over loopback, for nginx and HAProxy as well.
        let found = found.costs(State::Slow, "a factor of three on loopback and other short legs");
        let found = found.fix("sluicegate serve --congestion-control client=cubic    # or origin=cubic, or cubic");
        match &chosen.no_cubic {
            None => found,
            Some(_) if available.split(' ').all(|name| name != "cubic") => found.fix("modprobe tcp_cubic"),
            Some(_) => found.fix(allow_cubic(host)),
        }
    }))
}

/// Without CAP_NET_ADMIN a socket can only use the algorithms of this list (tcp(7)).
fn allow_cubic(host: &Host) -> String {
    let name = "net.ipv4.tcp_allowed_congestion_control";
    let allowed = host.sysctl(name).unwrap_or_else(|_| "reno".to_owned());
    host.set(Scope::Machine, name, &format!("{allowed} cubic"))
}

/// `net.core.wmem_max` (socket(7)): the largest send buffer for the engine sockmap after it has
/// dropped its capabilities, needed for redirected bytes. The kernel doubles it.
pub(super) fn send_buffers(host: &Host, wanted: u64) -> Result<Found, HostError> {
    let name = "net.core.wmem_max";
    let most = host.number(name)?;
    Ok(Found::ok(format!("{name} {} KiB", most >> 10)).unless(most >= wanted / 2, |found| {
        // `cargo xtask bench`: four tunnels to the origin with 4 MiB instead of 32.
        let found = found.costs(State::Slow, "up to two fifths of sockmap's bulk throughput to an origin");
        found.fix(host.set(Scope::Machine, name, &(wanted / 2).to_string()))
    }))
}

/// `tcp_rmem` (tcp(7)): its largest value bounds the offered window.
pub(super) fn receive_buffer(host: &Host) -> Result<Found, HostError> {
    buffer(host, "tcp_rmem", WINDOW_PERCENT)
}

/// `tcp_wmem` (tcp(7)): its largest value bounds the bytes in flight.
pub(super) fn send_buffer(host: &Host) -> Result<Found, HostError> {
    buffer(host, "tcp_wmem", FLIGHT_PERCENT)
}

fn buffer(host: &Host, sysctl: &str, percent: u64) -> Result<Found, HostError> {
    let name = format!("net.ipv4.{sysctl}");
    let [least, default, most] = host.numbers(&name)?;
    let rate = rate(most, percent);
    let found = Found::ok(format!("{least} {default} {most}: about {} a tunnel at {ROUND_TRIP_MS} ms", bits(rate)));
    Ok(found.unless(rate >= WANTED_BITS, |found| {
        let costs = format!("limits a tunnel over a long leg; at 10 ms to {}", bits(rate * 5));
        let proposed = format!("{least} {default} {PROPOSED}");
        found.costs(State::Slow, costs).fix(host.set(Scope::Network, &name, &proposed))
    }))
}

/// Rate, in bits per second, of a number of bytes in flight.
fn rate(buffer: u64, percent: u64) -> u64 {
    buffer.saturating_mul(8 * percent * 1_000 / 100) / ROUND_TRIP_MS
}

fn bits(rate: u64) -> String {
    match rate / 1_000_000 {
        mega @ 0..1_000 => format!("{mega} Mbit/s"),
        mega => format!("{}.{} Gbit/s", mega / 1_000, mega % 1_000 / 100),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    #[test]
    fn send_buffers_have_to_hold_what_the_kernel_redirects() {
        let tree = Tree::new(&[("proc/sys/net/core/wmem_max", "212992")]);
        let row = send_buffers(&tree.host(), 64 << 20).unwrap();
        assert_eq!(
            (row.state, row.fix.as_slice()),
            (State::Slow, &["sysctl -w net.core.wmem_max=33554432".to_owned()][..])
        );
        tree.file("proc/sys/net/core/wmem_max", "33554432");
        assert_eq!(send_buffers(&tree.host(), 64 << 20).unwrap().state, State::Ok);
        assert!(send_buffers(&Tree::new(&[]).host(), 64 << 20).is_err());
    }

    #[test]
    fn bbr_is_slow_where_nothing_else_was_chosen() {
        let tree = Tree::new(&[
            ("proc/sys/net/ipv4/tcp_congestion_control", "bbr"),
            ("proc/sys/net/ipv4/tcp_available_congestion_control", "reno bbr cubic"),
            ("proc/sys/net/ipv4/tcp_allowed_congestion_control", "reno bbr"),
        ]);
        let host = tree.host();
        let chosen = |client: Option<&str>, no_cubic: Option<&str>| Chosen {
            legs: [client.map(str::to_owned), None],
            no_cubic: no_cubic.map(str::to_owned),
        };
        let row = congestion(&host, &chosen(None, None)).unwrap();
        assert_eq!((row.state, row.fix.len()), (State::Slow, 1), "{row:?}");
        let row = congestion(&host, &chosen(None, Some("not allowed"))).unwrap();
        assert_eq!(row.fix[1], "sysctl -w net.ipv4.tcp_allowed_congestion_control=\"reno bbr cubic\"");
        let row = congestion(&host, &chosen(Some("cubic"), None)).unwrap();
        assert!(row.state == State::Ok && row.found.starts_with("client leg cubic, origin leg bbr; "), "{row:?}");
        tree.file("proc/sys/net/ipv4/tcp_available_congestion_control", "reno bbr");
        assert_eq!(congestion(&host, &chosen(None, Some("none"))).unwrap().fix[1], "modprobe tcp_cubic");
        tree.file("proc/sys/net/ipv4/tcp_congestion_control", "cubic");
        assert_eq!(congestion(&host, &chosen(None, None)).unwrap().state, State::Ok);
    }

    #[test]
    fn a_buffer_is_told_as_a_rate() {
        let tree = Tree::new(&[
            ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456"),
            ("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t16777216"),
        ]);
        let row = receive_buffer(&tree.host()).unwrap();
        // 6 MiB * 0.6 / 50 ms * 8.
        assert!(row.state == State::Slow && row.found.ends_with("about 603 Mbit/s a tunnel at 50 ms"), "{row:?}");
        assert!(row.costs.ends_with("at 10 ms to 3.0 Gbit/s"), "{row:?}");
        assert_eq!(row.fix, ["sysctl -w net.ipv4.tcp_rmem=\"4096 131072 16777216\""]);
        let row = send_buffer(&tree.host()).unwrap();
        assert!(row.state == State::Ok && row.found.contains("about 2.2 Gbit/s"), "{row:?}");
        assert!(rate(PROPOSED, WINDOW_PERCENT) >= WANTED_BITS, "what is proposed is enough");
    }
}
