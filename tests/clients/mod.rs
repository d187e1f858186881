//! Real programs that go through the gateway, each with a user and a password, to an origin that the
//! test can tell apart from any other. Programs that are not installed are skipped with a word, or with
//! `SLUICEGATE_TEST_FULL=1` are a failure.
//!
//! | file | what is in it |
//! |---|---|
//! | `http` | what fetches a document: curl, wget, python, node |
//! | `stream` | what carries any bytes: ncat, socat, openssl |
//! | `readme` | the quick start of README.md |
//! | `rsync` | rsync and its own daemon |
//! | `kubernetes` | kubectl and WebSocket, which have a server switch protocols |
//! | `tls` | an origin that speaks TLS, by openssl |

use std::net::SocketAddr;
use std::process::Command;

use crate::support::process::{Outcome, run};
use crate::support::{Gateway, Setup};

mod http;
mod kubernetes;
mod readme;
mod rsync;
mod stream;
mod tls;

const NAME: &str = "mover";
const PASSWORD: &str = "s3cret:with:@/%\u{fc}";
/// The password as it stands in a URL.
const PASSWORD_IN_URL: &str = "s3cret%3Awith%3A%40%2F%25%C3%BC";

fn gateway() -> Gateway {
    gateway_with(PASSWORD)
}

fn gateway_with(password: &str) -> Gateway {
    Setup::new(&[]).user(&format!("{NAME}:{password}")).start()
}

/// The gateway as a proxy URL with credentials.
fn url(gateway: &Gateway) -> String {
    format!("http://{NAME}:{PASSWORD_IN_URL}@{}", gateway.address)
}

/// A program that knows of no other proxy than the one that it is told.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    for variable in
        ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"]
    {
        command.env_remove(variable);
    }
    command
}

/// Runs a program that has to succeed.
fn succeed(command: Command, input: &[u8]) -> Outcome {
    let what = format!("{command:?}");
    let outcome = run(command, input);
    assert_eq!(outcome.code, Some(0), "{what}: {}{}", outcome.out, outcome.err);
    outcome
}

/// The gateway carried exactly one tunnel, of our user to this origin, and bytes in both directions.
fn went_through(gateway: &Gateway, origin: SocketAddr) {
    let line = gateway.log_line("tunnel closed", |line| line.message() == "tunnel closed");
    assert_eq!((line.text("user"), line.text("target")), (NAME, origin.to_string().as_str()), "{}", line.raw);
    assert!(line.number("to_origin") > 0 && line.number("to_client") > 0, "{}", line.raw);
    assert_eq!(gateway.log.count(|line| line.message() == "tunnel closed"), 1);
}
