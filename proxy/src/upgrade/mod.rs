//! Asks an origin to switch protocols, as the client that is waiting did (RFC 9110, 7.8).
//!
//! Only the origin's own 101 makes a tunnel. Until then what comes from the client is the content of its request and
//! nothing more: bytes behind that wait, and go nowhere if the origin answers anything else. Such an answer is passed on
//! whole, and the connection is closed behind it; the next request on it would be one that nobody has looked at.

mod answer;

use std::io::{self, ErrorKind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::client::took_no_answer;
use crate::dial::Reached;
use crate::message::{BadContent, Content, MAX_HEAD};
use crate::reason::{Reason, Refusal};
use crate::request::Upgrade;
use crate::sys::stream::{BothWays, Stream};
use crate::sys::tcp::{self, reset_on_close};

use answer::{Answer, SWITCHED};

/// What is read of content at once.
const PIECE: usize = 64 << 10;

/// The least and the most time until a client that has not acknowledged its answer is looked at again: no event tells.
const SOONEST: Duration = Duration::from_millis(1);
const LATEST: Duration = Duration::from_millis(50);

/// Sends the request to the origin, and what the origin says to the client. `limit` is for the origin's answer, and for
/// anything else that does not go on. To be raced against the client's end ([`crate::client::unless_left`]).
///
/// Once both sides know that the protocol is another one, the origin comes back, with what it sent behind its 101;
/// what the client sent behind its request stays in `from_client`.
///
/// # Errors
/// A refusal that the client is still to be told; or, where it has the origin's answer instead, [`Reason::NotUpgraded`],
/// and [`Reason::AnswerCut`] if that was not whole.
pub async fn ask(
    client: BothWays<'_>,
    from_client: &mut Vec<u8>,
    origin: Reached,
    asked: Upgrade,
    limit: Duration,
) -> Result<Reached, Refusal> {
    let Reached { socket, tls, address, target, behind, parent } = origin;
    let mut stream = Stream::with(socket, tls);
    let behind = {
        let origin = stream
            .both_ways()
            .map_err(|error| Refusal::new(Reason::Exhausted, format!("the origin cannot be waited for: {error}")))?;
        let mut from_origin = behind;
        let answer = answered(client, from_client, origin, &mut from_origin, asked, limit).await?;
        // From here on what the client has is a part of something, until it has all of it.
        cut_unless_whole(&client, true);
        within(limit, client.write_all(&answer.head)).await.map_err(|error| took_no_answer(&error))?;
        if answer.status != SWITCHED {
            return Err(passed_on(origin, from_origin, client, answer, limit).await);
        }
        cut_unless_whole(&client, false);
        // A long-lived tunnel keeps no empty buffer.
        if from_origin.is_empty() { Vec::new() } else { from_origin }
    };
    let (socket, tls) = stream.into_parts().map_err(|error| Refusal::new(Reason::Exhausted, error.to_string()))?;
    Ok(Reached { socket, tls, address, target, behind, parent })
}

/// Whoever closes the client's socket from here on resets it: a kill, the end of a drain, a time-out. A client takes a
/// clean end for the end of an answer that announces none.
fn cut_unless_whole(client: &BothWays<'_>, cut: bool) {
    // It fails for what is no TCP socket.
    let _ = reset_on_close(client, cut);
}

/// The answer that is not followed by another one, when the request has gone, or needs to go no further.
async fn answered(
    client: BothWays<'_>,
    from_client: &mut Vec<u8>,
    origin: BothWays<'_>,
    from_origin: &mut Vec<u8>,
    asked: Upgrade,
    limit: Duration,
) -> Result<Answer, Refusal> {
    within(limit, origin.write_all(asked.head.expose())).await.map_err(|error| took_nothing(&error))?;
    let mut content = asked.content.clone();
    // Both at once: an origin may answer before it has all, and a client may wait for a 100 before it sends any.
    let mut carrying = pin!(carry(client, from_client, origin, &mut content, limit));
    let interim = AtomicBool::new(false);
    let mut answering = pin!(read_answer(origin, from_origin, client, &asked, &interim));
    // `Some` when it is over, with what the origin did not take the rest for.
    let mut carried: Option<Result<(), Refusal>> = None;
    let answered = loop {
        tokio::select! {
            done = &mut carrying, if carried.is_none() => match done {
                Err(broken @ Broken::From(_)) => break Err(broken.of_request()),
                // An origin that takes no more has an answer, as a rule.
                done => carried = Some(done.map_err(|broken| broken.of_request())),
            },
            answer = &mut answering => break answer,
            () = sleep(limit), if carried.is_some() => {
                let limit = humantime::format_duration(limit);
                let detail = format!("no answer from the origin to the Upgrade (--handshake-timeout {limit})");
                break Err(Refusal::new(Reason::AnswerTimeout, detail));
            }
        }
    };
    match (answered, carried) {
        // Whoever has the whole of a request may switch; from one that has a part of it the rest would be the tunnel's.
        (Ok(answer), Some(carried)) if answer.status == SWITCHED => carried.map(|()| answer),
        (Ok(answer), None) if answer.status == SWITCHED => {
            carrying.await.map(|()| answer).map_err(|broken| broken.of_request())
        }
        (Ok(answer), _) => Ok(answer),
        // Nothing can be said to a client that has the half of something.
        (Err(refusal), _) if interim.load(Ordering::Relaxed) => {
            cut_unless_whole(&client, true);
            Err(Refusal::new(Reason::AnswerCut, format!("an interim answer did not go through: {}", refusal.detail)))
        }
        (Err(refusal), _) => Err(refusal),
    }
}

/// Reads up to an answer that is not interim, and passes those before it on; `interim` is true while one is on its way.
async fn read_answer(
    origin: BothWays<'_>,
    buffer: &mut Vec<u8>,
    client: BothWays<'_>,
    asked: &Upgrade,
    interim: &AtomicBool,
) -> Result<Answer, Refusal> {
    loop {
        if let Some(answer) = answer::parse(buffer, asked)? {
            buffer.drain(..answer.head_len);
            if !answer.is_interim() {
                return Ok(answer);
            }
            interim.store(true, Ordering::Relaxed);
            client.write_all(&answer.head).await.map_err(|error| took_no_answer(&error))?;
            interim.store(false, Ordering::Relaxed);
            continue;
        }
        buffer.reserve_exact(MAX_HEAD.saturating_sub(buffer.len()).max(1));
        match origin.read_buf(buffer).await {
            Ok(0) => return answer::bad("it closed before it was complete"),
            Ok(_) => {}
            Err(error) => return answer::bad(&format!("it broke off: {error}")),
        }
    }
}

/// Passes on what comes behind an answer that makes no tunnel: why there is none.
async fn passed_on(
    origin: BothWays<'_>,
    mut buffer: Vec<u8>,
    client: BothWays<'_>,
    mut answer: Answer,
    limit: Duration,
) -> Refusal {
    let status = answer.status;
    let mut passing = pin!(async {
        carry(origin, &mut buffer, client, &mut answer.content, limit).await?;
        delivered(client, limit).await.map_err(Broken::To)
    });
    let (mut discarding, mut sends) = (pin!(discard(client)), true);
    let passed = loop {
        tokio::select! {
            passed = &mut passing => break passed,
            discarded = &mut discarding, if sends => match discarded {
                Ok(()) => sends = false,
                Err(error) => break Err(Broken::To(error)),
            },
        }
    };
    match passed {
        Ok(()) => {
            cut_unless_whole(&client, false);
            Refusal::new(Reason::NotUpgraded, format!("the origin answered {status}"))
        }
        Err(Broken::To(error)) => took_no_answer(&error),
        Err(Broken::From(broken)) => {
            Refusal::new(Reason::AnswerCut, format!("the origin answered {status}, of which not all came: {broken}"))
        }
    }
}

/// Takes what a client sends whose answer is on its way, until its end, and lets it go nowhere. Left unread it would hold
/// up one that writes all before it reads, and make a reset of the end, which takes along what is still to be sent
/// (RFC 9112, 9.6).
async fn discard(client: BothWays<'_>) -> io::Result<()> {
    let mut scratch = Vec::with_capacity(PIECE);
    while client.read_buf(&mut scratch).await? > 0 {
        scratch.clear();
    }
    Ok(())
}

/// Waits until all that was sent is acknowledged, for as long as `limit` does not go by without an acknowledgement.
async fn delivered(client: BothWays<'_>, limit: Duration) -> io::Result<()> {
    let (mut before, mut since, mut pause) = (None, Instant::now(), SOONEST);
    while !tcp::is_delivered(&client) {
        let progress = tcp::progress(&client)?;
        if progress.closed {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if before.replace(progress.acknowledged) != Some(progress.acknowledged) {
            since = Instant::now();
        } else if since.elapsed() >= limit {
            return Err(ErrorKind::TimedOut.into());
        }
        sleep(pause).await;
        pause = (pause * 2).min(LATEST);
    }
    Ok(())
}

/// Passes content on; what came behind it stays in `buffer`, which holds what was read and not passed on.
async fn carry(
    from: BothWays<'_>,
    buffer: &mut Vec<u8>,
    to: BothWays<'_>,
    content: &mut Content,
    limit: Duration,
) -> Result<(), Broken> {
    loop {
        let taken = content.take(buffer).map_err(|error| Broken::From(Source::Bad(error)))?;
        within(limit, to.write_all(&buffer[..taken])).await.map_err(Broken::To)?;
        buffer.drain(..taken);
        if content.is_complete() {
            return Ok(());
        }
        buffer.reserve(PIECE);
        match within(limit, from.read_buf(buffer)).await {
            Ok(0) if *content == Content::UntilClose => return Ok(()),
            Ok(0) => return Err(Broken::From(Source::Ended)),
            Ok(_) => {}
            Err(error) => return Err(Broken::From(Source::Failed(error))),
        }
    }
}

/// Why content did not get through.
enum Broken {
    From(Source),
    To(io::Error),
}

/// What was wrong with where it comes from.
enum Source {
    Bad(BadContent),
    Ended,
    Failed(io::Error),
}

impl Broken {
    /// What that is for the content of a request.
    fn of_request(&self) -> Refusal {
        let source = match self {
            Self::To(error) => return took_nothing(error),
            Self::From(source) => source,
        };
        let reason = match source {
            Source::Bad(_) => Reason::Malformed,
            Source::Failed(error) if error.kind() == ErrorKind::TimedOut => Reason::HandshakeTimeout,
            Source::Ended | Source::Failed(_) => Reason::ClientGone,
        };
        Refusal::new(reason, format!("the content of the request is not whole: {source}"))
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bad(error) => error.fmt(f),
            Self::Ended => f.write_str("closed before its end"),
            Self::Failed(error) if error.kind() == ErrorKind::TimedOut => {
                f.write_str("nothing came for --handshake-timeout")
            }
            Self::Failed(error) => error.fmt(f),
        }
    }
}

fn took_nothing(error: &io::Error) -> Refusal {
    match error.kind() {
        ErrorKind::TimedOut => {
            Refusal::new(Reason::AnswerTimeout, "the origin took no more of the request for --handshake-timeout")
        }
        _ => Refusal::new(Reason::BadAnswer, format!("the origin took no more of the request: {error}")),
    }
}

async fn within<T>(limit: Duration, io: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, io).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}
