//! A tunnel gateway for bulk transfers: userspace answers the HTTP CONNECT, checks the password and
//! dials; the established pair of sockets then goes to the kernel, for forwarding the bytes.
//!
//! ```text
//! accept -> read CONNECT   -> authenticate -> permit -> dial -> 200    -> relay   -> account
//! server    client+request    auth            policy    dial    client    relay/*    account
//!           or Upgrade                                          or 101
//!           '-- connection::handshake: one Reason, one answer --'        no HTTP from here on
//! ```
//!
//! # Map
//!
//! Imports point to a lower layer or to the modules in the row; `cargo xtask tidy` reads this table
//! and fails on any other import, and on the words of the last column.
//!
//! | layer | module | purpose | may import | may not mention |
//! |---|---|---|---|---|
//! | 5 | `main` | parse, start log and metrics, run, exit code | `commands` `config` `sys` | |
//! | 5 | `commands` | the subcommands, one file each | `config` `server` `auth` `user_policy` `fingerprint` `policy` `principal` `dial` `target` `rate` `secret` `reason` `metrics` `relay` `account` `admin` `connection` `sys` `file` `invalid_value` | |
//! | 5 | `config` | one definition of every option: flag, environment, file, help, table | `auth` `user_policy` `policy` `proxy_protocol` `dial` `rate` `relay` `server` `connection` `client` `secret` `target` `account` `sys` `tls` `file` `invalid_value` | |
//! | 4 | `server` | bind, accept with back-off, slots, reloads, drain | `connection` `account` `admin` `policy` `auth` `dial` `relay` `client` `reason` `metrics` `sys` `tls` `invalid_value` | `httparse` |
//! | 3 | `connection` | the life of a connection: `serve` and `handshake` | `client` `request` `auth` `user_policy` `policy` `proxy_protocol` `dial` `upgrade` `relay` `account` `tunnel` `reason` `metrics` `secret` `principal` `target` `tls` | `rustix` `libc` `unsafe` |
//! | 2 | `client` | the buffered client socket; the only writer of HTTP but for origins' answers | `message` `request` `proxy_protocol` `reason` `sys` `tls` | `policy` `relay` |
//! | 2 | `request` | pure parser: bytes in, request or refusal out | `message` `reason` `secret` `target` | `tokio` `TcpStream` `Instant` `async` |
//! | 2 | `proxy_protocol` | PROXY protocol: reads and writes the header with a client's address | `policy` `target` `invalid_value` | `tokio` `TcpStream` |
//! | 2 | `upgrade` | forwards an Upgrade to its origin, and answers other than 101, within bounds | `client` `dial` `request` `message` `reason` `sys` `tunnel` | `policy` `auth` `relay` |
//! | 2 | `user_policy` | limits of one user: targets, networks, expiry, tunnels, rate | `policy` `account` `reason` | `tokio` `TcpStream` |
//! | 2 | `auth` | credentials to user and policy; hashes off the event loop | `user_policy` `account` `reason` `secret` `source` `fingerprint` `file` `metrics` `sys` `single_flight` | `tracing` `TcpStream` |
//! | 2 | `policy` | name rules, then address rules on resolved addresses: `Permit` | `reason` `target` `invalid_value` | `tokio` `TcpStream` |
//! | 2 | `dial` | resolve, Happy Eyeballs, parent proxies, deadlines; accepts only a `Permit` | `policy` `message` `reason` `secret` `principal` `fingerprint` `file` `target` `sys` `metrics` `tls` `invalid_value` `single_flight` | `auth` |
//! | 2 | `relay` | choose an engine, hand tunnels to it, fall back to another | `tunnel` `rate` `reason` `metrics` `sys` `tls` `invalid_value` | `http` `auth` `policy` `config` |
//! | 1 | `account` | drop-guard: one log line and the counters, exactly once | `tunnel` `rate` `reason` `metrics` `source` `principal` `target` `invalid_value` | `TcpStream` `socket2` |
//! | 1 | `admin` | metrics, health, the API of tunnels and rates over HTTP, and the control socket | `account` `metrics` `rate` `reason` `source` `tunnel` `invalid_value` | `relay` |
//! | 1 | `sys` | the only `unsafe`: descriptors in, `io::Result` out | `tls` `invalid_value` | `tracing` `policy` |
//! | 0 | `tunnel` | the hand-off type and its live counts | `rate` `reason` `tls` | `tokio` |
//! | 0 | `single_flight` | one piece of work for all equal requests at the same time | | |
//! | 0 | `invalid_value` | rejection of a value: cause and remedy | | `tokio` |
//! | 0 | `target` | host and port of a request, in one normal form | `invalid_value` | `tokio` |
//! | 0 | `reason` | why a connection ended: one enum to label, status, side | | `tokio` |
//! | 0 | `tls` | TLS sessions, certificates and roots; does no I/O of its own | `file` `fingerprint` `invalid_value` | `tokio` `TcpStream` |
//! | 0 | `rate` | bytes per second: parsed and printed | `invalid_value` | `tokio` |
//! | 0 | `message` | heads and content of HTTP messages; pure | | `tokio` `std::io` |
//! | 0 | `fingerprint` | detects that a file has changed | `file` | `tokio` |
//! | 0 | `file` | reads the files that options name, within limits of size and time | `invalid_value` | `tokio` |
//! | 0 | `source` | IPv4 address or IPv6 /64: the unit of limits before authentication | | `tokio` |
//! | 0 | `principal` | user or source that uses a shared resource, and counts by key | `source` | `tokio` |
//! | 0 | `secret` | passwords: never printed, zeroed when dropped | | `tokio` |
//! | 0 | `metrics` | every metric: name, kind, labels, help | | `tokio` |
//!
//! # Invariants: deliberate absences
//!
//! 1. No HTTP after [`tunnel::Tunnel`]. No socket to an origin before a [`policy::Permit`].
//! 2. A [`reason::Reason`] is answered in one place and accounted in one place; no `_` arm over it.
//! 3. A name is absolute and is resolved once; the judged name is looked up, logged and passed on
//!    unchanged, and the checked address is the dialled address.
//! 4. No cargo feature changes behaviour: engines are chosen at run time, by a self-test, and each
//!    fallback is counted with its cause.
//! 5. Apart from the prefix (bytes received after the head and not yet sent), the engines uring
//!    and splice keep no tunnel byte only in process memory: it is in a socket or in a pipe, also
//!    while the tunnel migrates from worker to worker. With sockmap the kernel holds the bytes too,
//!    except for bytes spilled because of a stopped reader, within bounds.
//! 6. No byte of an authenticated peer is passed on outside an [`account::Account`]: a tunnel and
//!    the exchange before a 101 are listed, counted, rate-limited and ended alike.
//! 7. Everything has a limit: head bytes, header lines, handshake, dial, slots, queues.
//! 8. An idle tunnel costs two descriptors and no kernel worker thread; pipes are held only while
//!    bytes are in flight.
//! 9. No socket of a tunnel is closed cleanly before both directions have ended and all is
//!    acknowledged: until then closing it is a reset, after `kill -9` too.

pub mod account;
pub mod admin;
pub mod auth;
pub mod client;
pub mod commands;
pub mod config;
pub mod connection;
pub mod dial;
pub mod file;
pub mod fingerprint;
pub mod invalid_value;
pub mod message;
pub mod metrics;
pub mod policy;
pub mod principal;
pub mod proxy_protocol;
pub mod rate;
pub mod reason;
pub mod relay;
pub mod request;
pub mod secret;
pub mod server;
pub mod single_flight;
pub mod source;
pub mod sys;
pub mod target;
pub mod tls;
pub mod tunnel;
pub mod upgrade;
pub mod user_policy;
