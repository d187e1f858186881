//! Every byte of a tunnel, however it begins, goes on and ends: the same script for every engine, with
//! the same bytes, the same end, the same counts and the same log line.
//!
//! | file | what is in it |
//! |---|---|
//! | `rig` | one gateway with one engine, and what it has to have counted |
//! | `bytes` | streams that arrive whole |
//! | `upgrade` | the same where a tunnel begins with an origin's 101 |
//! | `resets` | streams that are cut off |
//! | `sockmap` | what one engine has to prove beyond that |
//! | `crowd` | thousands of tunnels that end in any way at any moment |
//! | `kills` | thousands of tunnels that an operator ends at any moment |
//! | `timeouts` | idle tunnels, slow readers, peers that vanish, and a gateway that stands still |
//! | `fallback` | what happens where an engine cannot do its work |

mod bytes;
mod crowd;
mod fallback;
mod kills;
mod resets;
mod rig;
mod sockmap;
mod timeouts;
mod upgrade;
