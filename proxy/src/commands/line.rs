//! The command line: the subcommands and what each takes.

use clap::{Parser, Subcommand};

use super::doctor::Doctor;
use super::drain::Drain;
use super::hash_password::HashPassword;
use super::kill::Kill;
use super::rates::Rates;
use super::tunnels::Tunnels;
use crate::config::{Check, Explain, Serve};

/// A CONNECT tunnel gateway for bulk transfers: userspace shakes hands, the kernel moves the bytes.
#[derive(Debug, Parser)]
#[command(name = "sluicegate", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway
    Serve(Box<Serve>),
    /// Validate a configuration without running it, and name every error of it; takes the options of `serve`
    Check(Box<Check>),
    /// Try what this host can do: which engine will run, what costs speed, and how to get better
    Doctor(Doctor),
    /// Say which rule decides about a target, and the addresses that would be dialled
    Explain(Box<Explain>),
    /// List the live tunnels of a running gateway
    Tunnels(Tunnels),
    /// End live tunnels of a running gateway, by a reset to both sides
    Kill(Kill),
    /// Show how fast the tunnels of a running gateway may be, or change that
    Rates(Rates),
    /// Have a running gateway take no more connections and end with its last tunnel, as SIGTERM does
    Drain(Drain),
    /// Print a line for the users file; the password is read from the terminal or standard input
    HashPassword(HashPassword),
    /// Print the options of `serve` as a Markdown table, or the man page
    #[command(hide = true)]
    Options {
        /// The Markdown table instead of the man page.
        #[arg(long)]
        markdown: bool,
    },
}
