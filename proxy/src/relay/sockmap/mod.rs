//! The engine `sockmap`: a BPF program redirects the bytes of a tunnel from one socket to the
//! other.
//!
//! A tunnel begins with the pump, as with the engine `splice`. As soon as the pump holds none of
//! its bytes, and unless it has a rate limit, [`Sockmap`] takes it over
//! ([`crate::relay::offload`]). From then on its worker handles the pair, failures, and
//! destinations that do not keep up.
//!
//! | file | contents |
//! |---|---|
//! | `program` | the BPF program, its maps, and the slots in them |
//! | `offloaded_tunnel` | a tunnel in the maps |
//! | `offloaded_direction` | one direction: its steps and its end |
//! | `socket_pair` | the sockets of a direction, and where their streams were when the kernel took over |
//! | `catch_up` | userspace's part while a destination does not keep up |
//! | `spill` | the memory that this takes, bounded for all tunnels together |
//! | `backpressure` | the thread that learns of such directions from the program |
//! | `btf` | offsets of the kernel's fields that the program reads |
//! | `hint` | remedies when the kernel refuses a component |
//! | `kernel_selftest` | the test of this kernel before the engine is used |

use std::fmt::Debug;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use super::offload::{Notify, Offload, Offloader};
use super::options::Options;
use super::poller::Epoll;
use super::unavailable::Component;
use super::workers::Workers;
use crate::tunnel::Flow;

mod backpressure;
mod btf;
mod catch_up;
pub(super) mod hint;
mod kernel_selftest;
pub(super) mod offloaded_direction;
mod offloaded_tunnel;
pub(super) mod program;
mod socket_pair;
mod spill;

#[cfg(test)]
mod tests;

pub use program::Program;

use backpressure::BackpressureWatch;
use offloaded_tunnel::OffloadedTunnel;

/// The engine's [`Offloader`].
#[derive(Debug)]
pub(super) struct Sockmap(Arc<Program>);

impl Offloader for Sockmap {
    fn offload(&self, id: u64, sockets: [&TcpStream; 2], flow: &Arc<Flow>) -> io::Result<Box<dyn Offload>> {
        OffloadedTunnel::new(&self.0, id, sockets, flow).map(|tunnel| Box::new(tunnel) as Box<dyn Offload>)
    }

    fn start_notifier(&self, notify: Notify) -> io::Result<Box<dyn Debug + Send + Sync>> {
        BackpressureWatch::start(self.0.clone(), notify).map(|watch| Box::new(watch) as Box<dyn Debug + Send + Sync>)
    }
}

/// Starts the engine and tests the kernel.
///
/// # Errors
/// The component that failed, and its error.
pub(super) fn start(options: &Options) -> Result<Workers, (Component, io::Error)> {
    let program = match &options.program {
        Some(Ok(program)) => program.clone(),
        _ => Program::load(options.tunnels, options.sockmap_backlog).map(Arc::new)?,
    };
    let workers = start_workers(&program, options).map_err(|error| (Component::Threads, error))?;
    let tested = kernel_selftest::run(&program, |tunnel| workers.adopt(tunnel));
    tested.map_err(|error| (Component::Tunnel, error))?;
    Ok(workers)
}

fn start_workers(program: &Arc<Program>, options: &Options) -> io::Result<Workers> {
    Workers::start_offloading::<Epoll>(Arc::new(Sockmap(program.clone())), options)
}
