//! Settings refused before anything is opened: cause and remedy in one line, and exit code 2.

use std::fs;

use sluicegate::server::descriptors;

use crate::support::binary::BINARY;
use crate::support::process::{run, sluicegate};
use crate::support::{Gateway, in_clean_environment};

fn refused(arguments: &[&str], code: i32) -> String {
    let outcome = sluicegate(arguments, &[]);
    assert_eq!(outcome.code, Some(code), "{arguments:?}: {outcome:?}");
    assert_eq!(outcome.out, "", "{arguments:?}");
    outcome.err
}

#[test]
fn check_accepts_what_serve_would() {
    let outcome = sluicegate(&["check", "--no-auth", "--max-tunnels", "7", "--listen", "127.0.0.1:3128"], &[]);
    let said = "The configuration is valid: no authentication, up to 7 tunnels, listening on 127.0.0.1:3128.\n";
    assert_eq!((outcome.code, outcome.out.as_str()), (Some(0), said));
    // The only warning, for root, is about running as root.
    assert!(outcome.err.lines().all(|line| line.contains("--run-as")), "{outcome:?}");
    let outcome = sluicegate(&["check", "--max-tunnels", "7"], &[("SLUICEGATE_USER", "alice:s3cret")]);
    assert!(outcome.code == Some(0) && outcome.out.contains(": 1 user, "), "{outcome:?}");
}

#[test]
fn check_and_serve_refuse_the_same_in_the_same_words() {
    for (arguments, said) in [
        (&[][..], "no users are configured; set --users-file FILE or SLUICEGATE_USER=name:password, or --no-auth"),
        (&["--no-auth", "--user", "alice:s3cret"], "--no-auth accepts every client, but users are configured"),
        (&["--no-auth", "--rate-per-user", "1MiB"], "--rate-per-user needs users, but --no-auth is set"),
        (&["--no-auth", "--max-tunnels-per-user", "1"], "--max-tunnels-per-user needs users, but --no-auth is set"),
        (&["--user", "alice"], "--user: "),
        (&["--user", "a:b", "--user", "a:c"], "--user"),
        (&["--users-file", "/nonexistent/users"], "/nonexistent/users: "),
        (&["--no-auth", "--allow", "no rule"], "--allow"),
        (&["--no-auth", "--idle-timeout", "0s"], "zero would time out at once; leave the option out"),
        (&["--no-auth", "--handshake-timeout", "soon"], "write it as 30s, 5m or 12h"),
        (&["--no-auth", "--max-tunnels", "0"], "0 would refuse every client; leave the option out for no limit"),
        (&["--no-auth", "--spin", "1s"], "longer than 1ms; write 1ms or less"),
        (&["--no-auth", "--engine", "warp"], "unknown engine 'warp'; use auto, uring, splice, sockmap or copy"),
        (&["--no-auth", "--sockmap-backlog", "16 pages"], "write it as 16MiB, 512KiB or 4194304"),
        (&["--no-auth", "--sockmap-backlog", "1GiB"], "out of range: 64KiB to 256MiB"),
        (&["--no-auth", "--source", "192.0.2.1"], "--source 192.0.2.1: this host has no such address"),
        (&["--no-auth", "--congestion-control", "warp"], "--congestion-control: the kernel has no"),
        (&["--no-auth", "--listen", "127.0.0.1:1", "--admin", "127.0.0.1:1"], "used twice, first by --listen"),
        (&["--no-auth", "--max-tunnels", "99999999"], "raise it (systemd: LimitNOFILE=, shell: ulimit -Hn) or lower"),
    ] {
        let [check, serve] = ["check", "serve"].map(|command| refused(&[&[command], arguments].concat(), 2));
        assert!(check.contains(said), "{arguments:?}: {check}");
        // `check` alone prints warnings.
        let errors: Vec<_> = check.lines().filter(|line| !line.contains("warning: ")).collect();
        assert_eq!(errors, serve.lines().collect::<Vec<_>>(), "{arguments:?}");
        assert!(!check.contains("s3cret"), "{check}");
    }
}

#[test]
fn a_file_is_blamed_by_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    for (file, said) in [
        ("no-auth = true\nlisten = 'x'\n", ":2: --listen x: `x` is not an IP address"),
        ("no-auth = true\n\nmax_tunnels = 7\n", ":3: unknown option 'max_tunnels'; did you mean 'max-tunnels'?"),
        ("no-auth = true\nlog = \n", ":2: invalid TOML"),
        ("log = 'json'\nuser = 'alice'\n", ":2: --user: no ':' in it"),
        ("no-auth = true\nsource = '192.0.2.1'\n", ":2: --source 192.0.2.1: "),
        ("no-auth = true\ncongestion-control = 'warp'\n", ":2: --congestion-control: the kernel has no"),
        ("no-auth = true\nmax-tunnels = 99999999\n", ":2: --max-tunnels 99999999 needs"),
    ] {
        fs::write(path("gateway.toml"), file).unwrap();
        let error = refused(&["check", "--config", &path("gateway.toml")], 2);
        assert!(error.starts_with(&format!("sluicegate: {}{said}", path("gateway.toml"))), "{error}");
    }
    for (users, said) in [
        ("# ours\nalice:{SHA}abc=\n", ":2: 'alice': {SHA} hashes are SHA-1"),
        ("alice:$apr1$abc$def\n", ":1: 'alice': "),
        ("alice:s3cret\n", ":1: "),
        ("alice\n", ":1: "),
    ] {
        fs::write(path("users"), users).unwrap();
        let error = refused(&["check", "--users-file", &path("users")], 2);
        assert!(error.starts_with(&format!("sluicegate: {}{said}", path("users"))), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
}

#[test]
fn tunnels_that_do_not_fit_are_refused_with_the_number_that_does() {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -n 600; exec \"$0\" check --no-auth --listen 127.0.0.1:0 --max-tunnels 1000", BINARY]);
    in_clean_environment(&mut command);
    let outcome = run(command, b"");
    let why = descriptors::divide(Some(1_000), 600, 1).expect_err("too many").to_string();
    assert!(why.starts_with("--max-tunnels 1000 needs 2"), "{why}");
    assert_eq!((outcome.code, outcome.err.lines().next()), (Some(2), Some(format!("sluicegate: {why}").as_str())));
}

#[test]
fn a_taken_port_is_a_failure_at_work() {
    let gateway = Gateway::open(&[]);
    let taken = gateway.address.to_string();
    let error = refused(&["serve", "--no-auth", "--listen", &taken, "--admin", "127.0.0.1:0"], 1);
    assert!(error.contains(&format!("--listen {taken}: Address already in use")), "{error}");
    assert!(error.contains("stop it or choose another port"), "{error}");
}
