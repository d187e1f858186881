//! The gateway of this repository, with one of its engines.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::instance::Contender;
use super::program::{USER, first_line, says};
use crate::process::Process;
use crate::socket::{CONGESTION_CONTROL, Proxy, may_choose};

/// Starts `program` with `engine`: an engine name, then further options of `serve`.
///
/// # Errors
/// The gateway refuses the engine, falls back to another, or does not start.
pub(super) fn start(program: &Path, engine: &str, origin: SocketAddr) -> io::Result<Contender> {
    let words: Vec<&str> = engine.split_whitespace().collect();
    let Some((name, options)) = words.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an engine without a name"));
    };
    let user = format!("{USER}:{USER}");
    let mut command = Command::new(program);
    command
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--control",
            "none",
            "--allow",
            &rule(origin),
        ])
        .args(["--engine", name, "--log", "json"])
        .args(options)
        .env("SLUICEGATE_USER", &user)
        .env("SLUICEGATE_LOG_LEVEL", "info");
    if may_choose() {
        command.args(["--congestion-control", CONGESTION_CONTROL]);
    }
    let named = format!("engine {engine} of {}", program.display());
    let mut process = Process::start(&named, &mut command, None)?;
    let (address, runs) = process.ready(|process| process.log().lines().find_map(listening))?;
    if runs != *name {
        return Err(process.failure(&format!("runs as '{runs}' instead")));
    }
    let proxy = Proxy::Connect { address, user: Some(user) };
    Ok(Contender::started(process, engine, first_line(&says(program, "--version")?), proxy, origin))
}

/// Rule for the origin: loopback has to be permitted by name.
fn rule(origin: SocketAddr) -> String {
    match origin {
        SocketAddr::V4(v4) => format!("{}:*", v4.ip()),
        SocketAddr::V6(v6) => format!("[{}]:*", v6.ip()),
    }
}

/// Listen address and engine in a log line.
fn listening(line: &str) -> Option<(SocketAddr, String)> {
    let json: serde_json::Value = serde_json::from_str(line).ok()?;
    let address = json.get("listen")?.as_str()?.parse().ok()?;
    Some((address, json.get("engine")?.as_str()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::folder;

    #[test]
    fn the_log_says_where_it_listens() {
        let line = r#"{"level":"INFO","message":"listening","listen":"127.0.0.1:9","engine":"copy"}"#;
        assert_eq!(listening(line), Some(("127.0.0.1:9".parse().unwrap(), "copy".to_owned())));
        assert_eq!(listening("error: unknown engine 'x'"), None);
    }

    #[test]
    fn an_engine_that_is_refused_is_named() {
        let folder = folder().unwrap();
        let script = "#!/bin/sh\nwhile [ \"$1\" != --engine ]; do shift; done\necho \"unknown engine '$2'\"; exit 2\n";
        let program = folder.path().join("gateway");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let error = start(&program, "warp --spin 9", "127.0.0.1:1".parse().unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("engine warp --spin 9 of ") && error.contains("'warp'"), "{error}");
    }
}
