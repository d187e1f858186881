//! Asks an origin to switch protocols, for a waiting client (RFC 9110, 7.8).
//!
//! Only the origin's own 101 makes a tunnel. Until then the client's bytes are the content of its
//! request and nothing more: bytes behind the content wait, and go nowhere if the origin answers
//! anything else. Such an answer is forwarded whole, and the connection is closed behind it; a
//! further request on it would be unchecked.
//!
//! An exchange is limited like a tunnel: it has one deadline and a bound for each of its parts,
//! all its bytes are counted, and it is held to rates and ended by commands as a tunnel is
//! ([`Flow`]).
//!
//! | file | content |
//! |---|---|
//! | `mod` | the order of an exchange |
//! | `answer` | heads of answers, read and written anew |
//! | `exchange` | bytes from one side to the other, within the deadline |
//! | `exchange_commands` | commands of the account |

mod answer;
mod exchange;
mod exchange_commands;

use std::io::{self, ErrorKind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::client::{cancel_if_client_leaves, took_no_answer};
use crate::dial::Upstream;
use crate::message::{MAX_CONTENT_BYTES, MAX_HEAD, MAX_INTERIM_ANSWERS};
use crate::reason::{Reason, Refusal};
use crate::request::Upgrade;
use crate::sys::stream::{SplitStream, Stream};
use crate::tunnel::{Direction, Flow};

use answer::{Answer, SWITCHED};
use exchange::{CopyError, Exchange, SourceError, reset_on_close};
use exchange_commands::Control;

/// Most bytes of content of an answer without a tunnel, chunk framing included: such an answer is
/// an error or a page about one.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// Sends the request to the origin, and the origin's answers to the client, all within `limit`.
///
/// Returns the origin once both sides have switched protocols, with the bytes behind its 101; the
/// client's bytes behind its request stay in `from_client`. `flow` counts the bytes of the exchange
/// and gives it commands.
///
/// # Errors
/// - A refusal to send to the client.
/// - [`Reason::NotUpgraded`], [`Reason::AnswerCut`], [`Reason::AnswerTooLong`]: the client already
///   has the origin's answer, or a part of it.
/// - [`Reason::ClientGone`]: the client has left.
/// - The reason that `flow` was stopped with.
pub async fn exchange(
    client: SplitStream<'_>,
    from_client: &mut Vec<u8>,
    origin: Upstream,
    request: Upgrade,
    limit: Duration,
    flow: &Flow,
) -> Result<Upstream, Refusal> {
    let Upstream { socket, tls, address, target, leftover, parent } = origin;
    let mut stream = Stream::with(socket, tls);
    let leftover = {
        let origin = stream
            .split()
            .map_err(|error| Refusal::new(Reason::Exhausted, format!("cannot poll the origin: {error}")))?;
        // While an exchange runs, closing the origin is a reset; while an answer is being sent,
        // closing the client is one too.
        reset_on_close(origin, true);
        let exchange = Exchange { client, origin, flow, deadline: Instant::now() + limit };
        let mut control = Control::of(flow);
        let mut from_origin = leftover;
        let exchanged = tokio::select! {
            biased;
            why = control.obey([client, origin]) => {
                reset_on_close(client, true);
                Err(Refusal::new(why, "ended before the origin switched protocols"))
            }
            exchanged = run_exchange(exchange, from_client, &mut from_origin, request, limit) => exchanged,
        };
        exchanged?;
        control.release_rate([client, origin]);
        // A long-lived tunnel keeps no empty buffer.
        if from_origin.is_empty() { Vec::new() } else { from_origin }
    };
    let (socket, tls) = stream.into_parts().map_err(|error| Refusal::new(Reason::Exhausted, error.to_string()))?;
    Ok(Upstream { socket, tls, address, target, leftover, parent })
}

/// Runs the exchange from the request to the answer: a 101 on success.
async fn run_exchange(
    exchange: Exchange<'_>,
    from_client: &mut Vec<u8>,
    from_origin: &mut Vec<u8>,
    request: Upgrade,
    limit: Duration,
) -> Result<(), Refusal> {
    let Exchange { client, origin, .. } = exchange;
    // Set with the last byte of the request, if the client has sent more.
    let early = AtomicBool::new(false);
    let answering = send_and_await_answer(exchange, from_client, from_origin, request, limit, &early);
    let answer = cancel_if_client_leaves(client, &early, answering).await?;
    // From here on the client's bytes are part of an answer, until the answer is complete.
    reset_on_close(client, true);
    exchange.send(Direction::ToClient, &answer.head).await.map_err(|error| took_no_answer(&error))?;
    if answer.status != SWITCHED {
        return Err(forward_answer(exchange, from_origin, answer, !from_client.is_empty()).await);
    }
    reset_on_close(client, false);
    reset_on_close(origin, false);
    Ok(())
}

/// Returns the final answer, once the request is sent or needs no more sending.
async fn send_and_await_answer(
    exchange: Exchange<'_>,
    from_client: &mut Vec<u8>,
    from_origin: &mut Vec<u8>,
    request: Upgrade,
    limit: Duration,
    early: &AtomicBool,
) -> Result<Answer, Refusal> {
    exchange.send(Direction::ToOrigin, request.head.expose()).await.map_err(|error| origin_write_refusal(&error))?;
    let mut content = request.content.clone();
    // Both at once: an origin may answer before it has all, and a client may wait for a 100 before
    // it sends any.
    let mut sending = pin!(async {
        exchange.carry(Direction::ToOrigin, from_client, &mut content, MAX_CONTENT_BYTES).await?;
        early.store(!from_client.is_empty(), Ordering::Relaxed);
        Ok(())
    });
    let interim = AtomicBool::new(false);
    let mut answering = pin!(read_final_answer(exchange, from_origin, &request, &interim, limit));
    let mut sent = Sent::Partly;
    let answer = loop {
        tokio::select! {
            biased;
            done = &mut sending, if matches!(sent, Sent::Partly) => sent = match done {
                Ok(()) => Sent::Whole,
                // An origin that accepts no more bytes usually has an answer.
                Err(CopyError::Destination(error)) => Sent::Rejected(origin_write_refusal(&error)),
                Err(broken @ CopyError::Source(_)) => break Err(request_refusal(&broken)),
            },
            answer = &mut answering => break answer,
        }
    };
    match answer {
        // Accept the 101 only after the whole request is sent; otherwise the rest of its content
        // would be sent as tunnel bytes.
        Ok(answer) if answer.status == SWITCHED => match sent {
            Sent::Whole => Ok(answer),
            Sent::Partly => sending.await.map(|()| answer).map_err(|broken| request_refusal(&broken)),
            Sent::Rejected(refusal) => Err(refusal),
        },
        Ok(answer) => Ok(answer),
        // A client with half an answer cannot be sent a refusal.
        Err(refusal) if interim.load(Ordering::Relaxed) => {
            reset_on_close(exchange.client, true);
            Err(Refusal::new(Reason::AnswerCut, format!("cannot pass on an interim answer: {}", refusal.detail)))
        }
        Err(refusal) => Err(refusal),
    }
}

/// Progress of a request's content to the origin.
enum Sent {
    /// Some of it is still to be sent.
    Partly,
    /// The origin has all of it.
    Whole,
    /// The origin takes no more of it.
    Rejected(Refusal),
}

/// Reads up to the final answer, and forwards the interim ones before it; `interim` is true while
/// one is being sent.
async fn read_final_answer(
    exchange: Exchange<'_>,
    buffer: &mut Vec<u8>,
    request: &Upgrade,
    interim: &AtomicBool,
    limit: Duration,
) -> Result<Answer, Refusal> {
    let mut interim_count = 0;
    loop {
        if let Some(answer) = answer::parse(buffer, request)? {
            buffer.drain(..answer.head_len);
            if !answer.is_interim() {
                return Ok(answer);
            }
            interim_count += 1;
            if interim_count > MAX_INTERIM_ANSWERS {
                return answer::bad(&format!("more than {MAX_INTERIM_ANSWERS} interim answers"));
            }
            interim.store(true, Ordering::Relaxed);
            exchange.send(Direction::ToClient, &answer.head).await.map_err(|error| took_no_answer(&error))?;
            interim.store(false, Ordering::Relaxed);
            continue;
        }
        buffer.reserve_exact(MAX_HEAD.saturating_sub(buffer.len()).max(1));
        match exchange.receive(Direction::ToClient, buffer).await {
            Ok(0) => return answer::bad("closed before it was complete"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                let limit = humantime::format_duration(limit);
                let detail = format!("no answer from the origin to the Upgrade (--handshake-timeout {limit})");
                return Err(Refusal::new(Reason::AnswerTimeout, detail));
            }
            Err(error) => return answer::bad(&format!("it broke off: {error}")),
        }
    }
}

/// Forwards the content of an answer without a tunnel, and returns the reason for the lack of one.
/// `early`: the client had sent more than its request, so the end of its stream is not its
/// departure.
async fn forward_answer(exchange: Exchange<'_>, buffer: &mut Vec<u8>, mut answer: Answer, early: bool) -> Refusal {
    let Exchange { client, origin, .. } = exchange;
    let (status, whole) = (answer.status, AtomicBool::new(false));
    let mut passing = pin!(async {
        exchange.carry(Direction::ToClient, buffer, &mut answer.content, MAX_ANSWER_BYTES).await?;
        whole.store(true, Ordering::Relaxed);
        exchange.delivered().await.map_err(CopyError::Destination)
    });
    let (mut discarding, mut sends) = (pin!(exchange.discard()), true);
    let passed = loop {
        tokio::select! {
            biased;
            passed = &mut passing => break passed,
            discarded = &mut discarding, if sends => match discarded {
                // A client with its whole answer may close.
                Ok(()) if early || whole.load(Ordering::Relaxed) => sends = false,
                Ok(()) => break Err(CopyError::Destination(io::Error::new(ErrorKind::ConnectionAborted, "it closed its connection"))),
                Err(error) => break Err(CopyError::Destination(error)),
            },
        }
    };
    match passed {
        Ok(()) => {
            reset_on_close(client, false);
            reset_on_close(origin, false);
            Refusal::new(Reason::NotUpgraded, format!("the origin answered {status}"))
        }
        Err(CopyError::Destination(error)) => took_no_answer(&error),
        Err(CopyError::Source(SourceError::TooLong)) => Refusal::new(
            Reason::AnswerTooLong,
            format!("the origin answered {status} with more than {MAX_ANSWER_BYTES} bytes of content"),
        ),
        Err(CopyError::Source(broken)) => {
            Refusal::new(Reason::AnswerCut, format!("the origin answered {status}, but not completely: {broken}"))
        }
    }
}

/// Builds the refusal of a request with undelivered content.
fn request_refusal(broken: &CopyError) -> Refusal {
    let source = match broken {
        CopyError::Destination(error) => return origin_write_refusal(error),
        CopyError::Source(source) => source,
    };
    let reason = match source {
        SourceError::TooLong => {
            let detail = format!("the content of an Upgrade is longer than {MAX_CONTENT_BYTES} bytes; use CONNECT");
            return Refusal::new(Reason::ContentTooLarge, detail);
        }
        SourceError::Bad(_) => Reason::Malformed,
        SourceError::Failed(error) if error.kind() == ErrorKind::TimedOut => Reason::HandshakeTimeout,
        SourceError::Ended | SourceError::Failed(_) => Reason::ClientGone,
    };
    Refusal::new(reason, format!("the content of the request is incomplete: {source}"))
}

fn origin_write_refusal(error: &io::Error) -> Refusal {
    match error.kind() {
        ErrorKind::TimedOut => {
            Refusal::new(Reason::AnswerTimeout, "the origin stopped reading the request for --handshake-timeout")
        }
        _ => Refusal::new(Reason::BadAnswer, format!("cannot send the request to the origin: {error}")),
    }
}
