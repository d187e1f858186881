//! Every byte of a tunnel, from its start to its end: one script for every engine, with equal
//! bytes, ends, counts and log lines.
//!
//! | file | contents |
//! |---|---|
//! | `rig` | one gateway with one engine, and its expected counters |
//! | `bytes` | streams delivered whole |
//! | `upgrade` | streams of tunnels started by an origin's 101 |
//! | `resets` | aborted streams |
//! | `sockmap` | further tests of one engine |
//! | `crowd` | thousands of tunnels ending in every way at any moment |
//! | `kills` | thousands of tunnels killed by an operator at any moment |
//! | `timeouts` | idle tunnels, slow readers, vanished peers, and a stopped gateway |
//! | `fallback` | unavailable engines |

mod bytes;
mod crowd;
mod fallback;
mod kills;
mod resets;
mod rig;
mod sockmap;
mod timeouts;
mod upgrade;
