//! The descriptor limit, and the tunnels that fit in it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that tunnels do not get: listeners, logs, loops, the admin server, handshakes under
/// way, and pipes for the tunnels that move bytes just now.
const RESERVED: u64 = 512;

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
    usize::try_from(limit.saturating_sub(RESERVED) / EACH).unwrap_or(usize::MAX)
}

/// How many tunnels to admit.
///
/// # Errors
/// When more are wanted than fit, or none does.
pub fn admit(wanted: Option<usize>, limit: u64) -> Result<usize, String> {
    let room = tunnels_within(limit);
    match wanted {
        Some(wanted) if wanted > room => Err(format!(
            "--max-tunnels {wanted} needs {} descriptors ({EACH} each and {RESERVED} beside), but the hard limit is \
             {limit}: raise it (systemd: LimitNOFILE=, shell: ulimit -Hn) or lower --max-tunnels to {room}",
            (wanted as u64).saturating_mul(EACH).saturating_add(RESERVED),
        )),
        None if room == 0 => Err(format!(
            "the hard limit of {limit} descriptors has no room for a tunnel beside the {RESERVED} that the gateway \
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
        assert_eq!(admit(None, 1_512), Ok(500));
        assert_eq!(admit(Some(500), 1_512), Ok(500));
        let error = admit(Some(501), 1_512).unwrap_err();
        assert!(error.contains("needs 1514 descriptors") && error.contains("--max-tunnels to 500"), "{error}");
        assert!(admit(None, 512).unwrap_err().contains("no room for a tunnel"));
        assert!(admit(Some(usize::MAX), 1_512).is_err());
    }
}
