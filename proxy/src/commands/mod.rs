//! The subcommands, one file each.

pub mod kill;
pub mod tunnels;
