//! Socket options known to neither socket2 nor rustix.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

/// Value of a socket option.
///
/// # Safety
/// Any bytes, including zeros, are a valid value, and there is no padding.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: an integer.
unsafe impl Plain for libc::c_int {}
// SAFETY: an integer.
unsafe impl Plain for libc::c_ulong {}
// SAFETY: integers side by side.
unsafe impl<const N: usize> Plain for [u32; N] {}

/// Reads an option: the bytes written by the kernel, followed by zeros, and their length.
///
/// # Errors
/// The error of getsockopt(2).
pub(super) fn get<T: Plain>(socket: &impl AsFd, level: libc::c_int, option: libc::c_int) -> io::Result<(T, usize)> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = length_of::<T>();
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: `value` and `length` are local to this function and outlive the call; the kernel
    // writes at most `length` bytes to `value` and keeps neither pointer. The descriptor is
    // borrowed for the call.
    let result = unsafe { libc::getsockopt(descriptor, level, option, value.as_mut_ptr().cast(), &raw mut length) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: any bytes are a value (`Plain`), and bytes not written by the kernel are zero.
    Ok((unsafe { value.assume_init() }, length as usize))
}

/// Sets an option.
///
/// # Errors
/// The error of setsockopt(2).
pub(super) fn set<T: Plain>(socket: &impl AsFd, level: libc::c_int, option: libc::c_int, value: T) -> io::Result<()> {
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: `value` is local to this function and outlives the call; the kernel reads at most its
    // size and keeps no pointer. The descriptor is borrowed for the call.
    let result = unsafe { libc::setsockopt(descriptor, level, option, (&raw const value).cast(), length_of::<T>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("the size of an option")
}
