//! The descriptor limit, and the tunnels that fit in it.

use std::thread::available_parallelism;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that tunnels do not get: listeners, logs, loops, the admin server, handshakes under
/// way, and pipes for the tunnels that move bytes just now. So many beside those of [`EACH_CORE`], and at least.
const RESERVED: (u64, u64) = (256, 512);

/// What the threads of a core have: a poller and an eventfd for each of its two loops, the same for handshakes, a
/// listener for each address, and a few pipes.
const EACH_CORE: u64 = 16;

/// Descriptors of a tunnel: its two sockets.
const EACH: u64 = 2;

/// Raises the limit of this process to its hard limit, and says what it is then.
#[must_use]
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Raising the soft limit to the hard one is always permitted (getrlimit(2)); if not, what was stays.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The tunnels that a limit has room for.
#[must_use]
pub fn tunnels_within(limit: u64) -> usize {
    usize::try_from(limit.saturating_sub(reserved()) / EACH).unwrap_or(usize::MAX)
}

fn reserved() -> u64 {
    reserved_for(available_parallelism().map_or(1, |threads| threads.get() as u64))
}

fn reserved_for(cores: u64) -> u64 {
    cores.saturating_mul(EACH_CORE).saturating_add(RESERVED.0).max(RESERVED.1)
}

/// How many tunnels to admit.
///
/// # Errors
/// When more are wanted than fit, or none does.
pub fn admit(wanted: Option<usize>, limit: u64) -> Result<usize, String> {
    let (room, reserved) = (tunnels_within(limit), reserved());
    match wanted {
        Some(wanted) if wanted > room => Err(format!(
            "--max-tunnels {wanted} needs {} descriptors ({EACH} each and {reserved} beside), but the hard limit is \
             {limit}: raise it (systemd: LimitNOFILE=, shell: ulimit -Hn) or lower --max-tunnels to {room}",
            (wanted as u64).saturating_mul(EACH).saturating_add(reserved),
        )),
        None if room == 0 => Err(format!(
            "the hard limit of {limit} descriptors has no room for a tunnel beside the {reserved} that the gateway \
             needs itself: raise it (systemd: LimitNOFILE=, shell: ulimit -Hn)"
        )),
        Some(wanted) => Ok(wanted),
        None => Ok(room),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_admitted_and_the_rest_is_explained() {
        let limit = reserved() + 1_000;
        assert_eq!(admit(None, limit), Ok(500));
        assert_eq!(admit(Some(500), limit), Ok(500));
        let error = admit(Some(501), limit).unwrap_err();
        let needed = format!("needs {} descriptors", limit + 2);
        assert!(error.contains(&needed) && error.contains("--max-tunnels to 500"), "{error}");
        assert!(admit(None, reserved()).unwrap_err().contains("no room for a tunnel"));
        assert!(admit(Some(usize::MAX), limit).is_err());
    }

    #[test]
    fn many_cores_have_many_descriptors() {
        assert_eq!([1, 16, 64].map(reserved_for), [512, 512, 1_280]);
    }
}
