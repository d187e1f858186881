//! The BPF program, its maps, and the slots in them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use sluicegate_ebpf::FIELDS;

use super::offloaded_direction::OffloadedDirection;
use super::socket_pair::{SocketPair, slot_of};
use super::spill::SpillBudget;
use super::{btf, hint};
use crate::relay::unavailable::Component;
use crate::sys::bpf::Redirector;
use crate::tunnel::Direction;

/// Maximum number of tunnels that are redirected at the same time: the maps are allocated as a
/// whole.
const MAX_TUNNELS: u32 = 1 << 16;

/// The loaded program, its maps, and the owners of the slots in them.
#[derive(Debug)]
pub struct Program {
    redirector: Redirector,
    /// First slot of each free pair. Pairs that were returned last are taken last, so that nothing
    /// of their former tunnel is still under way in the kernel.
    free: Mutex<VecDeque<u32>>,
    /// Numbers of the tunnels, by pair; 0: none.
    owners: Box<[AtomicU64]>,
    /// Limit of unacknowledged bytes of a direction.
    backlog: u64,
    /// Memory for bytes that userspace holds for slow destinations.
    budget: Arc<SpillBudget>,
}

impl Program {
    /// Loads the program, with room for `tunnels`, and a limit of unacknowledged bytes of each
    /// direction.
    ///
    /// # Errors
    /// The component that the kernel refused, and its error.
    pub(in crate::relay) fn load(tunnels: usize, backlog: u64) -> Result<Self, (Component, io::Error)> {
        let setting = std::fs::read_to_string(hint::PANIC_ON_WARN).unwrap_or_default();
        hint::outlives_warnings(&setting).map_err(|error| (Component::PanicOnWarn, error))?;
        let pairs = u32::try_from(tunnels).unwrap_or(MAX_TUNNELS).min(MAX_TUNNELS);
        let offsets = btf::offsets_in_kernel(FIELDS).map_err(|error| (Component::Types, error))?;
        let redirector = Redirector::load(pairs * 2, offsets).map_err(|refused| {
            let component = if refused.what == "map" { Component::Maps } else { Component::Program };
            let error = if refused.detail.is_empty() {
                refused.error
            } else {
                with_errno_or_text(&refused.error, &refused.detail)
            };
            (component, error)
        })?;
        Ok(Self {
            redirector,
            free: Mutex::new((0..pairs).map(|pair| pair * 2).collect()),
            owners: (0..pairs).map(|_| AtomicU64::new(0)).collect(),
            backlog,
            budget: Arc::default(),
        })
    }

    pub(super) const fn redirector(&self) -> &Redirector {
        &self.redirector
    }

    pub(super) const fn backlog(&self) -> u64 {
        self.backlog
    }

    /// Takes a free pair of slots for tunnel `id`.
    ///
    /// # Errors
    /// ENOSPC if every pair is taken.
    pub(super) fn take_slots(self: &Arc<Self>, id: u64) -> io::Result<SlotPair> {
        let first = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop_front().ok_or(Errno::NOSPC)?;
        self.owners[first as usize / 2].store(id, Ordering::Relaxed);
        Ok(SlotPair { program: self.clone(), first })
    }

    /// Prepares a direction for redirection.
    pub(super) fn prepare(&self, pair: &SocketPair<'_>) -> io::Result<OffloadedDirection> {
        OffloadedDirection::prepare(pair, self.redirector.directions(), self.backlog, &self.budget)
    }

    /// Descriptor that becomes readable when a direction exceeds its limit.
    pub(super) fn over_limit_events(&self) -> io::Result<OwnedFd> {
        self.redirector.over_limit_events()
    }

    /// Appends the numbers of the tunnels with a direction that has exceeded its limit since the
    /// last call.
    pub(super) fn take_over_limit(&self, tunnels: &mut Vec<u64>) {
        let mut slots = Vec::new();
        self.redirector.take_over_limit(&mut slots);
        let owners = slots.iter().filter_map(|slot| self.owners.get(*slot as usize / 2));
        tunnels.extend(owners.map(|owner| owner.load(Ordering::Relaxed)));
    }

    /// Bytes redirected of all tunnels in the maps, by [`Direction::index`].
    pub(super) fn redirected(&self) -> [u64; 2] {
        let owned = self.owners.iter().zip((0..).step_by(2)).filter(|(owner, _)| owner.load(Ordering::Relaxed) != 0);
        let directions = self.redirector.directions();
        owned.fold([0; 2], |sum, (_, first)| {
            Direction::BOTH
                .map(|direction| sum[direction.index()] + directions.counts(slot_of(first, direction)).redirected)
        })
    }

    /// First slots of all free pairs.
    #[cfg(test)]
    pub(super) fn free(&self) -> Vec<u32> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

/// The two slots of a tunnel, returned when dropped.
#[derive(Debug)]
pub(super) struct SlotPair {
    program: Arc<Program>,
    /// Slot of the client's socket; that of the origin's is the next one.
    first: u32,
}

impl SlotPair {
    pub(super) const fn first(&self) -> u32 {
        self.first
    }

    pub(super) fn program(&self) -> &Program {
        &self.program
    }
}

impl Drop for SlotPair {
    fn drop(&mut self) {
        let Program { free, owners, .. } = &*self.program;
        owners[self.first as usize / 2].store(0, Ordering::Relaxed);
        free.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.first);
    }
}

/// Returns the kernel's error with its errno, if it has one; the verifier's text then only goes to
/// the debug log. Otherwise the text becomes the error.
fn with_errno_or_text(error: &io::Error, detail: &str) -> io::Error {
    tracing::debug!(%error, detail, "the kernel's verifier");
    error.raw_os_error().map_or_else(|| io::Error::other(detail.to_owned()), io::Error::from_raw_os_error)
}
