//! Ignored signals, and signals before the gateway listens.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::binary::BINARY;
use crate::support::log::Log;
use crate::support::process::Killed;
use crate::support::{Gateway, Origin, client, connect, eventually, in_clean_environment};

#[test]
fn signals_without_a_meaning_end_nothing() {
    let mut gateway = Gateway::open(&[]);
    let origin = Origin::echo();
    let stream = connect(gateway.address, origin.address);
    client::echoes(&stream, 1_000);
    // PIPE XFSZ XCPU USR1 USR2 ALRM VTALRM PROF IO STKFLT PWR TTIN TTOU, and the real-time ones.
    let ignored = [13, 25, 24, 10, 12, 14, 26, 27, 29, 16, 30, 21, 22].into_iter().chain(34..=64);
    for signal in ignored {
        let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {}", gateway.pid())]).status().unwrap();
        assert!(sent.success(), "signal {signal}");
        client::echoes(&stream, 1_000);
    }
    client::hang_up(&stream);
    gateway.closing_line(stream.local_addr().unwrap());
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait().code(), Some(0));
}

/// A gateway blocked on its configuration, a pipe.
fn starting() -> Killed {
    let mut command = Command::new(BINARY);
    command.args(["serve", "--config", "/dev/stdin", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    in_clean_environment(command.args(["--log", "json"])).stdin(Stdio::piped()).stderr(Stdio::piped());
    let gateway = Killed(command.spawn().unwrap());
    eventually("it handles signals", || {
        let status = fs::read_to_string(format!("/proc/{}/status", gateway.0.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        // The handler of SIGINT (2) is installed last.
        u64::from_str_radix(caught.trim(), 16).unwrap() & 1 << (2 - 1) != 0
    });
    gateway
}

fn tell(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_start_is_ended_cleanly() {
    for (signal, code) in [(Signal::TERM, 0), (Signal::INT, 130)] {
        let mut gateway = starting();
        tell(&gateway.0, signal);
        let mut status = None;
        eventually("it ends", || {
            status = gateway.0.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(code), "{signal:?}");
    }
}

#[test]
fn a_hangup_before_the_start_is_complete_re_reads_afterwards() {
    let mut gateway = starting();
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::XFSZ] {
        tell(&gateway.0, signal);
    }
    let (log, stderr) = (Log::default(), gateway.0.stderr.take().unwrap());
    thread::scope(|scope| {
        scope.spawn(|| log.collect(stderr));
        let hash = bcrypt::hash("one", 4).expect("a hash");
        let mut stdin = gateway.0.stdin.take().unwrap();
        stdin.write_all(format!("[users.bob]\npasswords = '{hash}'\n").as_bytes()).unwrap();
        drop(stdin);
        // A pipe's content cannot be read twice.
        let line = log.line("re-read", |line| line.message().starts_with("users not reloaded"));
        assert!(line.text("error").contains("/dev/stdin: cannot be read: a FIFO"), "{}", line.raw);
        tell(&gateway.0, Signal::TERM);
    });
    assert_eq!(gateway.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_log_file_at_its_limit_loses_lines_and_no_tunnel() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    // Blocks of 512 bytes.
    const LIMIT: u64 = 8 * 512;
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 8 && exec \"$@\"", "sh", BINARY, "serve", "--no-auth", "--log", "json"]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--allow", "127.0.0.0/8:*"]);
    in_clean_environment(&mut command).stderr(File::create(&path).unwrap());
    let mut gateway = Killed(command.spawn().unwrap());
    let mut address = None;
    eventually("it listens", || {
        let text = fs::read_to_string(&path).unwrap();
        let log = Log::default();
        log.collect(text.as_bytes());
        let listening = |line: &crate::support::log::Line| line.message() == "listening";
        if log.count(listening) > 0 {
            address = log.line("listening", listening).text("listen").parse().ok();
        }
        address.is_some()
    });
    let (address, origin) = (address.unwrap(), Origin::echo());
    let stream = connect(address, origin.address);
    eventually("the log is full", || {
        client::ask(address, b"garbage\r\n\r\n");
        fs::metadata(&path).unwrap().len() >= LIMIT - 1
    });
    for _ in 0..20 {
        client::ask(address, b"garbage\r\n\r\n");
    }
    client::echoes(&stream, 1 << 20);
    tell(&gateway.0, Signal::TERM);
    client::hang_up(&stream);
    assert_eq!(gateway.0.wait().unwrap().code(), Some(0));
}
