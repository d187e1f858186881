//! The product from outside: the real binary, real sockets, real clients.
//!
//! | module | what belongs there |
//! |---|---|
//! | `support` | what the others share: the gateway, origins, clients, waiting |
//! | `engines` | every byte of a tunnel, however it begins, goes on and ends, on every engine |

mod engines;
mod support;
