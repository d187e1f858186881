//! Joins the answers for A and AAAA, queried in parallel (RFC 8305, 3).

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

use super::answer::{Answer, LookupError};

/// Time to wait for the other family once one has addresses ("Resolution Delay", RFC 8305, 8).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// Bounds of the time to live of addresses. Below the first a resolver would be asked for each of a
/// burst of clients; beyond the second a change would be noticed too late.
const ADDRESS_TTL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_hours(1));

/// Bounds of the time to live of a negative answer; a failure is kept for the lower bound.
const NEGATIVE_TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Answer of a name server for one family: addresses, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) ttl: Duration,
    /// The name exists, if only with records of other types.
    pub(super) exists: bool,
}

type Asked = Result<Found, LookupError>;

impl Answer {
    pub(super) fn failed(why: String) -> Self {
        Self::failure(LookupError::Failed(why))
    }

    pub(super) const fn failure(error: LookupError) -> Self {
        Self { outcome: Err(error), ttl: NEGATIVE_TTL.0 }
    }
}

/// Waits for both families, but only [`RESOLUTION_DELAY`] for the second once the first has
/// addresses or the answer for A denies the name. (Some servers deny the name wrongly for AAAA: RFC
/// 4074, 4.2.)
pub(super) async fn side_by_side(a: impl Future<Output = Asked>, aaaa: impl Future<Output = Asked>) -> Answer {
    let (mut a, mut aaaa) = (pin!(a), pin!(aaaa));
    let (mut of_a, mut of_aaaa) = (None, None);
    tokio::select! {
        found = &mut a => of_a = Some(found),
        found = &mut aaaa => of_aaaa = Some(found),
    }
    let settled = match (&of_a, &of_aaaa) {
        (Some(Ok(found)), _) => !found.addresses.is_empty() || !found.exists,
        (_, Some(Ok(found))) => !found.addresses.is_empty(),
        _ => false,
    };
    let other = async {
        match of_a {
            Some(_) => of_aaaa = Some(aaaa.await),
            None => of_a = Some(a.await),
        }
    };
    if settled {
        let _ = timeout(RESOLUTION_DELAY, other).await;
    } else {
        other.await;
    }
    join(of_a, of_aaaa)
}

/// Joins the addresses, IPv6 first: an address of a family missing on this host fails at once.
fn join(a: Option<Asked>, aaaa: Option<Asked>) -> Answer {
    let complete = [&a, &aaaa].into_iter().all(|asked| matches!(asked, Some(Ok(_))));
    let no_such_name = matches!(&a, Some(Ok(found)) if !found.exists);
    let found = || [&aaaa, &a].into_iter().filter_map(|asked| asked.as_ref()?.as_ref().ok());
    let addresses: Vec<_> = found().flat_map(|found| found.addresses.iter().copied()).collect();
    if !addresses.is_empty() {
        let ttl = found().filter(|found| !found.addresses.is_empty()).map(|found| found.ttl).min();
        let (floor, ceiling) = ADDRESS_TTL;
        // The other family is asked for again soon: its answer was late, or it had none.
        let ttl = if complete { ttl.unwrap_or_default().clamp(floor, ceiling) } else { floor };
        return Answer { outcome: Ok(addresses), ttl };
    }
    if !complete && !no_such_name {
        let failure = [a, aaaa].into_iter().flatten().find_map(Result::err);
        return Answer::failure(failure.unwrap_or_else(|| LookupError::Failed("the look-up was cancelled".to_owned())));
    }
    let ttl = found().map(|found| found.ttl).min().unwrap_or_default();
    let why = if no_such_name { "no such name (NXDOMAIN)" } else { "no address" };
    let (floor, ceiling) = NEGATIVE_TTL;
    Answer { outcome: Err(LookupError::NotFound(why.to_owned())), ttl: ttl.clamp(floor, ceiling) }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::{Instant, sleep};

    use super::*;

    fn found(addresses: &[&str], ttl: u64) -> Asked {
        let addresses = addresses.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 0)).collect();
        Ok(Found { addresses, ttl: Duration::from_secs(ttl), exists: true })
    }

    fn no_such_name(ttl: u64) -> Asked {
        Ok(Found { addresses: Vec::new(), ttl: Duration::from_secs(ttl), exists: false })
    }

    fn failed() -> Asked {
        Err(LookupError::Failed("SERVFAIL".into()))
    }

    async fn after(milliseconds: u64, asked: Asked) -> Asked {
        sleep(Duration::from_millis(milliseconds)).await;
        asked
    }

    fn ips(answer: &Answer) -> Vec<String> {
        answer.outcome.iter().flatten().map(|address| address.ip().to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_family_costs_the_resolution_delay_and_is_asked_for_again_soon() {
        let began = Instant::now();
        let answer = side_by_side(after(10, found(&["192.0.2.1"], 600)), pending()).await;
        assert_eq!(began.elapsed(), Duration::from_millis(60));
        assert_eq!((ips(&answer), answer.ttl), (vec!["192.0.2.1".to_owned()], ADDRESS_TTL.0));
        let answer = side_by_side(pending(), ready(found(&["fd00::1"], 600))).await;
        assert_eq!(ips(&answer), ["fd00::1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn both_families_are_joined_ipv6_first_with_the_lesser_ttl() {
        let answer = side_by_side(ready(found(&["192.0.2.1"], 60)), after(40, found(&["fd00::1"], 30))).await;
        assert_eq!((ips(&answer), answer.ttl.as_secs()), (vec!["fd00::1".to_owned(), "192.0.2.1".to_owned()], 30));
        let answer = side_by_side(after(9_000, found(&["192.0.2.1"], 60)), ready(found(&[], 5))).await;
        assert_eq!((ips(&answer), answer.ttl.as_secs()), (vec!["192.0.2.1".to_owned()], 60));
        // An AAAA server wrongly denies the name.
        let answer = side_by_side(after(9_000, found(&["192.0.2.1"], 60)), ready(no_such_name(5))).await;
        assert_eq!((ips(&answer), answer.ttl.as_secs()), (vec!["192.0.2.1".to_owned()], 60));
        let answer = side_by_side(ready(found(&["192.0.2.1"], 600)), ready(failed())).await;
        assert_eq!((ips(&answer), answer.ttl), (vec!["192.0.2.1".to_owned()], ADDRESS_TTL.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_to_live_has_a_floor_and_a_ceiling() {
        for (ttl, kept) in [(0, 5), (4, 5), (6, 6), (3_600, 3_600), (86_400, 3_600)] {
            let answer = side_by_side(ready(found(&["192.0.2.1"], ttl)), ready(found(&[], 0))).await;
            assert_eq!(answer.ttl.as_secs(), kept, "{ttl}");
        }
        for (ttl, kept) in [(0, 1), (10, 10), (900, 30)] {
            let answer = side_by_side(ready(no_such_name(ttl)), ready(no_such_name(ttl))).await;
            assert_eq!(answer.ttl.as_secs(), kept, "{ttl}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_none_is_said_only_when_that_is_known() {
        let began = Instant::now();
        let answer = side_by_side(ready(no_such_name(9)), pending()).await;
        let none = |why: &str| Err(LookupError::NotFound(why.to_owned()));
        assert_eq!(answer.outcome, none("no such name (NXDOMAIN)"));
        assert_eq!(began.elapsed(), RESOLUTION_DELAY);
        let answer = side_by_side(ready(found(&[], 9)), ready(found(&[], 9))).await;
        assert_eq!(answer.outcome, none("no address"));
        let answer = side_by_side(ready(found(&[], 9)), ready(failed())).await;
        assert_eq!(answer.outcome, Err(LookupError::Failed("SERVFAIL".into())));
        assert_eq!(answer.ttl, NEGATIVE_TTL.0);
    }
}
