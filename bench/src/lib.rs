//! Library of the bench. It reaches gateways by their addresses alone and links none of their code.
//!
//! | module | purpose |
//! |---|---|
//! | `namespace`, `netlink`, `affinity` | a network of its own; threads pinned to cores |
//! | `process`, `interrupt` | children that end with the run, even an interrupted one |
//! | `socket` | sockets, and CONNECT where there is a proxy |
//! | `data`, `flow` | the payload; sending and receiving at the least cost |
//! | `origin` | the far end |
//! | `load` | the measurements |
//! | `contender`, `relay` | the compared programs, one file each; a relay for comparison |
//! | `rounds`, `rows` | one measurement of each contender, round by round; its row |
//! | `compare`, `scale` | all measurements in one run; the cost of many tunnels |
//! | `rates` | accuracy of the gateway's rate limits |
//! | `report` | the result: table, plots, the block of docs/benchmarks.md |
//! | `machine`, `host`, `stats` | /proc, description of the machine, medians |

pub mod affinity;
pub mod compare;
pub mod contender;
pub mod data;
pub mod flow;
pub mod host;
pub mod interrupt;
pub mod load;
pub mod machine;
pub mod namespace;
mod netlink;
pub mod origin;
pub mod process;
pub mod rates;
pub mod relay;
pub mod report;
mod rounds;
pub mod rows;
pub mod scale;
pub mod socket;
pub mod stats;

#[cfg(test)]
mod tests;
