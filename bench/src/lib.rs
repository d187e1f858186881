//! The parts of the bench. It knows gateways by their addresses alone, and links nothing of them.
//!
//! | module | what is in it |
//! |---|---|
//! | `namespace`, `netlink`, `place` | a network of its own; the cores of a ping-pong |
//! | `process`, `interrupt` | children that end with the run, whatever ends it |
//! | `socket` | sockets, and CONNECT where there is a proxy |
//! | `data`, `flow` | what is sent; sending and receiving at the least cost |
//! | `origin` | the far end |
//! | `load` | what is measured |
//! | `contender`, `relay` | who is compared, one file for each program; a relay that is compared |
//! | `everybody` | one measurement of each, round by round |
//! | `compare`, `scale` | all measurements in one run; the cost of many tunnels |
//! | `rates` | whether the gateway keeps to the rates that it is given |
//! | `report` | the result: table, plots, the block of docs/benchmarks.md |
//! | `machine`, `host`, `stats` | /proc, what it ran on, medians |

pub mod compare;
pub mod contender;
pub mod data;
mod everybody;
pub mod flow;
pub mod host;
pub mod interrupt;
pub mod load;
pub mod machine;
pub mod namespace;
mod netlink;
pub mod origin;
pub mod place;
pub mod process;
pub mod rates;
pub mod relay;
pub mod report;
pub mod scale;
pub mod socket;
pub mod stats;

#[cfg(test)]
mod tests;
