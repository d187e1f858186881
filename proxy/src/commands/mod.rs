//! The subcommands, one file each.

pub mod hash_password;
