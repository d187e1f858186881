//! The place of the eBPF program that redirects between the two sockets of a tunnel, and of the
//! memory layout that it shares with the gateway.
//!
//! No program is here yet: the gateway has no `sockmap` engine, and nothing links this crate.
