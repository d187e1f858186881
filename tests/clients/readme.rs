//! The quick start of README.md as printed, except for ports and the origin: the test has no
//! Internet access.

use std::process::Command;

use super::tls::{DOCUMENT, TlsOrigin};
use crate::support::process::{program, run};
use crate::support::{Setup, in_clean_environment};

const README: &str = include_str!("../../README.md");

/// The first fenced block of this language after the heading.
fn block<'a>(heading: &str, language: &str) -> &'a str {
    let (_, section) = README.split_once(&format!("\n## {heading}\n")).expect("the heading");
    let (_, block) = section.split_once(&format!("\n```{language}\n")).expect("a block");
    block.split_once("\n```").expect("the end of the block").0
}

/// Field names of a log line in the text format.
fn fields(line: &str) -> Vec<&str> {
    line.split_whitespace().filter_map(|word| Some(word.split_once('=')?.0)).collect()
}

#[test]
fn the_quick_start_works_as_printed() {
    let (Some(_), Some(origin)) = (program("curl", "curl"), TlsOrigin::start()) else { return };
    let lines: Vec<_> = block("Quick start", "sh").lines().collect();
    let [build, user, serve, curl] = lines[..] else { panic!("four commands are known here: {lines:?}") };
    assert_eq!(build, "cargo build --release");
    assert_eq!(serve, "target/release/sluicegate serve --listen 127.0.0.1:3128 & sleep 1");
    let user = user.strip_prefix("export SLUICEGATE_USER='").and_then(|user| user.strip_suffix('\'')).expect("a user");
    let gateway = Setup::new(&[]).user(user).start();

    assert!(curl.contains("127.0.0.1:3128") && curl.ends_with(" https://example.com/"), "{curl}");
    let curl = curl.replace("127.0.0.1:3128", &gateway.address.to_string());
    let mut shell = Command::new("sh");
    shell.args(["-c", &curl.replace("https://example.com/", &origin.url())]);
    in_clean_environment(&mut shell).env("CURL_CA_BUNDLE", origin.certificate());
    shell.env_remove("NO_PROXY").env_remove("no_proxy");
    let outcome = run(shell, b"");
    assert_eq!((outcome.code, outcome.out.as_str()), (Some(0), DOCUMENT), "{outcome:?}");

    let closed = gateway.log_line("tunnel closed", |line| line.message() == "tunnel closed");
    assert_eq!((closed.text("user"), closed.number("id")), ("migrator", 1), "{}", closed.raw);
    let printed = block("Quick start", "text");
    assert!(printed.contains("INFO tunnel closed id=1"), "{printed}");
    let places: Vec<_> = fields(printed).iter().map(|name| closed.raw.find(&format!("\"{name}\":"))).collect();
    assert!(places.len() == 12 && places.iter().all(Option::is_some) && places.is_sorted(), "{}", closed.raw);
}
