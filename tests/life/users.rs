//! Changes of the users file in a running gateway, and passwords kept out of every output.

use std::fs;

use rustix::process::Signal;
use sluicegate::metrics::{AUTH_FAILURES, CONFIG_RELOAD_SUCCESSFUL, CONFIG_RELOAD_TIME};

use crate::support::client::{ask, basic, request, status};
use crate::support::process::{replace, sluicegate};
use crate::support::{Origin, Setup, admin, client, connect_as};

/// A line of a users file with a cheap hash: its cost is not tested here.
fn line(name: &str, password: &str) -> String {
    format!("{name}:{}\n", bcrypt::hash(password, 4).expect("a hash"))
}

#[test]
fn the_users_file_is_read_again_when_asked_and_when_it_changes() {
    let directory = tempfile::tempdir().unwrap();
    let users = directory.path().join("users");
    fs::write(&users, line("alice", "one")).unwrap();
    let gateway = Setup::new(&["--users-file", users.to_str().unwrap()]).start();
    let origin = Origin::echo();
    gateway.wait_for_metric(&CONFIG_RELOAD_SUCCESSFUL, &[], 1);
    let started = gateway.metric(&CONFIG_RELOAD_TIME, &[]);
    assert!(started > 1_700_000_000);
    let get = |user: &str| status(gateway.address, origin.address, user);
    assert_eq!([get("alice:one"), get("bob:two")], ["200", "407"]);
    let open = connect_as(gateway.address, origin.address, "alice:one");

    // Noticed without a signal.
    let mut position = gateway.log.position();
    let read = |position, users| {
        let read = gateway.log.line_from(position, "users reloaded", |line| line.message() == "users reloaded");
        assert_eq!(read.number("users"), users, "{}", read.raw);
    };
    replace(&users, &line("bob", "two"));
    read(position, 1);
    assert_eq!([get("alice:one"), get("bob:two")], ["407", "200"]);
    let said = gateway.log.line_from(position, "users reloaded", |line| line.message() == "users reloaded");
    assert_eq!(["added", "removed", "changed"].map(|field| said.text(field)), ["bob", "alice", ""], "{}", said.raw);

    // On SIGHUP, even without a change.
    position = gateway.log.position();
    gateway.signal(Signal::HUP);
    read(position, 1);

    // A file without users is refused and logged.
    position = gateway.log.position();
    replace(&users, "# being written\n");
    let kept = gateway.log.line_from(position, "kept", |line| line.message().starts_with("users not reloaded"));
    assert!(kept.level() == "ERROR" && kept.text("error").contains("contains no user"), "{}", kept.raw);
    assert_eq!([get("alice:one"), get("bob:two")], ["407", "200"]);
    gateway.wait_for_metric(&CONFIG_RELOAD_SUCCESSFUL, &[], 0);

    // A bad line is logged, its user is out, and the rest of the file applies.
    position = gateway.log.position();
    replace(&users, &format!("{}bob:{{SHA}}abc=\n", line("alice", "one")));
    read(position, 1);
    let bad = gateway.log.line_from(position, "bad", |line| line.message().starts_with("a line of the users file"));
    assert!(bad.level() == "ERROR" && bad.text("error").contains(":2: 'bob': {SHA} hashes"), "{}", bad.raw);
    assert_eq!([get("alice:one"), get("bob:two")], ["200", "407"]);
    gateway.wait_for_metric(&CONFIG_RELOAD_SUCCESSFUL, &[], 0);

    // Two passwords of a user during rotation.
    position = gateway.log.position();
    replace(&users, &format!("{}{}", line("alice", "three"), line("bob", "two")));
    read(position, 2);
    let said = gateway.log.line_from(position, "users reloaded", |line| line.message() == "users reloaded");
    assert_eq!(["added", "removed", "changed"].map(|field| said.text(field)), ["bob", "", "alice"], "{}", said.raw);
    gateway.wait_for_metric(&CONFIG_RELOAD_SUCCESSFUL, &[], 1);
    assert!(gateway.metric(&CONFIG_RELOAD_TIME, &[]) > started);
    assert_eq!([get("alice:one"), get("alice:three"), get("bob:two")], ["407", "200", "200"]);

    // Open tunnels stay open.
    client::echoes(&open, 100_000);
}

#[test]
fn a_bad_line_keeps_its_user_out_and_nobody_else_and_check_refuses_it() {
    let directory = tempfile::tempdir().unwrap();
    let users = directory.path().join("users");
    let path = users.to_str().unwrap();
    fs::write(&users, format!("{}bob:plain\n{}", line("alice", "one"), line("carol", "one"))).unwrap();
    let gateway = Setup::new(&["--users-file", path]).start();
    let bad = gateway.log_line("bad", |line| line.message().starts_with("a line of the users file"));
    assert!(
        bad.text("error").starts_with(&format!("{path}:2: 'bob': ")) && !bad.raw.contains("plain\""),
        "{}",
        bad.raw
    );
    let origin = Origin::echo();
    let get = |user: &str| status(gateway.address, origin.address, user);
    assert_eq!([get("alice:one"), get("bob:plain"), get("carol:one")], ["200", "407", "200"]);
    let outcome = sluicegate(&["check", "--users-file", path], &[]);
    assert!(outcome.code == Some(2) && outcome.out.is_empty(), "{outcome:?}");
    assert!(outcome.err.contains(&format!("{path}:2: 'bob': unknown kind of hash")), "{outcome:?}");

    // The gateway does not start without users, and logs every bad line.
    fs::write(&users, "bob:plain\n\neve:\n").unwrap();
    let refused = Setup::new(&["--users-file", path]).refused();
    assert_eq!(refused.code, Some(2));
    assert!([":1: 'bob'", ":3: 'eve'"].iter().all(|place| refused.err.contains(place)), "{}", refused.err);
}

#[test]
fn no_password_is_shown_anywhere() {
    const PASSWORD: &str = "s3cret:with:@/%\u{fc}";
    const WRONG: &str = "an0ther:w0rd";
    let gateway = Setup::new(&[]).user(&format!("mover:{PASSWORD}")).debug().start();
    let origin = Origin::echo();
    let right = format!("mover:{PASSWORD}");
    let wrong = format!("mover:{WRONG}");
    let open = connect_as(gateway.address, origin.address, &right);
    client::echoes(&open, 1_000);
    let mut answers = Vec::new();
    for bytes in [
        request(origin.address, Some(&wrong)),
        // A password in the wrong place, and one together with another mistake.
        format!("CONNECT {wrong}@{} HTTP/1.1\r\n\r\n", origin.address),
        request("192.0.2.1:443", Some(&right)),
        format!("GET http://{right}@host/ HTTP/1.1\r\nProxy-Authorization: {}\r\n\r\n", basic(&right)),
        format!("CONNECT {} HTTP/1.1\r\nProxy-Authorization: Bearer {WRONG}\r\n\r\n", origin.address),
        format!("CONNECT {} HTTP/1.1\r\nProxy-Authorization: {WRONG}\r\n\r\n", origin.address),
        format!("CONNECT {} HTTP/1.1\r\nProxy-Authorization: {}\r\nA b\r\n\r\n", origin.address, basic(&right)),
    ] {
        let (from, answer) = ask(gateway.address, bytes.as_bytes());
        gateway.refusal_line(from);
        answers.push(answer);
    }
    assert_eq!(gateway.metric(&AUTH_FAILURES, &[]), 3);
    let of_process = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", gateway.pid())).unwrap();
    let tunnels = gateway.tunnels();
    assert_eq!(tunnels.len(), 1);
    client::hang_up(&open);
    gateway.closing_line(open.local_addr().unwrap());
    let shown = [
        gateway.log.text(),
        answers.concat(),
        admin::get(gateway.admin, "/metrics").body,
        admin::get(gateway.admin, "/").body,
        serde_json::to_string(&tunnels).unwrap(),
        of_process("cmdline"),
    ];
    for text in &shown {
        assert!(!text.is_empty());
        for secret in [PASSWORD, WRONG, "s3cret", "an0ther", "w0rd", &basic(&right)[6..], &basic(&wrong)[6..]] {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }
}
