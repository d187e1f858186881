//! The admin address, asked by hand, so that no library hides what it answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use sluicegate::metrics::Metric;

use super::DEADLINE;

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// GET, at an address that has to answer.
pub(crate) fn get(admin: SocketAddr, path: &str) -> Answer {
    ask(admin, "GET", path, "")
}

/// PATCH with this body, likewise.
pub(crate) fn patch(admin: SocketAddr, path: &str, body: &str) -> Answer {
    ask(admin, "PATCH", path, body)
}

/// DELETE, likewise.
pub(crate) fn delete(admin: SocketAddr, path: &str) -> Answer {
    ask(admin, "DELETE", path, "")
}

fn ask(admin: SocketAddr, method: &str, path: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(admin).expect("the admin address accepts");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {admin}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {path}: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, body: body.to_owned() }
}

/// The sum of the series of a metric with these label values; an empty value stands for any.
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

/// The exporter writes counters as whole numbers, and gauges as floats of which ours are whole.
fn whole(value: &str) -> u64 {
    let (digits, rest) = value.split_once('.').unwrap_or((value, "0"));
    assert!(rest.bytes().all(|digit| digit == b'0'), "{value} is not whole");
    digits.parse().unwrap_or_else(|_| panic!("{value} is no count"))
}
