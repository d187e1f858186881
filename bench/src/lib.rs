//! The parts of the bench. It knows gateways by their addresses alone, and links nothing of them.
//!
//! | module | what is in it |
//! |---|---|
//! | `socket` | sockets, and CONNECT where there is a proxy |
//! | `flow` | sending and receiving at the least cost |
//! | `origin` | the far end |
//! | `load` | what is measured |
//! | `contender`, `compare`, `report` | the comparison: who, how, and the table |
//! | `machine`, `stats` | /proc, and medians |

pub mod compare;
pub mod contender;
pub mod flow;
pub mod load;
pub mod machine;
pub mod origin;
pub mod report;
pub mod socket;
pub mod stats;

#[cfg(test)]
mod tests;
