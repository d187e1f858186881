//! Change to another user for good, and its lookup (credentials(7)).

use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::str::FromStr;

use crate::invalid_value::InvalidValue;
use rustix::process::{Gid, Uid, getgid, getgroups, getuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// A user and its groups, from `--run-as USER[:GROUP]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    text: String,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// Bytes for the strings of an entry; a larger entry is not read.
const ENTRY_BYTES: usize = 64 << 10;

/// Maximum of supplementary groups read (`NGROUPS_MAX` of Linux).
const MAX_GROUPS: usize = 1 << 16;

impl FromStr for RunAs {
    type Err = InvalidValue;

    /// Looks up `USER`, with all its groups, or `USER:GROUP`, with this group alone.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let number = user.parse::<u32>().ok();
        let entry = entry_of(user, number)?;
        let unknown = |what: &str, name: &str| format!("this host has no {what} '{name}'");
        let uid = number.or(entry.as_ref().map(|entry| entry.uid));
        let uid =
            uid.ok_or_else(|| InvalidValue::new(unknown("user", user), "create it, or use numbers as USER:GROUP"))?;
        if uid == 0 {
            return Err(InvalidValue::new(
                "root keeps the privileges that --run-as is meant to drop",
                "use another user",
            ));
        }
        let (gid, groups) = match (group, entry) {
            (Some(group), _) => {
                let gid = group.parse().ok().map_or_else(|| gid_of(group), |gid| Ok(Some(gid)))?;
                let gid =
                    gid.ok_or_else(|| InvalidValue::new(unknown("group", group), "create it, or give its number"))?;
                (gid, vec![gid])
            }
            (None, Some(entry)) => (entry.gid, groups_of(&entry.name, entry.gid)),
            (None, None) => {
                return Err(InvalidValue::new(unknown("user", user), format!("give its group as well: {user}:GROUP")));
            }
        };
        Ok(Self { text: text.to_owned(), uid, gid, groups })
    }
}

impl RunAs {
    /// User id.
    #[must_use]
    pub const fn uid(&self) -> u32 {
        self.uid
    }

    /// Group id of new files.
    #[must_use]
    pub const fn gid(&self) -> u32 {
        self.gid
    }

    /// Makes every thread of the process run as this user, for good. Needs no privilege if the
    /// process already runs as this user.
    ///
    /// # Errors
    /// The error of the refused call: EPERM without CAP_SETUID and CAP_SETGID.
    pub fn become_user(&self) -> io::Result<()> {
        if self.is_current() {
            return Ok(());
        }
        // By the C library, which changes every thread (nptl(7)); the system calls change one
        // thread each.
        // SAFETY: the pointer and the length belong to one slice.
        check(unsafe { libc::setgroups(self.groups.len(), self.groups.as_ptr()) })?;
        // SAFETY: it takes numbers.
        check(unsafe { libc::setresgid(self.gid, self.gid, self.gid) })?;
        // SAFETY: it takes numbers.
        check(unsafe { libc::setresuid(self.uid, self.uid, self.uid) })
    }

    /// Makes the calling thread alone run as this user. The thread must end before
    /// [`RunAs::become_user`], which the C library does in every thread or aborts.
    ///
    /// # Errors
    /// As [`RunAs::become_user`].
    pub fn become_user_in_thread(&self) -> io::Result<()> {
        if self.is_current() {
            return Ok(());
        }
        let groups: Vec<_> = self.groups.iter().copied().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        Ok(set_thread_res_uid(uid, uid, uid)?)
    }

    /// The calling thread runs as this user already.
    fn is_current(&self) -> bool {
        let groups =
            || getgroups().is_ok_and(|groups| groups.iter().all(|group| self.groups.contains(&group.as_raw())));
        (getuid().as_raw(), getgid().as_raw()) == (self.uid, self.gid) && groups()
    }
}

impl fmt::Display for RunAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An entry of passwd(5).
struct Entry {
    name: CString,
    uid: u32,
    gid: u32,
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn c_string(name: &str) -> Result<CString, InvalidValue> {
    CString::new(name).map_err(|_| InvalidValue::new("a name with a NUL byte", "remove it"))
}

fn looked_up(code: libc::c_int, name: &str) -> Result<(), InvalidValue> {
    let error = io::Error::from_raw_os_error(code);
    if code == 0 {
        Ok(())
    } else {
        Err(InvalidValue::new(format!("'{name}' cannot be looked up: {error}"), "give numbers as USER:GROUP"))
    }
}

fn entry_of(user: &str, uid: Option<u32>) -> Result<Option<Entry>, InvalidValue> {
    let name = c_string(user)?;
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut strings = vec![0; ENTRY_BYTES];
    let mut found = ptr::null_mut();
    let (memory, length) = (strings.as_mut_ptr(), strings.len());
    let code = match uid {
        // SAFETY: all pointers are to memory of the types and the length taken by the call.
        Some(uid) => unsafe { libc::getpwuid_r(uid, entry.as_mut_ptr(), memory, length, &raw mut found) },
        // SAFETY: as above, and the name ends with NUL.
        None => unsafe { libc::getpwnam_r(name.as_ptr(), entry.as_mut_ptr(), memory, length, &raw mut found) },
    };
    looked_up(code, user)?;
    if found.is_null() {
        return Ok(None);
    }
    // SAFETY: filled in by the call, as `found` tells.
    let entry = unsafe { entry.assume_init() };
    // SAFETY: the name is a string in `strings`, which is alive.
    let name = unsafe { CStr::from_ptr(entry.pw_name) }.to_owned();
    Ok(Some(Entry { name, uid: entry.pw_uid, gid: entry.pw_gid }))
}

fn gid_of(group: &str) -> Result<Option<u32>, InvalidValue> {
    let name = c_string(group)?;
    let mut entry = MaybeUninit::<libc::group>::uninit();
    let mut strings = vec![0; ENTRY_BYTES];
    let mut found = ptr::null_mut();
    let (memory, length) = (strings.as_mut_ptr(), strings.len());
    // SAFETY: all pointers are to memory of the types and the length taken by the call, and the
    // name ends with NUL.
    let code = unsafe { libc::getgrnam_r(name.as_ptr(), entry.as_mut_ptr(), memory, length, &raw mut found) };
    looked_up(code, group)?;
    if found.is_null() {
        return Ok(None);
    }
    // SAFETY: filled in by the call, as `found` tells.
    Ok(Some(unsafe { entry.assume_init() }.gr_gid))
}

/// All groups of a user; only the first if there are more than a process may have.
fn groups_of(user: &CStr, gid: u32) -> Vec<u32> {
    let mut groups = vec![0; MAX_GROUPS];
    let mut count = libc::c_int::try_from(groups.len()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the name ends with NUL, and there is room for `count` groups.
    let result = unsafe { libc::getgrouplist(user.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
    if result < 0 {
        return vec![gid];
    }
    groups.truncate(usize::try_from(count).unwrap_or_default());
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_names_or_numbers() {
        let parse = |text: &str| RunAs::from_str(text).map(|found| (found.uid, found.gid, found.groups));
        let nobody = parse("nobody").unwrap();
        assert_eq!(nobody.0, 65_534);
        assert!(nobody.2.contains(&nobody.1));
        assert_eq!(parse("65534").unwrap(), nobody);
        assert_eq!(parse("2000000001:daemon"), Ok((2_000_000_001, 1, vec![1])));
        assert_eq!(parse("nobody:7"), Ok((65_534, 7, vec![7])));
        for (text, said) in [
            ("no-such-user", "this host has no user 'no-such-user'; create it, or use numbers as USER:GROUP"),
            ("2000000001", "this host has no user '2000000001'; give its group as well: 2000000001:GROUP"),
            ("nobody:no-such-group", "this host has no group 'no-such-group'; create it, or give its number"),
            ("root", "root keeps the privileges that --run-as is meant to drop; use another user"),
            ("0:0", "root keeps the privileges"),
            ("", "this host has no user ''"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(said), "{text}: {error}");
        }
    }
}
