//! A log without a reader: it blocks nothing and ends nothing.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, Stdio};

use serde_json::Value;

use crate::support::binary::BINARY;
use crate::support::{client, in_clean_environment};

/// More refusals than a pipe has room for in log lines.
const REFUSALS: usize = 1_000;

struct Unread {
    child: Child,
    log: Option<BufReader<ChildStderr>>,
    address: SocketAddr,
}

impl Unread {
    fn start() -> Self {
        let mut command = Command::new(BINARY);
        command.args(["serve", "--no-auth", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "json"]);
        let mut child = in_clean_environment(&mut command).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        let address = line["listen"].as_str().unwrap().parse().unwrap();
        Self { child, log: Some(log), address }
    }

    fn answers(&self) {
        for _ in 0..REFUSALS {
            let (_, answer) = client::ask(self.address, b"garbage\r\n\r\n");
            assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_log_that_is_not_read_holds_nobody_up() {
    let gateway = Unread::start();
    gateway.answers();
    assert!(gateway.log.is_some(), "the pipe is open, and full");
}

/// Programs parse these lines: one flat object, fields in this order, numbers as numbers.
#[test]
fn a_line_is_one_flat_object_with_its_fields_in_order() {
    let mut gateway = Unread::start();
    client::ask(gateway.address, b"GET / HTTP/1.1\r\n\r\n");
    let lines = gateway.log.as_mut().unwrap().lines();
    let line = lines.map(Result::unwrap).find(|line| line.contains("\"refused\"")).unwrap();
    let names: Vec<&str> = line.split("\",\"").flat_map(|part| part.split(",\"")).collect();
    let names: Vec<&str> = names.iter().map(|part| part.trim_start_matches("{\"").split('"').next().unwrap()).collect();
    let expected = ["timestamp", "level", "message", "id", "client", "code", "reason", "detail", "duration_s"];
    assert_eq!(names, expected, "{line}");
    let line: Value = serde_json::from_str(&line).unwrap();
    assert!(line.as_object().unwrap().values().all(|value| !value.is_object()), "{line}");
    assert!(line["id"] == 1 && line["code"] == 405 && line["duration_s"].as_f64().unwrap() > 0.0, "{line}");
}

#[test]
fn a_log_that_is_closed_ends_nothing() {
    let mut gateway = Unread::start();
    gateway.log = None;
    gateway.answers();
    assert!(gateway.child.try_wait().unwrap().is_none());
}
