//! Permissions of each user: source addresses, targets, expiry and limits, and their changes in a
//! running gateway.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use sluicegate::metrics::{CONNECT_REQUESTS, TUNNELS};
use socket2::{Domain, Socket, Type};

use crate::support::client::{request, status};
use crate::support::noise::End;
use crate::support::origin::patient;
use crate::support::process::{replace, sluicegate};
use crate::support::tls::Certificate;
use crate::support::{Gateway, Origin, Setup, client, connect_as, eventually};

/// A hash of low cost, for speed: the cost is not tested here.
fn hash(password: &str) -> String {
    bcrypt::hash(password, 4).expect("a hash")
}

/// A configuration file: its users may all go to loopback.
struct Configured {
    _directory: tempfile::TempDir,
    file: PathBuf,
}

impl Configured {
    fn new(users: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("sluicegate.toml");
        fs::write(&file, text(users)).expect("a file");
        Self { _directory: directory, file }
    }

    fn path(&self) -> &str {
        self.file.to_str().expect("a plain path")
    }

    fn start(&self) -> Gateway {
        Setup::bare(&["--config", self.path()]).debug().start()
    }

    /// Replaces the file and waits until it applies.
    fn becomes(&self, gateway: &Gateway, users: &str) {
        let position = gateway.log.position();
        replace(&self.file, &text(users));
        gateway.log.line_from(position, "users reloaded", |line| line.message() == "users reloaded");
    }
}

fn text(users: &str) -> String {
    format!("allow = ['127.0.0.0/8:*', 'localhost:*', '*.invalid:*']\n{users}")
}

/// Status line for a client at this address.
fn answer(gateway: &Gateway, from: &str, user: &str, target: &str) -> String {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(from.parse().expect("an address"), 0).into()).expect("an address of loopback");
    socket.connect(&gateway.address.into()).expect("the gateway accepts");
    let mut stream = TcpStream::from(socket);
    patient(&stream);
    stream.write_all(request(target, Some(user)).as_bytes()).expect("it reads");
    let head = client::read_head(&stream);
    head.lines().next().unwrap_or_default().trim_start_matches("HTTP/1.1 ").to_owned()
}

#[test]
fn user_by_source_by_target() {
    let (one, two) = (Origin::echo(), Origin::echo());
    let [one_port, two_port] = [one.address, two.address].map(|address| address.port());
    let configured = Configured::new(&format!(
        "[users.ann]\npasswords = '{pw}'\nallow = '127.0.0.1:{one_port}'\nfrom = ['127.0.1.0/24', '127.0.2.7']\n\
         [users.bob]\npasswords = '{pw}'\nallow = ['localhost:{two_port}', '127.0.0.2/32:*']\n\
         [users.eve]\npasswords = '{pw}'\nfrom = '127.0.1.1'\n",
        pw = hash("pw")
    ));
    let gateway = configured.start();
    let target = |host: &str, port| format!("{host}:{port}");
    let (first, second, by_name) =
        (target("127.0.0.1", one_port), target("127.0.0.1", two_port), target("localhost", two_port));
    let established = "200 Connection established".to_owned();
    let no_source = |user: &str, from: &str| format!("403 Forbidden: user {user} may not connect from {from}");
    let no_target = |user: &str, target: &str| format!("403 Forbidden: no rule of user {user} matches {target}");
    let outside = "192.0.2.1:443".to_owned();
    for (user, from, target, expected) in [
        ("ann", "127.0.1.1", &first, established.clone()),
        ("ann", "127.0.2.7", &first, established.clone()),
        ("ann", "127.0.2.8", &first, no_source("ann", "127.0.2.8")),
        ("ann", "127.0.1.1", &second, no_target("ann", &second)),
        ("ann", "127.0.0.1", &second, no_source("ann", "127.0.0.1")),
        ("bob", "127.0.0.1", &by_name, established.clone()),
        ("bob", "127.9.9.9", &by_name, established.clone()),
        ("bob", "127.0.0.1", &second, no_target("bob", &second)),
        ("bob", "127.0.0.1", &first, no_target("bob", &first)),
        ("eve", "127.0.1.1", &first, established.clone()),
        ("eve", "127.0.1.1", &second, established.clone()),
        ("eve", "127.0.1.2", &first, no_source("eve", "127.0.1.2")),
        // No user may exceed the gateway's own rules.
        ("eve", "127.0.1.1", &outside, format!("403 Forbidden: no --allow rule matches {outside}")),
        ("ann", "127.0.1.1", &outside, format!("403 Forbidden: no --allow rule matches {outside}")),
    ] {
        assert_eq!(answer(&gateway, from, &format!("{user}:pw"), target), expected, "{user} {from} {target}");
        // `explain` predicts the answer.
        let arguments = ["explain", "--config", configured.path(), "--user", user, "--from", from, target.as_str()];
        let outcome = sluicegate(&arguments, &[]);
        match expected.strip_prefix("403 Forbidden: ") {
            None => assert!(outcome.code == Some(0) && outcome.out.contains("permitted"), "{arguments:?}: {outcome:?}"),
            Some(cause) => {
                let said = outcome.out.clone() + &outcome.err;
                assert!(outcome.code == Some(1) && said.contains(cause), "{arguments:?}: {outcome:?}");
            }
        }
    }
    // A wrong password gives no hint about the answer to a right one.
    assert!(answer(&gateway, "127.0.0.1", "ann:no", &first).starts_with("407 "), "a wrong password");
}

#[test]
fn explain_says_all_that_a_user_may() {
    let configured = Configured::new(
        "[users.ann]\nallow = '127.0.0.1:443'\nfrom = '10.0.0.0/8'\nexpires = 2999-01-01T00:00:00Z\non-expiry = 'end'\n\
         max-tunnels = 3\nrate = '1Gbit'\n[users.old]\nexpires = 2001-01-01T00:00:00Z\n",
    );
    let explain = |user: &str, more: &[&str]| {
        let arguments = [&["explain", "--config", configured.path(), "--user", user][..], more].concat();
        let outcome = sluicegate(&arguments, &[]);
        (outcome.code, outcome.out + &outcome.err)
    };
    let (code, said) = explain("ann", &["127.0.0.1:443"]);
    assert_eq!(code, Some(0), "{said}");
    for words in [
        "limits of ann: from 10.0.0.0/8; until 2999-01-01T00:00:00Z, when open tunnels end; at most 3 open tunnels; \
         1Gbit/s in all",
        "permitted by --allow 127.0.0.0/8:* and 127.0.0.1:443 of user ann",
        "would connect to 127.0.0.1:443",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let (code, said) = explain("old", &["127.0.0.1:443"]);
    assert!(code == Some(1) && said.contains("refused: user old has expired at 2001-01-01T00:00:00Z"), "{said}");
    let (code, said) = explain("who", &["127.0.0.1:443"]);
    assert!(code == Some(0) && said.contains("who has no section in [users]"), "{said}");
}

#[test]
fn passwords_are_rotated_and_terms_changed_while_tunnels_live() {
    let (origin, other) = (Origin::echo(), Origin::echo());
    let user = |passwords: &[&str], more: &str| {
        let passwords: Vec<_> = passwords.iter().map(|password| format!("'{}'", hash(password))).collect();
        format!("[users.ann]\npasswords = [{}]\n{more}\n", passwords.join(", "))
    };
    let configured = Configured::new(&user(&["old"], ""));
    let gateway = configured.start();
    let get = |password: &str| status(gateway.address, origin.address, &format!("ann:{password}"));
    assert_eq!([get("old"), get("new")], ["200", "407"]);
    let open = connect_as(gateway.address, origin.address, "ann:old");
    configured.becomes(&gateway, &user(&["old", "new"], ""));
    assert_eq!([get("old"), get("new"), get("older"), get("old")], ["200", "200", "407", "200"]);
    configured.becomes(&gateway, &user(&["new"], &format!("allow = '{}'", origin.address)));
    assert_eq!([get("old"), get("new")], ["407", "200"]);
    assert_eq!(status(gateway.address, other.address, "ann:new"), "403");
    client::echoes(&open, 100_000);

    // A file rejected by `check` changes nothing, and the log repeats the message of `check`.
    for (broken, said) in [
        (user(&["new"], "max_tunnels = 1"), ":4: unknown setting 'max_tunnels' of a user"),
        (format!("max-tunnels = 0\n{}", user(&["worse"], "")), ":2: --max-tunnels 0: 0 would refuse every client"),
        ("users-file = '/nowhere'\n".to_owned(), "/nowhere: cannot be read"),
        (String::new(), "no users are configured"),
    ] {
        let position = gateway.log.position();
        replace(&configured.file, &text(&broken));
        let kept = gateway.log.line_from(position, "kept", |line| line.message().starts_with("users not reloaded"));
        assert!(kept.level() == "ERROR" && kept.text("error").contains(said), "{broken}: {}", kept.raw);
        let outcome = sluicegate(&["check", "--config", configured.path()], &[]);
        assert!(outcome.code == Some(2) && outcome.err.contains(said), "{outcome:?}");
        assert_eq!([get("new"), get("worse")], ["200", "407"], "{broken}");
    }

    // Settings in need of a restart are named.
    let position = gateway.log.position();
    replace(&configured.file, &format!("max-tunnels = 5\n{}", text(&user(&["last"], ""))));
    gateway.signal(Signal::HUP);
    let said = |line: &crate::support::log::Line| line.message().contains("after a restart");
    assert_eq!(gateway.log.line_from(position, "what else changed", said).text("settings"), "max-tunnels");
    eventually("the last password", || get("last") == "200");
    client::echoes(&open, 100_000);
}

/// A removed user is out as soon as possible, whatever error delayed the reload.
#[test]
fn what_was_refused_for_another_files_sake_is_read_when_that_is_right() {
    let Some(certificate) = Certificate::make() else { return };
    let Some(other) = Certificate::make() else { return };
    let user = |name: &str| format!("[users.{name}]\npasswords = '{}'\n", hash("pw"));
    let configured = Configured::new(&format!("{}{}", user("ann"), user("bob")));
    let gateway = certificate.shown_by(Setup::bare(&["--config", configured.path()])).debug().start();
    let origin = Origin::echo();
    let get = |user: &str| status(gateway.address, origin.address, user);
    assert_eq!([get("ann:pw"), get("bob:pw")], ["200", "200"]);
    let position = gateway.log.position();
    let key = fs::read(certificate.key()).unwrap();
    fs::copy(other.key(), certificate.key()).unwrap();
    replace(&configured.file, &text(&user("ann")));
    let kept = gateway.log.line_from(position, "kept", |line| line.message().starts_with("users not reloaded"));
    assert!(kept.text("error").contains("--tls-key "), "{}", kept.raw);
    assert_eq!([get("ann:pw"), get("bob:pw")], ["200", "200"]);
    fs::write(certificate.key(), key).unwrap();
    gateway.log.line_from(position, "users reloaded", |line| line.message() == "users reloaded");
    assert_eq!([get("ann:pw"), get("bob:pw")], ["200", "407"]);
    // A persistent error is logged once.
    assert_eq!(gateway.log.count(|line| line.message().starts_with("users not reloaded")), 1);
}

#[test]
fn a_user_has_his_own_limit_and_others_theirs() {
    let origin = Origin::echo();
    let pw = hash("pw");
    let configured = Configured::new(&format!(
        "max-tunnels-per-user = 2\n[users.ann]\npasswords = '{pw}'\nmax-tunnels = 1\n[users.bob]\npasswords = '{pw}'\n\
         max-tunnels = 3\n[users.eve]\npasswords = '{pw}'\n"
    ));
    let gateway = configured.start();
    let target = origin.address.to_string();
    for (user, most, limit) in [
        ("ann", 1, "max-tunnels 1 of user ann"),
        ("bob", 3, "max-tunnels 3 of user bob"),
        ("eve", 2, "--max-tunnels-per-user 2"),
    ] {
        let credentials = format!("{user}:pw");
        let open: Vec<_> = (0..most).map(|_| connect_as(gateway.address, &target, &credentials)).collect();
        let refused = answer(&gateway, "127.0.0.1", &credentials, &target);
        assert_eq!(refused, format!("503 Service Unavailable: {limit} reached"));
        open.iter().for_each(client::hang_up);
    }
    assert_eq!(gateway.metric(&CONNECT_REQUESTS, &["503", "user_limit"]), 3);
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[test]
fn when_a_users_time_is_over_his_tunnels_end_or_stay() {
    let origin = Origin::echo();
    let users = |expires: SystemTime| {
        let (pw, expires) = (hash("pw"), rfc3339(expires));
        format!(
            "[users.ends]\npasswords = '{pw}'\nexpires = {expires}\non-expiry = 'end'\n\
             [users.stays]\npasswords = '{pw}'\nexpires = '{expires}'\n[users.free]\npasswords = '{pw}'\n"
        )
    };
    let now = SystemTime::now();
    let configured = Configured::new(&users(now + Duration::from_secs(3_600)));
    let gateway = configured.start();
    let names = ["ends:pw", "stays:pw", "free:pw"];
    let open = names.map(|user| connect_as(gateway.address, origin.address, user));
    eventually("all are listed", || gateway.tunnels().len() == 3);
    configured.becomes(&gateway, &users(now - Duration::from_secs(1)));
    assert_eq!(client::end_of(&open[0]), End::Reset);
    let line = gateway.closing_line(open[0].local_addr().unwrap());
    assert_eq!((line.text("outcome"), line.text("by"), line.text("user")), ("expired", "operator", "ends"));
    open[1..].iter().for_each(|open| client::echoes(open, 100_000));
    let statuses = names.map(|user| status(gateway.address, origin.address, user));
    assert_eq!(statuses, ["403", "403", "200"]);
    eventually("counted", || gateway.metric(&TUNNELS, &["", "expired"]) == 1);
    assert_eq!(gateway.metric(&CONNECT_REQUESTS, &["403", "user_expired"]), 2);
    // An extended expiry admits the user again.
    configured.becomes(&gateway, &users(now + Duration::from_secs(3_600)));
    client::echoes(&connect_as(gateway.address, origin.address, "ends:pw"), 100_000);
}

#[test]
fn a_users_rate_is_changed_by_the_file() {
    let origin = Origin::echo();
    let users =
        |rate: &str| format!("rate-per-user = '9MiB'\n[users.ann]\npasswords = '{}'\nrate = {rate}\n", hash("pw"));
    let configured = Configured::new(&users("'4MiB'"));
    let gateway = configured.start();
    let _open = [0, 1].map(|_| connect_as(gateway.address, origin.address, "ann:pw"));
    let rate = |expected: Option<u64>| {
        eventually(&format!("{expected:?} each"), || {
            let tunnels = gateway.tunnels();
            tunnels.len() == 2
                && tunnels.iter().all(|tunnel| tunnel.get("rate").and_then(|rate| rate.as_u64()) == expected)
        });
    };
    rate(Some(2 << 20));
    configured.becomes(&gateway, &users("8388608"));
    rate(Some(4 << 20));
    configured.becomes(&gateway, &users("'none'"));
    rate(None);
}

#[test]
fn terms_and_the_users_file_go_together() {
    let origin = Origin::echo();
    let directory = tempfile::tempdir().expect("a directory");
    let htpasswd = directory.path().join("users");
    fs::write(&htpasswd, format!("ann:{pw}\nbob:{pw}\n", pw = hash("pw"))).expect("a file");
    let section = |path: &Path, ann: &str| {
        format!(
            "users-file = '{}'\n[users.ann]\nallow = '127.0.0.1:1'\n{ann}[users.nobody]\nrate = '1MiB'\n",
            path.display()
        )
    };
    let configured = Configured::new(&section(&htpasswd, ""));
    let gateway = configured.start();
    let get = |user: &str| status(gateway.address, origin.address, user);
    assert_eq!([get("ann:pw"), get("bob:pw"), get("nobody:pw")], ["403", "200", "407"]);
    let checked = sluicegate(&["check", "--config", configured.path()], &[]);
    assert!(checked.code == Some(0) && checked.out.contains("2 users"), "{checked:?}");
    assert!(checked.err.contains(":5: warning: user 'nobody' has no password"), "{checked:?}");
    // Removal from the users file overrides the user's policy.
    let position = gateway.log.position();
    replace(&htpasswd, &format!("bob:{}\n", hash("pw")));
    gateway.log.line_from(position, "users reloaded", |line| line.message() == "users reloaded");
    assert_eq!([get("ann:pw"), get("bob:pw")], ["407", "200"]);
    // The path of another users file takes effect after a restart, and the log says so.
    let position = gateway.log.position();
    let other = directory.path().join("other");
    fs::write(&other, format!("eve:{}\n", hash("pw"))).expect("a file");
    replace(&configured.file, &text(&section(&other, "")));
    let said = |line: &crate::support::log::Line| line.message().contains("after a restart");
    assert_eq!(gateway.log.line_from(position, "what else changed", said).text("settings"), "users-file");
    // A user's passwords must be in one place.
    let twice = Configured::new(&section(&htpasswd, &format!("[users.bob]\npasswords = '{}'\n", hash("pw"))));
    let refused = sluicegate(&["check", "--config", twice.path()], &[]);
    assert!(refused.code == Some(2) && refused.err.contains("'bob' is also defined with passwords at"), "{refused:?}");
    let open = Configured::new("[users.ann]\nrate = '1MiB'\n");
    let refused = sluicegate(&["check", "--no-auth", "--config", open.path()], &[]);
    assert!(
        refused.code == Some(2) && refused.err.contains("--no-auth accepts every client, but [users]"),
        "{refused:?}"
    );
}
