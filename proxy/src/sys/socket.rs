//! Socket options of both legs, and tests of the host's own addresses.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::option::{get, set};
use crate::invalid_value::InvalidValue;

/// Maximum length of a congestion control's name, without its NUL (`TCP_CA_NAME_MAX`,
/// `include/net/tcp.h`).
const MAX_ALGORITHM: usize = 15;
/// Limits of `TCP_KEEPCNT`, and of `TCP_KEEPIDLE` and `TCP_KEEPINTVL` in s (`include/net/tcp.h`).
const MAX_KEEPALIVE_PROBES: u32 = 127;
const MAX_KEEPALIVE_SECONDS: u32 = 32_767;

/// The two connections of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// Between the client and the gateway.
    Client,
    /// Between the gateway and the origin.
    Origin,
}

impl Leg {
    const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Origin => "origin",
        }
    }
}

/// The TCP options of one leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegOptions {
    /// The congestion control, such as `cubic`; `None` keeps the host's.
    pub congestion_control: Option<String>,
    /// Silence after which the peer is probed. Neither end of a migration does this itself, and
    /// rsync is silent for many minutes while it hashes; firewalls forget a silent connection
    /// within minutes.
    pub keepalive_idle: Duration,
    /// Time between two unanswered probes.
    pub keepalive_interval: Duration,
    /// Unanswered probes after which the kernel gives the peer up.
    pub keepalive_probes: u32,
    /// Time for which a peer may owe an answer; zero is the system's own limit. The relay enforces
    /// it ([`super::tcp::sample`]): `TCP_USER_TIMEOUT` (tcp(7)) also counts answered window probes
    /// (`net/ipv4/tcp_timer.c`, `tcp_probe_timer`). Here it bounds the pauses before the kernel
    /// asks the peer again.
    pub user_timeout: Duration,
    /// Sends small segments at once (`TCP_NODELAY`): the gateway knows no better than the ends.
    pub nodelay: bool,
    /// Size of the send buffer in bytes ([`set_send_buffer`]); zero: autotuning.
    pub send_buffer: usize,
}

impl Default for LegOptions {
    fn default() -> Self {
        Self {
            congestion_control: None,
            keepalive_idle: Duration::from_secs(45),
            keepalive_interval: Duration::from_secs(15),
            keepalive_probes: 4,
            user_timeout: Duration::from_secs(60 * 2),
            nodelay: true,
            send_buffer: 0,
        }
    }
}

impl LegOptions {
    /// Options of `leg`, from the values of `--congestion-control` and `--user-timeout`.
    ///
    /// A value is `cubic` for both legs, or `client=cubic` or `origin=bbr` for one; a leg's own
    /// value has precedence over the one for both. The kernel is asked if it supports the
    /// congestion control.
    ///
    /// # Errors
    /// An ambiguous value, or a congestion control refused by the kernel, with the remedy.
    pub fn new(leg: Leg, congestion_control: &[String], user_timeout: Duration) -> Result<Self, InvalidValue> {
        let algorithm = algorithm_for(leg, congestion_control)?;
        if let Some(name) = &algorithm {
            try_congestion_control(name)?;
        }
        Ok(Self { congestion_control: algorithm, ..Self::default() }.found_within(user_timeout))
    }

    /// Adjusts keepalive so a silent peer is probed in time for the relay; the kernel, counting
    /// probes alone, gives the peer up later.
    fn found_within(mut self, user_timeout: Duration) -> Self {
        let seconds = |time: Duration| u32::try_from(time.as_millis().div_ceil(1_000)).unwrap_or(MAX_KEEPALIVE_SECONDS);
        let bounded = |seconds: u32| Duration::from_secs(seconds.clamp(1, MAX_KEEPALIVE_SECONDS).into());
        if !user_timeout.is_zero() {
            self.keepalive_idle = self.keepalive_idle.min(bounded(seconds(user_timeout)));
            // Probes for the whole of the time-out, and no more than the kernel counts.
            let least = seconds(user_timeout / (MAX_KEEPALIVE_PROBES - 2));
            self.keepalive_interval =
                self.keepalive_interval.min(bounded(seconds(user_timeout / 4))).max(bounded(least));
            let probes = user_timeout.as_secs() / self.keepalive_interval.as_secs() + 2;
            self.keepalive_probes =
                u32::try_from(probes).map_or(MAX_KEEPALIVE_PROBES, |n| n.clamp(4, MAX_KEEPALIVE_PROBES));
        }
        Self { user_timeout, ..self }
    }

    /// Asks the kernel again if the process may choose the congestion control, as after dropping
    /// capabilities.
    ///
    /// # Errors
    /// As [`LegOptions::new`].
    pub fn try_again(&self) -> Result<(), InvalidValue> {
        self.congestion_control.as_deref().map_or(Ok(()), try_congestion_control)
    }
}

/// Selects the value for `leg`.
fn algorithm_for(leg: Leg, values: &[String]) -> Result<Option<String>, InvalidValue> {
    let mut chosen: [Option<&str>; 3] = [None; 3];
    for value in values {
        let (place, name) = match value.split_once('=') {
            None => (0, value.as_str()),
            Some((label, name)) if label == Leg::Client.label() => (1, name),
            Some((label, name)) if label == Leg::Origin.label() => (2, name),
            Some(_) => {
                return Err(InvalidValue::new(
                    format!("`{value}` does not name a leg"),
                    "write NAME, client=NAME or origin=NAME",
                ));
            }
        };
        let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if name.is_empty() || name.len() > MAX_ALGORITHM || !name.bytes().all(is_name) {
            return Err(InvalidValue::new(
                format!("`{name}` cannot be the name of a congestion control"),
                "write one such as cubic or bbr",
            ));
        }
        if chosen[place].replace(name).is_some_and(|before| before != name) {
            return Err(InvalidValue::new(format!("`{value}` contradicts an earlier value"), "remove one of the two"));
        }
    }
    let own = match leg {
        Leg::Client => chosen[1],
        Leg::Origin => chosen[2],
    };
    Ok(own.or(chosen[0]).map(str::to_owned))
}

/// Tries a congestion control on an unconnected socket.
fn try_congestion_control(name: &str) -> Result<(), InvalidValue> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
    let Err(error) = socket.and_then(|socket| socket.set_tcp_congestion(name.as_bytes())) else { return Ok(()) };
    Err(match Errno::from_io_error(&error) {
        Some(Errno::NOENT) => InvalidValue::new(
            format!("the kernel has no congestion control `{name}`"),
            format!("try `modprobe tcp_{name}`, or choose one of /proc/sys/net/ipv4/tcp_available_congestion_control"),
        ),
        Some(Errno::PERM) => InvalidValue::new(
            format!("`{name}` is not allowed without CAP_NET_ADMIN"),
            "add it to /proc/sys/net/ipv4/tcp_allowed_congestion_control",
        ),
        _ => InvalidValue::without_remedy(format!("`{name}`: {error}")),
    })
}

/// Sets the options on a TCP socket; accepted sockets inherit them from their listener.
///
/// # Errors
/// The error of setsockopt(2).
pub fn apply(socket: &impl AsFd, options: &LegOptions) -> io::Result<()> {
    let descriptor = socket.as_fd();
    let socket = SockRef::from(&descriptor);
    let keepalive = TcpKeepalive::new()
        .with_time(options.keepalive_idle)
        .with_interval(options.keepalive_interval)
        .with_retries(options.keepalive_probes);
    socket.set_tcp_keepalive(&keepalive)?;
    if !options.user_timeout.is_zero() {
        super::tcp::set_longest_pause(&descriptor, options.user_timeout / 2)?;
    }
    socket.set_tcp_nodelay(options.nodelay)?;
    // Without it a read leaves out a byte sent as urgent (SO_OOBINLINE, socket(7)).
    socket.set_out_of_band_inline(true)?;
    if options.send_buffer > 0 {
        set_send_buffer(&descriptor, options.send_buffer)?;
    }
    match &options.congestion_control {
        Some(name) => socket.set_tcp_congestion(name.as_bytes()),
        None => Ok(()),
    }
}

/// Binds an unconnected socket to a source address without choosing its port: connect(2) chooses
/// the port in view of the target, so the ports of one source last for as many connections to
/// *each* target (`IP_BIND_ADDRESS_NO_PORT`, ip(7); an option of this level for IPv6 as well).
///
/// # Errors
/// The error of setsockopt(2) or bind(2); `EADDRNOTAVAIL` if the host has no such address.
pub fn bind_source(socket: &impl AsFd, source: IpAddr) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    let descriptor = socket.as_fd();
    SockRef::from(&descriptor).bind(&std::net::SocketAddr::new(source, 0).into())
}

/// Makes the kernel prefer a listener, among those sharing its address by `SO_REUSEPORT`, for
/// connections whose first packet is received on `core` (`SO_INCOMING_CPU`, socket(7);
/// `net/core/sock_reuseport.c`, since 6.2; before, the choice is by a hash alone). Connections of a
/// core without a listener go to any.
///
/// # Errors
/// The error of setsockopt(2).
pub fn prefer_core(listener: &impl AsFd, core: usize) -> io::Result<()> {
    let core = libc::c_int::try_from(core).map_err(|_| io::ErrorKind::InvalidInput)?;
    set(listener, libc::SOL_SOCKET, libc::SO_INCOMING_CPU, core)
}

/// Sets `SO_RCVLOWAT` (socket(7)); the kernel then checks at once for readable bytes to report.
///
/// # Errors
/// The error of setsockopt(2).
pub fn set_low_water(socket: &impl AsFd, bytes: i32) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes)
}

/// Sets a socket's send buffer to `bytes` bytes: beyond `net.core.wmem_max` if CAP_NET_ADMIN allows
/// it, otherwise up to this limit, unless the limit is below the size reached by autotuning. A
/// larger buffer stays.
///
/// # Errors
/// The error of setsockopt(2) or getsockopt(2).
pub fn set_send_buffer(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    if sockopt::socket_send_buffer_size(socket)? >= bytes {
        return Ok(());
    }
    // The kernel doubles the given size (socket(7)).
    let half = libc::c_int::try_from(bytes / 2).unwrap_or(libc::c_int::MAX);
    match set(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, half) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => {}
        other => return other,
    }
    static LIMIT: OnceLock<usize> = OnceLock::new();
    let granted = buffer_limit(&LIMIT, "wmem_max").min(bytes / 2);
    if granted * 2 < GROWN { Ok(()) } else { Ok(sockopt::set_socket_send_buffer_size(socket, granted)?) }
}

/// Memory of a socket's receive buffer (`SO_MEMINFO`, `net/core/sock.c`, `sk_get_meminfo`).
#[derive(Clone, Copy, Debug)]
pub struct ReceiveMemory {
    /// Bytes in use.
    pub taken: u32,
    /// Maximum in bytes.
    pub buffer: u32,
    /// Segments dropped by the socket so far, for lack of room or because they were outside its
    /// window. Wraps around.
    pub dropped: u32,
}

/// Reads the memory of a socket's receive buffer.
///
/// # Errors
/// The error of getsockopt(2).
pub fn receive_memory(socket: &impl AsFd) -> io::Result<ReceiveMemory> {
    let (figures, _) = get::<[u32; 9]>(socket, libc::SOL_SOCKET, libc::SO_MEMINFO)?;
    // SK_MEMINFO_RMEM_ALLOC, SK_MEMINFO_RCVBUF and SK_MEMINFO_DROPS
    // (`include/uapi/linux/sock_diag.h`).
    let [taken, buffer, .., dropped] = figures;
    Ok(ReceiveMemory { taken, buffer, dropped })
}

/// Fixes a socket's receive buffer at up to `bytes` bytes, as far as `net.core.rmem_max` permits.
/// If this is below the default maximum of autotuning, autotuning is kept.
///
/// # Errors
/// The error of setsockopt(2).
pub fn bound_receive_buffer(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    static LIMIT: OnceLock<usize> = OnceLock::new();
    // Doubled, as in `set_send_buffer`.
    let granted = (buffer_limit(&LIMIT, "rmem_max") * 2).min(bytes);
    if granted < RECEIVED { Ok(()) } else { Ok(sockopt::set_socket_recv_buffer_size(socket, granted / 2)?) }
}

/// Default of the last value of `net.ipv4.tcp_rmem`.
const RECEIVED: usize = 6 << 20;

/// Maximum of an autotuned send buffer: the default of the last value of `net.ipv4.tcp_wmem`.
const GROWN: usize = 4 << 20;

/// The buffer limit without CAP_NET_ADMIN, by its name below `net.core`, as first read; zero if it
/// cannot be read.
fn buffer_limit(known: &OnceLock<usize>, name: &str) -> usize {
    *known.get_or_init(|| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/core/{name}"));
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    })
}

/// Tests whether `address` is one of this host's addresses: if a socket can be bound to it.
///
/// Asks the kernel rather than the interfaces: it also knows 127.0.0.0/8 and local routes. With
/// `net.ipv4.ip_nonlocal_bind` set every address passes for local. An unclear answer, as without
/// free descriptors, is a yes: callers use this to refuse.
#[must_use]
pub fn is_local_address(address: IpAddr) -> bool {
    match UdpSocket::bind((address, 0)) {
        Ok(_) => true,
        Err(error) => !matches!(Errno::from_io_error(&error), Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    fn values(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn both(texts: &[&str]) -> [Option<String>; 2] {
        [Leg::Client, Leg::Origin].map(|leg| algorithm_for(leg, &values(texts)).unwrap())
    }

    #[test]
    fn a_congestion_control_is_for_both_legs_or_one() {
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(both(&[]), [None, None]);
        assert_eq!(both(&["cubic"]), [some("cubic"), some("cubic")]);
        assert_eq!(both(&["client=cubic"]), [some("cubic"), None]);
        assert_eq!(both(&["client=cubic", "origin=bbr"]), [some("cubic"), some("bbr")]);
        assert_eq!(both(&["origin=bbr", "cubic"]), [some("cubic"), some("bbr")]);
        assert_eq!(both(&["cubic", "cubic"]), [some("cubic"), some("cubic")]);
    }

    #[test]
    fn what_is_no_congestion_control_is_refused_with_the_form_wanted() {
        let table = [
            (&["server=cubic"][..], "write NAME, client=NAME or origin=NAME"),
            (&[""], "cannot be the name"),
            (&["client="], "cannot be the name"),
            (&["a_name_of_16_char"], "cannot be the name"),
            (&["cubic bbr"], "cannot be the name"),
            (&["cubic", "bbr"], "contradicts an earlier value"),
            (&["origin=cubic", "origin=bbr"], "contradicts an earlier value"),
        ];
        for (texts, words) in table {
            let error = LegOptions::new(Leg::Client, &values(texts), Duration::ZERO).unwrap_err().to_string();
            assert!(error.contains(words), "{texts:?}: {error}");
        }
    }

    #[test]
    fn a_congestion_control_that_the_kernel_lacks_is_found_at_start() {
        let error =
            LegOptions::new(Leg::Origin, &values(&["client=reno", "nosuch"]), Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("modprobe tcp_nosuch"), "{error}");
        assert!(error.contains("/proc/sys/net/ipv4/tcp_available_congestion_control"), "{error}");
    }

    fn has_longest_pause() -> bool {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        crate::sys::tcp::longest_pause(&socket).is_some()
    }

    /// Reads the options of a socket from the kernel.
    fn read(socket: &impl AsFd) -> LegOptions {
        let descriptor = socket.as_fd();
        let socket = SockRef::from(&descriptor);
        assert!(socket.keepalive().unwrap());
        let name = socket.tcp_congestion().unwrap();
        LegOptions {
            congestion_control: Some(String::from_utf8(name).unwrap().trim_end_matches('\0').to_owned()),
            keepalive_idle: socket.tcp_keepalive_time().unwrap(),
            keepalive_interval: socket.tcp_keepalive_interval().unwrap(),
            keepalive_probes: socket.tcp_keepalive_retries().unwrap(),
            user_timeout: crate::sys::tcp::longest_pause(&descriptor).map_or(Duration::ZERO, |pause| pause * 2),
            nodelay: socket.tcp_nodelay().unwrap(),
            send_buffer: 0,
        }
    }

    #[test]
    fn options_hold_for_a_socket_and_for_what_a_listener_accepts() {
        // Reno is always available: it is built into TCP itself.
        let options = LegOptions::new(Leg::Client, &values(&["reno"]), Duration::from_secs(77)).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        apply(&listener, &options).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let known = |options: &LegOptions| {
            let user_timeout = if has_longest_pause() { options.user_timeout } else { Duration::ZERO };
            LegOptions { user_timeout, ..options.clone() }
        };
        assert_eq!(read(&accepted), known(&options));
        assert_ne!(read(&listener), LegOptions::default());
        apply(&client, &options).unwrap();
        assert_eq!(read(&client), known(&options));
        let other = LegOptions { user_timeout: Duration::from_secs(8), nodelay: false, ..options };
        apply(&client, &other).unwrap();
        assert_eq!(read(&client), known(&other));
        // The relay decides on vanished peers: the kernel would count answered probes.
        assert_eq!(SockRef::from(&client).tcp_user_timeout().unwrap().unwrap_or_default(), Duration::ZERO);
    }

    #[test]
    fn a_silent_peer_is_asked_soon_enough_for_the_user_timeout() {
        let table = [
            (0, 45, 15, 4),
            (600, 1, 1, 4),
            (5_000, 5, 2, 4),
            (30_000, 30, 8, 5),
            (120_000, 45, 15, 10),
            (3_600_000, 45, 29, 126),
            (u64::MAX, 45, 32_767, 127),
        ];
        for (timeout, idle, interval, probes) in table {
            let options = LegOptions::new(Leg::Client, &[], Duration::from_millis(timeout)).unwrap();
            let LegOptions { keepalive_idle, keepalive_interval, keepalive_probes, .. } = options;
            let read = (keepalive_idle.as_secs(), keepalive_interval.as_secs(), keepalive_probes);
            assert_eq!(read, (idle, interval, probes), "{timeout} ms");
        }
    }

    #[test]
    fn a_bound_source_leaves_the_port_to_connect() {
        for source in ["127.0.0.2", "::1"].map(|ip| ip.parse::<IpAddr>().unwrap()) {
            if !is_local_address(source) {
                assert!(source.is_ipv6(), "{source}");
                continue;
            }
            let socket = Socket::new(Domain::for_address((source, 0).into()), Type::STREAM, None).unwrap();
            bind_source(&socket, source).unwrap();
            let bound = socket.local_addr().unwrap().as_socket().unwrap();
            assert_eq!((bound.ip(), bound.port()), (source, 0));
        }
    }

    #[test]
    fn a_source_that_the_host_lacks_cannot_be_bound() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let error = bind_source(&socket, "192.0.2.1".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn the_host_knows_its_own_addresses() {
        for own in ["127.0.0.1", "127.1.2.3", "0.0.0.0", "::ffff:127.0.0.1"] {
            assert!(is_local_address(own.parse().unwrap()), "{own}");
        }
        // Documentation addresses (RFC 5737, RFC 3849).
        for foreign in ["192.0.2.1", "203.0.113.7", "2001:db8::1"] {
            assert!(!is_local_address(foreign.parse().unwrap()), "{foreign}");
        }
    }
}
