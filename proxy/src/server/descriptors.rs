//! Division of the descriptor limit: descriptors already open, the gateway's own, connections
//! without a tunnel, and tunnels.

use std::thread::available_parallelism;

use crate::invalid_value::InvalidValue;
use crate::sys::descriptors;

/// Descriptors of the gateway itself, beside those of [`EACH_CORE`]: listeners, log, re-read files,
/// name look-ups, and the connections to its admin, metrics and control listeners (64 each).
const OWN: u64 = 288;

/// Descriptors inherited from a parent process, included in [`OWN`].
const INHERITED: u64 = 16;

/// Descriptors of the threads of a core: a poller and an eventfd for each of its two loops, the
/// same
/// for handshakes, a listener for each address, and a few pipes.
const EACH_CORE: u64 = 16;

/// Descriptors of a tunnel: its two sockets.
const EACH: u64 = 2;

/// Fewest and most connections without a tunnel: each may hold the 16 KiB of a head.
const HANDSHAKES: (u64, u64) = (64, 4096);

/// Fraction of the limit for these connections, between those two bounds.
const HANDSHAKES_SHARE: u64 = 8;

/// Division of a descriptor limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// Tunnels at once, with their sockets.
    pub tunnels: usize,
    /// Connections without a tunnel at once.
    pub handshakes: usize,
    own: u64,
}

impl Division {
    /// Reserves this division for the whole process: sockets and pipes stay within their parts from
    /// now on.
    pub fn apply(&self) {
        descriptors::divide(self.own, self.own.saturating_add(self.handshakes as u64));
    }
}

/// Raises the limit of this process to its hard limit, and returns the new limit.
#[must_use]
pub fn raise() -> u64 {
    descriptors::raise()
}

/// Divides a limit for a gateway with this number of listen addresses. With `wanted` tunnels the
/// rest goes to connections without one.
///
/// # Errors
/// When more tunnels are wanted than fit, or none does.
pub fn divide(wanted: Option<usize>, limit: u64, listeners: usize) -> Result<Division, InvalidValue> {
    let cores = available_parallelism().map_or(1, |threads| threads.get() as u64);
    let inherited = descriptors::inherited().saturating_sub(INHERITED);
    let division = divide_for(wanted, limit, own(cores, listeners as u64) + inherited)?;
    // Descriptors opened before the first client have low numbers and need nothing below the limit.
    Ok(Division { own: own(cores, 1), ..division })
}

/// Descriptors of the gateway itself. One address to listen at is among those of a core.
const fn own(cores: u64, listeners: u64) -> u64 {
    cores.saturating_mul(EACH_CORE + listeners.saturating_sub(1)).saturating_add(OWN)
}

/// Remedy for too low a limit.
const RAISE: &str = "raise it (systemd: LimitNOFILE=, shell: ulimit -Hn)";

fn divide_for(wanted: Option<usize>, limit: u64, own: u64) -> Result<Division, InvalidValue> {
    let (least, most) = HANDSHAKES;
    let handshakes = (limit / HANDSHAKES_SHARE).clamp(least, most);
    let room = |handshakes: u64| limit.saturating_sub(own).saturating_sub(handshakes) / EACH;
    let beside = own + least;
    let (tunnels, handshakes) = match wanted {
        Some(wanted) if wanted as u64 > room(least) => {
            let needed = (wanted as u64).saturating_mul(EACH).saturating_add(beside);
            let cause = format!(
                "--max-tunnels {wanted} needs {needed} descriptors ({EACH} each and {beside} beside), but the hard \
                 limit is {limit}"
            );
            let remedy = format!("{RAISE} or lower --max-tunnels to {}", room(least));
            return Err(InvalidValue::new(cause, remedy));
        }
        None if room(handshakes) == 0 => {
            let needed = own + handshakes;
            let cause = format!(
                "the hard limit of {limit} descriptors has no room for a tunnel: the gateway needs {needed} for itself \
                 and for handshakes"
            );
            return Err(InvalidValue::new(cause, RAISE));
        }
        Some(wanted) => {
            let rest = limit - own - EACH * wanted as u64;
            (wanted, rest.min(most))
        }
        None => (usize::try_from(room(handshakes)).unwrap_or(usize::MAX), handshakes),
    };
    Ok(Division { tunnels, handshakes: usize::try_from(handshakes).unwrap_or(usize::MAX), own })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_admitted_and_the_rest_is_explained() {
        let own = own(2, 1);
        let division = |wanted, limit| divide_for(wanted, limit, own).map(|it| (it.tunnels, it.handshakes));
        assert_eq!(division(None, own + 1_000), Ok(((1_000 - 165) / 2, 165)));
        assert_eq!(division(None, 20_000), Ok(((20_000 - 320 - 2_500) / 2, 2_500)));
        assert_eq!(division(None, 1 << 20), Ok((((1 << 20) - 320 - 4_096) / 2, 4_096)));
        assert_eq!(division(Some(468), own + 1_000), Ok((468, 64)));
        assert_eq!(division(Some(1), own + 1_000), Ok((1, 998)));
        let error = division(Some(469), own + 1_000).unwrap_err().to_string();
        let needed = format!("needs {} descriptors", own + 1_002);
        assert!(error.contains(&needed) && error.contains("--max-tunnels to 468"), "{error}");
        assert!(division(None, own + 64).unwrap_err().to_string().contains("no room for a tunnel"));
        assert!(division(Some(usize::MAX), own + 1_000).is_err());
        assert!(division(Some(1), 10).is_err());
    }

    #[test]
    fn many_cores_have_many_descriptors() {
        assert_eq!([1, 2, 64].map(|cores| own(cores, 1)), [304, 320, 1_312]);
        // A listener for each address on each core.
        assert_eq!([own(2, 0), own(2, 2), own(64, 10)], [320, 322, 1_888]);
    }
}
