//! `check`: every error in one run, warnings, and JSON output.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::process::{Outcome, sluicegate};
use crate::support::tls::testdata;

const HASH: &str = "$2y$04$s3nEBtS7Qzw9ctn.NRIzs.IQt8.B7mCW1RaVx4LMDuSuTuhtnSTGa";

/// A directory with files of a configuration.
struct Files(TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(name, text)| directory.put(name, text, 0o640));
        directory
    }

    fn put(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// Output of `check`, with the directory's path replaced by DIR.
    fn check(&self, arguments: &[&str]) -> Outcome {
        let outcome = sluicegate(&[&["check"], arguments].concat(), &[]);
        let plain = |text: &str| text.replace(self.0.path().to_str().unwrap(), "DIR");
        Outcome { code: outcome.code, out: plain(&outcome.out), err: plain(&outcome.err) }
    }
}

/// The array of `check --json`.
fn findings(outcome: &Outcome) -> Vec<Value> {
    serde_json::from_str(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

#[test]
fn a_users_file_and_sections_of_users_stand_in_one_file() {
    let files = Files::new(&[("users", &format!("ann:{HASH}\n"))]);
    let text =
        format!("users-file = '{}'\nlisten = '127.0.0.1:0'\n[users.bob]\npasswords = '{HASH}'\n", files.path("users"));
    files.put("gateway.toml", &text, 0o640);
    let outcome = files.check(&["--config", &files.path("gateway.toml")]);
    assert!(outcome.code == Some(0) && outcome.out.contains(": 2 users,"), "{outcome:?}");
    files.put("gateway.toml", &text.replace("users-file", "users"), 0o640);
    let outcome = files.check(&["--config", &files.path("gateway.toml")]);
    assert!(outcome.code == Some(2) && outcome.err.contains("DIR/gateway.toml:1: --users "), "{outcome:?}");
    assert!(outcome.err.contains("the option is called users-file now; write --users-file FILE"), "{outcome:?}");
    for (arguments, variables) in
        [(&["check", "--users", "x"][..], &[][..]), (&["check"], &[("SLUICEGATE_USERS", "x")])]
    {
        let outcome = sluicegate(arguments, variables);
        let said = "the option is called users-file now; write --users-file FILE, SLUICEGATE_USERS_FILE=FILE or";
        assert!(outcome.code == Some(2) && outcome.err.contains(said), "{outcome:?}");
    }
}

#[test]
fn every_error_is_told_in_one_run_with_its_place() {
    let files = Files::new(&[]);
    let text = format!(
        "listen = ['3128', '127.0.0.1:81']\nadmin = '127.0.0.1:81'\nmax_tunnels = 7\nrate = 'fast'\n\
         congestion-control = 'warp'\nparent = ['ftp://a:1', 'direct', 'b']\nlisten-tls = '127.0.0.1:82'\n\
         tls-cert = '/nowhere'\ntls-key = '/nowhere'\nusers-file = '/nowhere'\n\
         [users.ann]\npasswords = '{HASH}'\nrate = 1\nallow = 'x'\n"
    );
    files.put("gateway.toml", &text, 0o640);
    let arguments = ["--config", &files.path("gateway.toml"), "--spin", "1s", "--source", "192.0.2.1"];
    let outcome = files.check(&arguments);
    assert_eq!((outcome.code, outcome.out.as_str()), (Some(2), ""), "{outcome:?}");
    let lines: Vec<_> = outcome.err.lines().collect();
    for said in [
        "sluicegate: --spin 1s: longer than 1ms; write 1ms or less",
        "sluicegate: --source 192.0.2.1: this host has no such address; see `ip address`",
        "sluicegate: DIR/gateway.toml:1: --listen 3128: no address; write 0.0.0.0:3128 for all addresses of this \
         host, or 127.0.0.1:3128 for this host alone",
        "sluicegate: DIR/gateway.toml:3: unknown option 'max_tunnels'; did you mean 'max-tunnels'?",
        "sluicegate: DIR/gateway.toml:4: --rate fast: not a rate; write it as 100MiB, 1Gbit or 12500000 (bytes), per second",
        "sluicegate: DIR/gateway.toml:13: 'users.ann.rate': a rate is at least 1KiB a second; leave it out for no limit",
        "sluicegate: DIR/gateway.toml:14: 'users.ann.allow': `x` names no ports; write HOST:PORTS, as `x:443` or `x:*`",
    ] {
        assert!(lines.contains(&said), "{said}\n{}", outcome.err);
    }
    for said in [
        "DIR/gateway.toml:5: --congestion-control: ",
        "DIR/gateway.toml:6: --parent, number 1: ",
        "DIR/gateway.toml:6: --parent, number 3: ",
        "DIR/gateway.toml:8: --tls-cert /nowhere: cannot be read",
        "DIR/gateway.toml:9: --tls-key /nowhere: cannot be read",
        "/nowhere: cannot be read",
    ] {
        assert!(outcome.err.contains(said), "{said}\n{}", outcome.err);
    }
    assert_eq!(outcome.err.matches("congestion-control").count(), 1, "each is told once: {}", outcome.err);
    // The JSON output lists the findings too.
    let outcome = files.check(&[&arguments[..], &["--json"]].concat());
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(2), ""), "{outcome:?}");
    let mut all = findings(&outcome);
    all.retain(|finding| finding["option"] != "run-as");
    assert!(all.len() >= 12 && all.iter().all(|finding| finding["severity"] == "error"), "{all:?}");
    let rate = all.iter().find(|finding| finding["option"] == "rate").unwrap();
    assert_eq!((&rate["file"], &rate["line"]), (&"DIR/gateway.toml".into(), &4.into()));
    assert_eq!(rate["message"], "--rate fast: not a rate");
    assert!(rate["remedy"].as_str().unwrap().starts_with("write it as 100MiB"));
    // `serve` prints the same errors.
    let serve = sluicegate(&[&["serve"], &arguments[..]].concat(), &[]);
    let check = sluicegate(&[&["check"], &arguments[..]].concat(), &[]);
    let errors: Vec<_> = check.err.lines().filter(|line| !line.contains("warning: ")).collect();
    assert_eq!((serve.code, serve.err.lines().collect::<Vec<_>>()), (check.code, errors));
}

/// Lists of other options have semicolons; the value of `--user` is one user.
#[test]
fn a_value_that_looks_like_a_list_of_users_is_a_warning() {
    let check = |user: &str| sluicegate(&["check", "--listen", "127.0.0.1:0", "--user", user], &[]).err;
    let said = "the password of user 'ann' holds ';bob:', and --user and SLUICEGATE_USER take one user";
    assert!(check("ann:a;bob:b").contains(said) && !check("ann:a;b").contains("the password of user"));
}

#[test]
fn an_error_hides_no_other() {
    let files = Files::new(&[("users", "ann:plain\nbob\n")]);
    let users = files.path("users");
    let variables = [("SLUICEGATE_ALLOW", "x;a:1;y"), ("SLUICEGATE_SOURCE", "203.0.113.7;203.0.113.8")];
    for (arguments, said) in [
        (&["--rate", "x"][..], &["no users are configured", "--rate x: "][..]),
        (
            &["--rate", "x", "--user", "a:b", "--tls-cert", "c"],
            &["--tls-cert and --tls-key need --listen-tls", "--rate x: "],
        ),
        (
            &["--rate", "x", "--no-auth", "--listen-tls", "127.0.0.1:1"],
            &["--listen-tls has no certificate", "--rate x: "],
        ),
        (
            &["--no-auth", "--users-file", &users],
            &["--no-auth accepts every client, but", "DIR/users:1: ", "DIR/users:2: "],
        ),
        (&["--rate", "x", "--users-file", &users], &["--rate x: ", "DIR/users:1: ", "DIR/users:2: "]),
        (
            &["--no-auth"],
            &[
                "SLUICEGATE_ALLOW=x: ",
                "SLUICEGATE_ALLOW=y: ",
                "SLUICEGATE_SOURCE 203.0.113.7: ",
                "SLUICEGATE_SOURCE 203.0.113.8: ",
            ],
        ),
        (&["--no-auth", "--congestion-control", "warp;weft"], &["warp", "weft"]),
    ] {
        let outcome = sluicegate(&[&["check"], arguments].concat(), &variables);
        let text = outcome.err.replace(files.0.path().to_str().unwrap(), "DIR");
        for said in said {
            assert!(outcome.code == Some(2) && text.contains(said), "{said}: {text}");
        }
    }
    // The absence of an option that was refused is no further error.
    let outcome = files.check(&["--listen-tls", "x", "--tls-cert", "c", "--tls-key", "k", "--no-auth"]);
    assert!(!outcome.err.contains("--tls-cert and --tls-key need"), "{outcome:?}");
    let outcome = files.check(&["--no-auth-from", "x"]);
    assert!(!outcome.err.contains("no users are configured"), "{outcome:?}");
}

#[test]
fn addresses_that_clash_are_all_named() {
    let clash = ["--listen", "127.0.0.1:81;127.0.0.1:81", "--admin", "127.0.0.1:81"];
    let outcome = sluicegate(&[&["check", "--no-auth"], &clash[..]].concat(), &[]);
    for said in ["--listen 127.0.0.1:81 is used twice", "--admin 127.0.0.1:81 is used twice, first by --listen"] {
        assert!(outcome.code == Some(2) && outcome.err.contains(said), "{said}: {outcome:?}");
    }
}

/// The unit tests' certificate with its two dates exchanged.
fn reversed_certificate() -> String {
    let pem = fs::read_to_string(testdata("certificate.pem")).unwrap();
    let body: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
    let mut der = BASE64_STANDARD.decode(body).unwrap();
    // UTCTime of 13 digits, then GeneralizedTime of 15.
    let at = der.windows(2).position(|two| two == [0x17, 13]).unwrap();
    assert_eq!(der[at + 15..at + 17], [0x18, 15]);
    der[at..at + 15 + 17].rotate_left(15);
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64_STANDARD.encode(der))
}

#[test]
fn what_is_probably_not_meant_is_a_warning_and_strict_refuses_it() {
    let in_days = |days: u64| {
        let time = std::time::SystemTime::now() + std::time::Duration::from_secs(86_400 * days);
        humantime::format_rfc3339_seconds(time).to_string()
    };
    let files = Files::new(&[]);
    let section = |expires: &str| format!("[users.bob]\npasswords = '{HASH}'\nexpires = {expires}\n");
    files.put("expired.toml", &section("2025-01-01T00:00:00Z"), 0o600);
    files.put("soon.toml", &section(&in_days(7)), 0o600);
    files.put("late.toml", &section(&in_days(70)), 0o600);
    files.put("written.toml", &section(&in_days(70)), 0o660);
    files.put("read.toml", &section(&in_days(70)), 0o644);
    files.put("users", &format!("ann:{HASH}\n"), 0o666);
    files.put("key.pem", &fs::read_to_string(testdata("key.pem")).unwrap(), 0o600);
    files.put("open.pem", &fs::read_to_string(testdata("key.pem")).unwrap(), 0o666);
    files.put("reversed.pem", &reversed_certificate(), 0o644);
    let tls = |certificate: &str, key: &str| {
        let words =
            ["--listen-tls", "127.0.0.1:0", "--tls-cert", certificate, "--tls-key", key, "--user", "ann:s3cret"];
        words.map(str::to_owned).to_vec()
    };
    let config = |name: &str| vec!["--config".to_owned(), files.path(name)];
    let users = |arguments: &[&str]| arguments.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (good, key) = (testdata("certificate.pem"), files.path("key.pem"));
    for (arguments, option, said) in [
        (config("late.toml"), "", ""),
        (config("expired.toml"), "users.bob.expires", "DIR/expired.toml:1: warning: user 'bob' has expired"),
        (config("soon.toml"), "users.bob.expires", "DIR/soon.toml:1: warning: user 'bob' expires at "),
        (config("written.toml"), "config", "DIR/written.toml: mode 0660 lets others change it; chmod 0640"),
        (config("read.toml"), "config", "DIR/read.toml: mode 0644 lets every user of this host read it; chmod 0640"),
        (
            users(&["--users-file", &files.path("users")]),
            "users-file",
            "DIR/users: mode 0666 lets others change and read it",
        ),
        (tls(&good, &key), "", ""),
        (
            tls(&good, &files.path("open.pem")),
            "tls-key",
            "DIR/open.pem: mode 0666 lets others change and read it; chmod",
        ),
        (
            tls(&testdata("expired.pem"), &key),
            "tls-cert",
            "expired.pem has expired at 2025-01-01T00:00:00Z: clients refuse",
        ),
        (
            tls(&files.path("reversed.pem"), &key),
            "tls-cert",
            "reversed.pem ends at 2026-11-27T00:15:39Z, before it begins at",
        ),
        (users(&["--no-auth"]), "", ""),
        (
            users(&["--no-auth", "--listen", "0.0.0.0:0"]),
            "no-auth",
            "--no-auth: every client that reaches 0.0.0.0:0 may use",
        ),
        (
            users(&["--no-auth", "--admin", "0.0.0.0:9128"]),
            "admin",
            "--admin 0.0.0.0:9128: every client that reaches it can read users, clients",
        ),
        (users(&["--no-auth", "--metrics", "0.0.0.0:9129"]), "", ""),
        (users(&["--no-auth", "--listen", "[::]:0"]), "no-auth", "--no-auth: every client that reaches [::]:0 may use"),
    ] {
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        if !arguments.contains(&"--listen") && !arguments.contains(&"--listen-tls") {
            arguments.extend(["--listen", "127.0.0.1:0"]);
        }
        let check = |more: &[&str]| files.check(&[&arguments[..], more].concat());
        // Ignore warnings about the user running the tests.
        let of_others =
            |text: &str| text.lines().filter(|line| !line.contains("--run-as")).collect::<Vec<_>>().join("\n");
        let plain = check(&[]);
        let text = of_others(&plain.err);
        assert!(plain.code == Some(0) && plain.out.starts_with("The configuration is valid"), "{plain:?}");
        assert!(!text.contains("s3cret"), "{text}");
        let mut all = findings(&check(&["--json"]));
        all.retain(|finding| finding["option"] != "run-as");
        if said.is_empty() {
            assert_eq!((text.as_str(), all), ("", Vec::new()), "{arguments:?}");
            continue;
        }
        assert!(text.lines().count() == 1 && text.contains(said) && text.contains("warning: "), "{said}: {text}");
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!((&all[0]["severity"], &all[0]["option"]), (&"warning".into(), &option.into()), "{all:?}");
        let strict = check(&["--strict"]);
        assert!(strict.code == Some(2) && strict.err.contains(said), "{strict:?}");
        assert_eq!(check(&["--strict", "--json"]).code, Some(2));
    }
    // In a file, with the position.
    files.put("open.toml", "listen = '0.0.0.0:0'\nno-auth = true\n", 0o644);
    let outcome = files.check(&["--config", &files.path("open.toml")]);
    assert!(outcome.err.contains("sluicegate: DIR/open.toml:2: warning: --no-auth: every client"), "{outcome:?}");
    assert!(
        !Path::new(&files.path("open.toml")).is_dir() && !outcome.err.contains("mode"),
        "it holds no secret: {outcome:?}"
    );
}

#[test]
fn root_is_warned_unless_another_user_is_named() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let arguments = ["check", "--no-auth", "--listen", "127.0.0.1:0", "--strict"];
    let outcome = sluicegate(&arguments, &[]);
    let said =
        "sluicegate: warning: the gateway runs as root, which owns most files of a host; set an unprivileged user";
    assert!(outcome.code == Some(2) && outcome.err.starts_with(said), "{outcome:?}");
    let outcome = sluicegate(&[&arguments[..], &["--run-as", "65534:65534"]].concat(), &[]);
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""), "{outcome:?}");
}

#[test]
fn a_wrong_address_is_refused_with_the_right_form() {
    for option in ["listen", "listen-tls", "admin"] {
        let variable = format!("SLUICEGATE_{}", option.replace('-', "_").to_uppercase());
        for (text, said) in [
            ("3128", "no address; write 0.0.0.0:3128 for all addresses of this host, or 127.0.0.1:3128 for this host"),
            (":3128", "no address; write 0.0.0.0:3128"),
            (
                "localhost:3128",
                "`localhost` is not an IP address, and names are not resolved here; write 127.0.0.1:3128",
            ),
            ("0.0.0.0", "no port; write 0.0.0.0:3128"),
            ("http://10.0.0.1:3128", "a URL instead of an address and a port; write 10.0.0.1:3128"),
            ("0.0.0.0:65536", "`65536` is not a port; write a number from 1 to 65535"),
            ("fd00::1:3128", "an IPv6 address with a port needs brackets; write [fd00::1]:3128"),
        ] {
            let outcome = sluicegate(&["check", "--no-auth", &format!("--{option}"), text], &[]);
            let expected = format!("sluicegate: --{option} {text}: {said}");
            assert!(outcome.code == Some(2) && outcome.err.starts_with(&expected), "{expected}: {outcome:?}");
            let outcome = sluicegate(&["check", "--no-auth"], &[(variable.as_str(), text)]);
            let expected = format!("sluicegate: {variable}={text}: {said}");
            assert!(outcome.code == Some(2) && outcome.err.starts_with(&expected), "{expected}: {outcome:?}");
        }
    }
}

#[test]
fn lists_in_variables_are_separated_by_semicolons() {
    let variables = [
        ("SLUICEGATE_LISTEN", "127.0.0.1:0;[::1]:0"),
        ("SLUICEGATE_ALLOW", "a.example:443,6443;b.example:*"),
        ("SLUICEGATE_PARENT", "http://u:p%3Bw@a:1 for b:1,2;direct"),
        ("SLUICEGATE_PROXY_PROTOCOL_FROM", "10.0.0.0/8;fd00::/8"),
        ("SLUICEGATE_PROXY_PROTOCOL_TO", "v1 for a:1;v2 for b:1,2"),
        ("SLUICEGATE_ENGINE", "splice;copy"),
        ("SLUICEGATE_CONGESTION_CONTROL", "client=reno;origin=reno"),
        ("SLUICEGATE_NO_AUTH", "true"),
    ];
    let outcome = sluicegate(&["check"], &[("SLUICEGATE_NO_AUTH", "yes")]);
    let said = "SLUICEGATE_NO_AUTH=yes: unknown value; write one of true, false";
    assert!(outcome.code == Some(2) && outcome.err.contains(said), "{outcome:?}");
    let outcome = sluicegate(&["check"], &variables);
    assert!(outcome.code == Some(0) && outcome.out.contains("on 127.0.0.1:0 [::1]:0."), "{outcome:?}");
    let outcome =
        sluicegate(&["check"], &[("SLUICEGATE_LISTEN", "127.0.0.1:0 [::1]:0"), ("SLUICEGATE_NO_AUTH", "true")]);
    let said = "several values in one; separate them by a semicolon, as 127.0.0.1:0;[::1]:0, repeat";
    assert!(outcome.code == Some(2) && outcome.err.contains(said), "{outcome:?}");
}
