//! The ways that are compared: no proxy, gateways that the bench starts, one that runs already.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::socket::Way;

/// The login of gateways that the bench starts.
const USER: &str = "bench:bench";

/// How long a gateway may take to start.
const START: Duration = Duration::from_secs(20);

/// One way, and the process behind it where that is the bench's own.
#[derive(Debug)]
pub struct Contender {
    /// What the table calls it.
    pub name: String,
    /// The way to the origin.
    pub way: Way,
    process: Option<Child>,
}

impl Contender {
    /// Straight to the origin.
    #[must_use]
    pub fn direct(origin: SocketAddr) -> Self {
        Self { name: "no proxy".into(), way: Way { proxy: None, user: None, origin }, process: None }
    }

    /// A CONNECT proxy that runs already.
    #[must_use]
    pub fn running(proxy: SocketAddr, user: Option<String>, origin: SocketAddr) -> Self {
        Self { name: proxy.to_string(), way: Way { proxy: Some(proxy), user, origin }, process: None }
    }

    /// Starts the gateway at `program` with one of its engines.
    ///
    /// # Errors
    /// It cannot be started, or says something else than that it listens.
    pub fn gateway(program: &Path, engine: &str, origin: SocketAddr) -> io::Result<Self> {
        let mut child = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--allow", "127.0.0.0/8:*"])
            .args(["--engine", engine, "--congestion-control", "cubic", "--log", "json"])
            .env("SLUICEGATE_USER", USER)
            .env("SLUICEGATE_LOG_LEVEL", "info")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))?;
        let log = child.stderr.take().expect("piped");
        let mut contender = Self {
            name: engine.into(),
            way: Way { proxy: None, user: Some(USER.into()), origin },
            process: Some(child),
        };
        contender.way.proxy = Some(listening(log)?);
        Ok(contender)
    }

    /// The process of a gateway that the bench started.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Some(child) = &mut self.process {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Reads a gateway's log until it says where it listens, and the rest of it for as long as it writes.
fn listening(log: impl io::Read + Send + 'static) -> io::Result<SocketAddr> {
    let (found, address) = mpsc::channel();
    thread::spawn(move || {
        let mut said = Vec::new();
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            let json: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let listen = json["fields"]["listen"].as_str().and_then(|text| text.parse().ok());
            if let Some(listen) = listen {
                let _ = found.send(Ok(listen));
                said.clear();
            } else if said.len() < 20 {
                said.push(line);
            }
        }
        let _ = found.send(Err(said.join("\n")));
    });
    match address.recv_timeout(START) {
        Ok(Ok(address)) => Ok(address),
        Ok(Err(said)) => Err(io::Error::other(format!("the gateway did not start: {said}"))),
        Err(_) => Err(io::Error::other(format!("the gateway did not start within {} s", START.as_secs()))),
    }
}
