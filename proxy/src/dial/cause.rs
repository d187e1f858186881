//! The refusal sent to a client when no address of its target could be reached.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;

use crate::reason::{Reason, Refusal};
use crate::target::{Host, Target};

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) address: SocketAddr,
    pub(super) error: io::Error,
}

/// Reasons, the most specific first: a host that refuses exists; a silent host may exist; a family
/// without a route or a source address never had a chance.
const TELLING: [Reason; 4] = [Reason::ConnectRefused, Reason::ConnectTimeout, Reason::Unreachable, Reason::Exhausted];

/// Returns the refusal for a target after every attempt has failed.
pub(super) fn refusal(target: &Target, failures: &[Failure], timeout: Duration) -> Refusal {
    let rank = |failure: &&Failure| TELLING.iter().position(|reason| *reason == reason_of(&failure.error));
    let Some(Failure { address, error }) = failures.iter().min_by_key(rank) else {
        return Refusal::new(Reason::Unreachable, format!("{target} has no address to dial"));
    };
    let reason = reason_of(error);
    let cause = match reason {
        Reason::ConnectRefused => format!("connection refused by {address}"),
        Reason::ConnectTimeout => {
            format!("no answer from {address} (--dial-timeout {})", humantime::format_duration(timeout))
        }
        Reason::Exhausted => format!("the gateway cannot dial {address}: {error}"),
        other => format!("{address} is {other}: {error}"),
    };
    let others = match failures.len() {
        1 => String::new(),
        all => format!("; {all} addresses failed"),
    };
    let name = match &target.host {
        Host::Name(name) => format!(" for {name}"),
        Host::Address(_) => String::new(),
    };
    Refusal::new(reason, cause + &name + &others)
}

/// Returns the refusal for a target to which the PROXY header could not be sent.
pub(super) fn of_preamble(address: SocketAddr, error: &io::Error) -> Refusal {
    let reason = if error.kind() == io::ErrorKind::TimedOut { Reason::ConnectTimeout } else { Reason::Unreachable };
    Refusal::new(reason, format!("cannot send the PROXY header to {address}: {error}"))
}

/// Reason for a failed connect(2), or for a failed step before it.
fn reason_of(error: &io::Error) -> Reason {
    if error.kind() == io::ErrorKind::TimedOut {
        return Reason::ConnectTimeout;
    }
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return Reason::ConnectRefused;
    }
    match Errno::from_io_error(error) {
        // No free port or no source address, no descriptor, no memory.
        Some(Errno::ADDRNOTAVAIL | Errno::ADDRINUSE | Errno::AGAIN) => Reason::Exhausted,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => Reason::Exhausted,
        // No route, a firewall's no (EACCES, EPERM), a reset in answer to the SYN, and the like.
        Some(_) | None => Reason::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(address: &str, errno: Errno) -> Failure {
        Failure { address: address.parse().unwrap(), error: errno.into() }
    }

    fn told(target: &str, failures: &[Failure]) -> (Reason, String) {
        let refusal = refusal(&Target::parse(target).unwrap(), failures, Duration::from_secs(10));
        (refusal.reason, refusal.detail.into_owned())
    }

    #[test]
    fn every_error_has_its_reason_and_its_words() {
        let table = [
            (Errno::CONNREFUSED, Reason::ConnectRefused, "connection refused by 10.1.2.3:443"),
            (Errno::TIMEDOUT, Reason::ConnectTimeout, "no answer from 10.1.2.3:443 (--dial-timeout 10s)"),
            (Errno::HOSTUNREACH, Reason::Unreachable, "10.1.2.3:443 is unreachable: No route to host (os error 113)"),
            (
                Errno::NETUNREACH,
                Reason::Unreachable,
                "10.1.2.3:443 is unreachable: Network is unreachable (os error 101)",
            ),
            (Errno::ACCESS, Reason::Unreachable, "10.1.2.3:443 is unreachable: Permission denied (os error 13)"),
            (
                Errno::CONNRESET,
                Reason::Unreachable,
                "10.1.2.3:443 is unreachable: Connection reset by peer (os error 104)",
            ),
            (
                Errno::MFILE,
                Reason::Exhausted,
                "the gateway cannot dial 10.1.2.3:443: Too many open files (os error 24)",
            ),
            (
                Errno::ADDRNOTAVAIL,
                Reason::Exhausted,
                "the gateway cannot dial 10.1.2.3:443: Cannot assign requested address (os error 99)",
            ),
            (
                Errno::NOBUFS,
                Reason::Exhausted,
                "the gateway cannot dial 10.1.2.3:443: No buffer space available (os error 105)",
            ),
        ];
        for (errno, reason, detail) in table {
            assert_eq!(told("10.1.2.3:443", &[failure("10.1.2.3:443", errno)]), (reason, detail.to_owned()));
        }
    }

    #[test]
    fn the_most_telling_of_several_wins() {
        let [v6, v4] = ["[fd00::1]:443", "10.1.2.3:443"];
        let table = [
            (Errno::NETUNREACH, Errno::CONNREFUSED, Reason::ConnectRefused),
            (Errno::TIMEDOUT, Errno::CONNREFUSED, Reason::ConnectRefused),
            (Errno::NETUNREACH, Errno::TIMEDOUT, Reason::ConnectTimeout),
            (Errno::ADDRNOTAVAIL, Errno::TIMEDOUT, Reason::ConnectTimeout),
            (Errno::ADDRNOTAVAIL, Errno::HOSTUNREACH, Reason::Unreachable),
        ];
        for (lesser, greater, reason) in table {
            let orders = [[failure(v6, lesser), failure(v4, greater)], [failure(v4, greater), failure(v6, lesser)]];
            for failures in orders {
                let (told, detail) = told("api.example:443", &failures);
                assert_eq!(told, reason);
                assert!(detail.contains(v4) && detail.ends_with(" for api.example; 2 addresses failed"), "{detail}");
            }
        }
    }
}
