//! Probes of system calls a host may refuse, each by itself, to report the kernel's own error. A
//! probe leaves nothing behind.

use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::pipe::Pipe;
use super::ring::Ring;

/// Sets up a ring of io_uring as a worker thread of the engine does.
///
/// # Errors
/// EPERM by `kernel.io_uring_disabled`, a security module or a seccomp filter; ENOSYS by a filter
/// or a kernel without io_uring; ENOMEM by `RLIMIT_MEMLOCK`; EMFILE or ENFILE without free
/// descriptors (io_uring_setup(2)).
pub fn ring() -> io::Result<()> {
    // Set up and entered: a filter may refuse either.
    Ring::new()?.wait(Some(Duration::ZERO))
}

/// Moves a byte from one socket to another by splice(2).
///
/// # Errors
/// The error of the refused call; EPERM or ENOSYS from splice(2) itself come from a seccomp filter.
pub fn splice() -> io::Result<()> {
    let (near, mut far) = UnixStream::pair()?;
    near.set_nonblocking(true)?;
    far.write_all(&[0])?;
    let pipe = Pipe::new()?;
    let held = pipe.fill(&near, 1)?;
    pipe.drain(&near, held).map(drop)
}

/// The start of `union bpf_attr` for `BPF_MAP_CREATE` (`include/uapi/linux/bpf.h`).
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// The command `BPF_MAP_CREATE` and the type `BPF_MAP_TYPE_SOCKHASH` (`include/uapi/linux/bpf.h`).
const BPF_MAP_CREATE: libc::c_int = 0;
const SOCKHASH: u32 = 18;

/// Creates a BPF map of sockets, as needed by an engine redirecting in the kernel.
///
/// # Errors
/// EPERM without CAP_BPF and CAP_NET_ADMIN in the first user namespace (`kernel/bpf/syscall.c`,
/// `map_create`) or by a seccomp filter; EINVAL by a kernel without such maps.
pub fn sockhash() -> io::Result<()> {
    let attributes = MapCreate { map_type: SOCKHASH, key_size: 8, value_size: 8, max_entries: 1 };
    // SAFETY: the kernel reads the struct, which outlives the call, up to the given size, takes the
    // fields behind it for zero, and keeps no pointer.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &raw const attributes, size_of::<MapCreate>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = RawFd::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the call has just created this descriptor, and nothing else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_try_succeeds_or_tells_the_error_of_the_kernel_and_leaves_no_map() {
        for (name, result) in [("ring", ring()), ("splice", splice()), ("sockhash", sockhash())] {
            if let Err(error) = result {
                assert!(error.raw_os_error().is_some(), "{name}: {error}");
            }
        }
        // Maps of the engine have more entries; a probe in another test holds its map for a moment.
        let is_left = |info: &String| info.contains("map_type:\t18\n") && info.contains("max_entries:\t1\n");
        let infos = || std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
        let left = || infos().filter_map(|info| std::fs::read_to_string(info.path()).ok()).filter(is_left).count();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while left() > 0 {
            assert!(std::time::Instant::now() < deadline, "a map is left");
            std::thread::yield_now();
        }
    }
}
