//! The product from outside: the real binary, real sockets, real clients.
//!
//! | module | what belongs there |
//! |---|---|
//! | `support` | what the others share: the gateway, origins, clients, waiting |
//! | `handshake` | everything before the 200: requests, answers, users, limits, and those who mean no good |
//! | `engines` | every byte of a tunnel, however it begins, goes on and ends, on every engine |

mod engines;
mod handshake;
mod support;
