//! Runs the gateway: accepts, watches signals, drains.
//!
//! | file | content |
//! |---|---|
//! | `handshake_threads` | the threads, one for each core if possible |
//! | `listen` | binding, before anything else can fail |
//! | `accept` | the accept loop, its back-off and its limit |
//! | `descriptors` | the descriptor limit and its division |
//! | `reload` | the thread for re-reading files |

mod accept;
pub mod descriptors;
mod handshake_threads;
mod listen;
mod reload;
mod run;
mod signals;

pub use handshake_threads::Control;
pub use listen::{Addresses, ClientListener, ControlChoice, Listeners};
pub use reload::{Reloader, log_bad_lines};
pub use run::Server;
pub use signals::Signals;
