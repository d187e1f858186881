//! System calls refused by seccomp filters, as in a container.

use std::collections::BTreeMap;
use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// System calls, and the error for them.
pub(crate) type Refused = (&'static [libc::c_long], i32);

const RING: &[libc::c_long] = &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
const EBPF: &[libc::c_long] = &[libc::SYS_bpf];

/// Calls of the gateway refused by Docker's default profile (moby, profiles/seccomp, version 25 and
/// later).
pub(crate) const DOCKER: &[Refused] = &[(RING, libc::EPERM), (EBPF, libc::EPERM)];

/// Calls of the gateway refused by Podman's profile (containers/common, pkg/seccomp): unknown calls
/// give ENOSYS.
pub(crate) const PODMAN: &[Refused] = &[(RING, libc::ENOSYS), (EBPF, libc::EPERM)];

/// A profile stricter than both.
pub(crate) const NO_SPLICE: &[Refused] =
    &[(RING, libc::EPERM), (EBPF, libc::EPERM), (&[libc::SYS_splice], libc::EPERM)];

/// The event loop needs this call.
pub(crate) const NO_EPOLL: &[Refused] = &[(&[libc::SYS_epoll_create1], libc::EPERM)];
/// The event loop needs this call.
pub(crate) const NO_EVENTFD: &[Refused] = &[(&[libc::SYS_eventfd2], libc::ENOSYS)];

/// Runs `run` with these calls refused to its child processes: children inherit the filter of a
/// thread.
pub(crate) fn refusing<T: Send>(refused: &[Refused], run: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            for (calls, error) in refused {
                filter(calls, *error);
            }
            run()
        });
        thread.join().expect("it does not panic")
    })
}

fn filter(calls: &[libc::c_long], error: i32) {
    let arch = std::env::consts::ARCH.try_into().expect("an architecture with seccomp filters");
    let refused = SeccompAction::Errno(u32::try_from(error).expect("positive"));
    let rules: BTreeMap<_, _> = calls.iter().map(|call| (*call, Vec::new())).collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).expect("a filter");
    let program: BpfProgram = filter.try_into().expect("a program");
    apply_filter(&program).expect("a kernel with seccomp filters");
}
