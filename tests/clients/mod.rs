//! Real programs with a user and a password, going through the gateway to a distinguishable origin.
//! A missing program skips its test with a note, or fails it with `SLUICEGATE_TEST_FULL=1`.
//!
//! | file | contents |
//! |---|---|
//! | `http` | document fetchers: curl, wget, python, node |
//! | `stream` | byte streams: ncat, socat, openssl |
//! | `readme` | the quick start of README.md |
//! | `rsync` | rsync and its own daemon |
//! | `kubernetes` | kubectl and WebSocket, both of which switch protocols |
//! | `user` | the gateway, and the user of the clients |
//! | `tls` | a TLS origin, by openssl |

mod http;
mod kubernetes;
mod readme;
mod rsync;
mod stream;
mod tls;
mod user;
