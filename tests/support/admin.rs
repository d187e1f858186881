//! Raw requests to the admin address and the control socket, without an HTTP library to hide the
//! bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use sluicegate::metrics::Metric;

use super::deadline::DEADLINE;

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Sends a GET to an address expected to answer.
pub(crate) fn get(admin: SocketAddr, path: &str) -> Answer {
    let stream = TcpStream::connect(admin).expect("the admin address accepts");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    ask(stream, "GET", path, "")
}

/// Sends a request over the control socket.
pub(crate) fn control(socket: &Path, method: &str, path: &str, body: &str) -> Answer {
    let stream = UnixStream::connect(socket).expect("the control socket accepts");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    ask(stream, method, path, body)
}

/// Sends a PATCH with this body over the control socket.
pub(crate) fn patch(socket: &Path, path: &str, body: &str) -> Answer {
    control(socket, "PATCH", path, body)
}

/// Sends a DELETE over the control socket.
pub(crate) fn delete(socket: &Path, path: &str) -> Answer {
    control(socket, "DELETE", path, "")
}

/// Sends a request and reads the answer to its end.
pub(crate) fn ask(mut stream: impl Read + Write, method: &str, path: &str, body: &str) -> Answer {
    let length = body.len();
    // A body over the limit may be answered before it is sent completely.
    let _ = write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) =
        answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {path}: {answer:?}, {ended:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, body: body.to_owned() }
}

/// Sums the series of a metric with these label values; an empty value matches any.
pub(crate) fn metric(text: &str, metric: &Metric, values: &[&str]) -> u64 {
    assert_eq!(metric.labels.len(), values.len(), "the labels of {}", metric.name);
    let wanted: Vec<_> = std::iter::zip(metric.labels, values)
        .filter(|(_, value)| !value.is_empty())
        .map(|(label, value)| format!("{label}=\"{value}\""))
        .collect();
    let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels: Vec<_> = labels.trim_end_matches('}').split(',').collect();
        (name == metric.name && wanted.iter().all(|label| labels.contains(&label.as_str()))).then(|| whole(value))
    });
    samples.sum()
}

/// Parses a value: the exporter writes counters as integers and gauges as floats, ours with zero
/// decimals.
fn whole(value: &str) -> u64 {
    let (digits, rest) = value.split_once('.').unwrap_or((value, "0"));
    assert!(rest.bytes().all(|digit| digit == b'0'), "{value} is not whole");
    digits.parse().unwrap_or_else(|_| panic!("{value} is no count"))
}
