//! A TLS origin by openssl, serving one document.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use crate::support::process::{Killed, program};
use crate::support::tls::Certificate;

pub(super) const DOCUMENT: &str = "a document behind TLS, through the gateway\n";

/// Reads the port after `words` at the start of an output line. Goes on reading the pipe
/// afterwards, so that the program never blocks on it.
pub(super) fn port_said_by(program: &mut Killed, words: &str) -> u16 {
    let mut said = BufReader::new(program.0.stdout.take().expect("a pipe"));
    let port = loop {
        let mut line = String::new();
        assert_ne!(said.read_line(&mut line).expect("a pipe"), 0, "it ended");
        if let Some(rest) = line.strip_prefix(words) {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            break digits.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
        }
    };
    thread::spawn(move || drop(said.read_to_end(&mut Vec::new())));
    port
}

pub(super) struct TlsOrigin {
    pub(super) address: SocketAddr,
    certificate: Certificate,
    _server: Killed,
}

impl TlsOrigin {
    /// Starts the origin; `None` if openssl is missing.
    pub(super) fn start() -> Option<Self> {
        let (openssl, certificate) = (program("openssl", "openssl")?, Certificate::make()?);
        let directory = certificate.0.path();
        fs::write(directory.join("document"), DOCUMENT).expect("a file");
        let mut serve = Command::new(openssl);
        serve.args(["s_server", "-accept", "127.0.0.1:0", "-WWW"]).current_dir(directory);
        serve.arg("-cert").arg(certificate.path()).arg("-key").arg(certificate.key());
        serve.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = Killed(serve.spawn().expect("openssl starts"));
        let port = port_said_by(&mut server, "ACCEPT 127.0.0.1:");
        Some(Self { address: (Ipv4Addr::LOCALHOST, port).into(), certificate, _server: server })
    }

    pub(super) fn certificate(&self) -> PathBuf {
        self.certificate.path()
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}/document", self.address)
    }
}
