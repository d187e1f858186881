//! An origin that speaks TLS, by openssl, and serves one document.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use tempfile::TempDir;

use super::succeed;
use crate::support::process::{Killed, program};

pub(super) const DOCUMENT: &str = "a document behind TLS, through the gateway\n";

pub(super) struct TlsOrigin {
    pub(super) address: SocketAddr,
    directory: TempDir,
    _server: Killed,
}

impl TlsOrigin {
    /// Starts it; `None` where there is no openssl.
    pub(super) fn start() -> Option<Self> {
        let openssl = program("openssl", "openssl")?;
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let mut make = Command::new(openssl);
        make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
        make.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]);
        make.arg("-keyout").arg(at("key.pem")).arg("-out").arg(at("certificate.pem"));
        succeed(make, b"");
        fs::write(at("document"), DOCUMENT).expect("a file");
        let mut serve = Command::new(openssl);
        serve.args(["s_server", "-accept", "127.0.0.1:0", "-WWW", "-cert", "certificate.pem", "-key", "key.pem"]);
        serve.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = Killed(serve.spawn().expect("openssl starts"));
        let mut said = BufReader::new(server.0.stdout.take().expect("a pipe"));
        let address = loop {
            let mut line = String::new();
            assert_ne!(said.read_line(&mut line).expect("a pipe"), 0, "openssl ended");
            if let Some(address) = line.strip_prefix("ACCEPT ") {
                break address.trim().parse().expect("an address");
            }
        };
        // It goes on talking, and must not stop because nobody listens.
        thread::spawn(move || drop(said.read_to_end(&mut Vec::new())));
        Some(Self { address, directory, _server: server })
    }

    pub(super) fn certificate(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}/document", self.address)
    }
}
