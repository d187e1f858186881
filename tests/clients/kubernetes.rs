//! Commands in pods and port forwarding: kubectl, and WebSocket.

use std::fs;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use super::tls::port_said_by;
use super::user::{NAME, PASSWORD, command, gateway, gateway_with, succeed};
use crate::support::noise::End;
use crate::support::origin::patient;
use crate::support::process::{Killed, program};
use crate::support::tls::Certificate;
use crate::support::{Gateway, Noise};

/// A password without special characters: old versions of client-go send a URL's password
/// undecoded, with its `%3A`.
const PLAIN: &str = "s3cret";

/// A stand-in for a TLS API server.
struct Api {
    certificate: Certificate,
    port: u16,
    _server: Killed,
}

impl Api {
    fn start() -> Option<Self> {
        let (certificate, python) = (Certificate::make()?, program("python3", "python3")?);
        let mut serve = command(python);
        serve.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/clients/apiserver.py"));
        serve.arg(certificate.path()).arg(certificate.key()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut server = Killed(serve.spawn().expect("python starts"));
        let port = port_said_by(&mut server, "");
        Some(Self { certificate, port, _server: server })
    }

    /// kubectl, with the server in a file and the gateway in `HTTPS_PROXY`.
    fn kubectl(&self, gateway: &Gateway, directory: &Path) -> Option<Command> {
        let kubectl = program("kubectl", "kubernetes-client")?;
        let (certificate, port) = (self.certificate.path(), self.port);
        // With a final dot, since Go uses no proxy for localhost.
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: it\n\
             clusters: [{{name: it, cluster: {{server: 'https://localhost.:{port}', tls-server-name: localhost, \
             certificate-authority: '{}'}}}}]\n\
             users: [{{name: it, user: {{token: t0ken}}}}]\n\
             contexts: [{{name: it, context: {{cluster: it, user: it}}}}]\n",
            certificate.display()
        );
        fs::write(directory.join("config"), config).expect("a file");
        let mut kubectl = command(kubectl);
        kubectl.env("HTTPS_PROXY", format!("http://{NAME}:{PLAIN}@{}", gateway.address)).env("HOME", directory);
        kubectl.arg("--kubeconfig").arg(directory.join("config"));
        // Later versions try WebSocket first.
        for what in ["REMOTE_COMMAND", "PORT_FORWARD"] {
            kubectl.env(format!("KUBECTL_{what}_WEBSOCKETS"), "false");
        }
        Some(kubectl)
    }

    /// Asserts that every connection went through the gateway.
    fn went_through(&self, gateway: &Gateway, at_least: u64) {
        let target = format!("localhost:{}", self.port);
        let large = |direction| {
            gateway.log_line("the transfer", |line| {
                line.message() == "tunnel closed" && line.text("target") == target && line.number(direction) > at_least
            })
        };
        assert_eq!(large("to_origin").raw, large("to_client").raw);
    }
}

const LENGTH: usize = 1 << 20;

#[test]
fn kubectl_exec() {
    let Some(api) = Api::start() else { return };
    let (gateway, directory) = (gateway_with(PLAIN), tempfile::tempdir().unwrap());
    let Some(mut kubectl) = api.kubectl(&gateway, directory.path()) else { return };
    kubectl.args(["exec", "--stdin", "mover", "--", "cat"]);
    let text: String = (0..40_000).map(|line| format!("line {line:>25}\n")).collect();
    assert!(succeed(kubectl, text.as_bytes()).out == text);
    api.went_through(&gateway, text.len() as u64);
}

#[test]
fn kubectl_port_forward() {
    let Some(api) = Api::start() else { return };
    let (gateway, directory) = (gateway_with(PLAIN), tempfile::tempdir().unwrap());
    let Some(mut kubectl) = api.kubectl(&gateway, directory.path()) else { return };
    kubectl.args(["port-forward", "--address", "127.0.0.1", "pod/mover", ":873"]).stdout(Stdio::piped());
    let mut forwarding = Killed(kubectl.spawn().expect("kubectl starts"));
    let port = port_said_by(&mut forwarding, "Forwarding from 127.0.0.1:");
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    patient(&stream);
    thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(Noise::new(1).send(&stream, LENGTH), LENGTH);
            stream.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(Noise::new(1).expect(&stream), (LENGTH, End::Clean));
    });
    drop(forwarding);
    api.went_through(&gateway, LENGTH as u64);
}

#[test]
fn websocket_in_a_tunnel_and_by_upgrade() {
    // The interpreter for Debian's package of the library.
    let Some(python) = program("/usr/bin/python3", "python3") else { return };
    if program("/usr/lib/python3/dist-packages/websockets/client.py", "python3-websockets").is_none() {
        return;
    }
    for (how, upgrade) in [("connect", ""), ("upgrade", "websocket")] {
        let gateway = gateway();
        let mut talk = command(python);
        talk.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/clients/websocket.py"));
        talk.args([&gateway.address.ip().to_string(), &gateway.address.port().to_string()]);
        talk.args([&format!("{NAME}:{PASSWORD}"), how]);
        let said = succeed(talk, b"").out;
        let (port, back) = said.trim().split_once(' ').unwrap_or_else(|| panic!("{said}"));
        let line = gateway.log_line("tunnel closed", |line| line.message() == "tunnel closed");
        let origin: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
        assert_eq!((line.text("target"), line.text("user")), (origin.to_string().as_str(), NAME), "{}", line.raw);
        assert_eq!(line.text("upgrade"), upgrade, "{}", line.raw);
        let back: u64 = back.parse().unwrap();
        assert!(back > 500_000 && line.number("to_origin") > back && line.number("to_client") > back, "{}", line.raw);
    }
}
