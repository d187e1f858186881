//! The gateway of the clients, its user, and the check that a client went through it.

use std::net::SocketAddr;
use std::process::Command;

use crate::support::process::{Outcome, run};
use crate::support::{Gateway, Setup};

pub(super) const NAME: &str = "mover";
pub(super) const PASSWORD: &str = "s3cret:with:@/%\u{fc}";
/// The password in its URL encoding.
const PASSWORD_IN_URL: &str = "s3cret%3Awith%3A%40%2F%25%C3%BC";

pub(super) fn gateway() -> Gateway {
    gateway_with(PASSWORD)
}

pub(super) fn gateway_with(password: &str) -> Gateway {
    Setup::new(&[]).user(&format!("{NAME}:{password}")).start()
}

/// The gateway as a proxy URL with credentials.
pub(super) fn url(gateway: &Gateway) -> String {
    format!("http://{NAME}:{PASSWORD_IN_URL}@{}", gateway.address)
}

/// A command without inherited proxy settings.
pub(super) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    for variable in
        ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"]
    {
        command.env_remove(variable);
    }
    command
}

/// Runs a program and asserts success.
pub(super) fn succeed(command: Command, input: &[u8]) -> Outcome {
    let what = format!("{command:?}");
    let outcome = run(command, input);
    assert_eq!(outcome.code, Some(0), "{what}: {}{}", outcome.out, outcome.err);
    outcome
}

/// Asserts that the gateway carried exactly one tunnel, of the test's user to this origin, with
/// bytes in both directions.
pub(super) fn went_through(gateway: &Gateway, origin: SocketAddr) {
    let line = gateway.log_line("tunnel closed", |line| line.message() == "tunnel closed");
    assert_eq!((line.text("user"), line.text("target")), (NAME, origin.to_string().as_str()), "{}", line.raw);
    assert!(line.number("to_origin") > 0 && line.number("to_client") > 0, "{}", line.raw);
    assert_eq!(gateway.log.count(|line| line.message() == "tunnel closed"), 1);
}
