//! TLS by rustls: towards clients that use the gateway as an https proxy, and towards https://
//! parents.
//!
//! | file | content |
//! |---|---|
//! | `session` | a session: encrypted bytes in and out, plain bytes for the caller |
//! | `failure` | errors of a session, a missing close_notify among them |
//! | `hello` | the ClientHello, read ahead of its session |
//! | `certificate` | the certificate presented to clients, and its key |
//! | `validity` | validity period of that certificate |
//! | `x509` | the few fields of a certificate that the gateway reads |
//! | `roots` | CA certificates for verifying parents |
//! | `suites` | cipher suites, best first |

mod certificate;
mod failure;
mod hello;
mod roots;
mod session;
mod suites;
mod validity;
mod x509;

pub use certificate::{Half, PairError, ServerCertificate};
pub use failure::is_truncation;
pub use hello::Hello;
pub use roots::{RootStore, server_name};
pub use session::Session;

#[cfg(test)]
mod tests;
