//! System calls that the kernel refuses, as it does in a container.

use std::collections::BTreeMap;
use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// Calls, and the error that they are answered with.
pub(crate) type Refused = (&'static [libc::c_long], i32);

const RING: &[libc::c_long] = &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
const EBPF: &[libc::c_long] = &[libc::SYS_bpf];

/// What Docker's default profile refuses of the calls that the gateway makes (moby, profiles/seccomp, from
/// version 25 on).
pub(crate) const DOCKER: &[Refused] = &[(RING, libc::EPERM), (EBPF, libc::EPERM)];

/// The same for Podman's (containers/common, pkg/seccomp): what it does not know is said not to exist.
pub(crate) const PODMAN: &[Refused] = &[(RING, libc::ENOSYS), (EBPF, libc::EPERM)];

/// A profile that is stricter than either.
pub(crate) const NO_SPLICE: &[Refused] =
    &[(RING, libc::EPERM), (EBPF, libc::EPERM), (&[libc::SYS_splice], libc::EPERM)];

/// Without either of these there is no event loop.
pub(crate) const NO_EPOLL: &[Refused] = &[(&[libc::SYS_epoll_create1], libc::EPERM)];
/// See [`NO_EPOLL`].
pub(crate) const NO_EVENTFD: &[Refused] = &[(&[libc::SYS_eventfd2], libc::ENOSYS)];

/// Runs something to whose child processes the kernel refuses these calls: a filter on a thread goes over to
/// what it starts.
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
