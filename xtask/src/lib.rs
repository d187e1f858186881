//! Library of all commands of developers and CI. The integration tests share its migration rig with
//! `cargo xtask demo`.

pub mod bench;
pub mod check;
pub mod demo;
pub mod ebpf;
pub mod failure;
pub mod interrupt;
pub mod migration;
mod subprocess;
pub mod tidy;
pub mod tools;
mod workspace;
