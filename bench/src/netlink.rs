//! Changes of a new network namespace without a file in /proc: the equivalents of `ip link set lo
//! up` and `ip route change ... congctl` by rtnetlink(7), without a dependency on iproute2.

use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, bind, netlink, recv, send, socket};

const LOOPBACK: u32 = 1;

// linux/netlink.h
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
// linux/rtnetlink.h
const RTM_NEWLINK: u16 = 16;
const RTM_NEWROUTE: u16 = 24;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTAX_CC_ALGO: u16 = 16;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_KERNEL: u8 = 2;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;
// net/if.h
const IFF_UP: u32 = 1;

/// Sets the loopback interface up.
///
/// # Errors
/// The error of the kernel.
pub(crate) fn loopback_up() -> io::Result<()> {
    // struct ifinfomsg: family and type, index, flags, mask of the flags
    let body = [[0; 4], LOOPBACK.to_ne_bytes(), IFF_UP.to_ne_bytes(), IFF_UP.to_ne_bytes()].concat();
    request(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, &body)
}

/// Sets the congestion control `name` on the local route to `address`/`length`.
///
/// # Errors
/// The kernel refuses it or lacks this congestion control.
pub(crate) fn congestion_control(address: [u8; 4], length: u8, name: &str) -> io::Result<()> {
    let family = u8::try_from(AddressFamily::INET.as_raw()).map_err(io::Error::other)?;
    // struct rtmsg: family, lengths of destination and source, TOS, table, protocol, scope, type,
    // flags
    let mut body = vec![family, length, 0, 0, RT_TABLE_LOCAL, RTPROT_KERNEL, RT_SCOPE_HOST, RTN_LOCAL, 0, 0, 0, 0];
    body.extend(attribute(RTA_DST, &address));
    body.extend(attribute(RTA_OIF, &LOOPBACK.to_ne_bytes()));
    body.extend(attribute(RTA_PREFSRC, &[127, 0, 0, 1]));
    body.extend(attribute(RTA_METRICS, &attribute(RTAX_CC_ALGO, &[name.as_bytes(), &[0]].concat())));
    request(RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE, &body)
}

/// Encodes a struct rtattr, its value, and the padding before the next one.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Sends a message and waits for its acknowledgement.
fn request(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    // struct nlmsghdr: length, type, flags, sequence, port
    let length = u32::try_from(16 + body.len()).map_err(io::Error::other)?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend([kind, flags].map(u16::to_ne_bytes).concat());
    message.extend([0; 8]);
    message.extend(body);
    // `None` means protocol 0, NETLINK_ROUTE.
    let netlink = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    bind(&netlink, &netlink::SocketAddrNetlink::new(0, 0))?;
    send(&netlink, &message, SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (bytes, _) = recv(&netlink, &mut answer[..], RecvFlags::empty())?;
    // struct nlmsgerr: the header, then the error, 0 for success
    let error = answer[..bytes].get(16..20).and_then(|error| error.try_into().ok()).map_or(-1, i32::from_ne_bytes);
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-error)) }
}
