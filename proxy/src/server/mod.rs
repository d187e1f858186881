//! Runs the gateway: accepts, watches signals, drains.
//!
//! | file | content |
//! |---|---|
//! | `control` | the threads, one for each core if possible |
//! | `listen` | binding, before anything else can fail |
//! | `accept` | the accept loop, its back-off and its limit |
//! | `descriptors` | the descriptor limit and its division |
//! | `reload` | the thread for re-reading files |

mod accept;
mod control;
pub mod descriptors;
mod listen;
mod reload;
mod run;
mod signals;

pub use control::Control;
pub use listen::{Addresses, ClientListener, ControlChoice, Listeners};
pub use reload::{Reloader, log_bad_lines};
pub use run::Server;
pub use signals::Signals;
