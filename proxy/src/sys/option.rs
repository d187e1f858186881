//! Options of sockets that neither socket2 nor rustix knows.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

/// What an option holds.
///
/// # Safety
/// Any bytes are a value of it, zeros among them, and it has no padding.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: an integer.
unsafe impl Plain for libc::c_int {}
// SAFETY: an integer.
unsafe impl Plain for libc::c_ulong {}
// SAFETY: integers side by side.
unsafe impl<const N: usize> Plain for [u32; N] {}

/// Reads an option: what the kernel wrote, zeros behind it, and its length in bytes.
///
/// # Errors
/// The error of getsockopt(2).
pub(super) fn get<T: Plain>(socket: &impl AsFd, level: libc::c_int, option: libc::c_int) -> io::Result<(T, usize)> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = length_of::<T>();
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: `value` and `length` are this function's own and outlive the call; the kernel writes at most `length` bytes
    // to `value` and keeps neither pointer. The descriptor is borrowed for the call.
    let result = unsafe { libc::getsockopt(descriptor, level, option, value.as_mut_ptr().cast(), &raw mut length) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: any bytes are a value (`Plain`), and those that the kernel did not write are zero.
    Ok((unsafe { value.assume_init() }, length as usize))
}

/// Sets an option.
///
/// # Errors
/// The error of setsockopt(2).
pub(super) fn set<T: Plain>(socket: &impl AsFd, level: libc::c_int, option: libc::c_int, value: T) -> io::Result<()> {
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: `value` is this function's own and outlives the call; the kernel reads as many bytes of it as it has, and
    // keeps no pointer. The descriptor is borrowed for the call.
    let result = unsafe { libc::setsockopt(descriptor, level, option, (&raw const value).cast(), length_of::<T>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("the size of an option")
}
