//! TLS for tests: certificates made by openssl, and a TLS front for clients without TLS.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use sluicegate::proxy_protocol::{Version, header};
use sluicegate::sys::tcp;
use socket2::{Domain, SockRef, Socket, Type};
use tempfile::TempDir;

use super::gateway::Setup;
use super::process::{program, run};

/// Path of a file in the unit tests' data: `certificate.pem` with `key.pem`, and `expired.pem` for
/// the same key.
pub(crate) fn testdata(name: &str) -> String {
    format!("{}/src/tls/testdata/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A self-signed certificate for localhost and 127.0.0.1, and its key.
#[derive(Debug)]
pub(crate) struct Certificate(pub(crate) TempDir);

impl Certificate {
    /// Makes a certificate; `None` if openssl is missing.
    pub(crate) fn make() -> Option<Self> {
        let certificate = Self(tempfile::tempdir().expect("a directory"));
        certificate.renew("localhost").then_some(certificate)
    }

    /// Replaces the certificate by one for `name` and 127.0.0.1. Returns false if openssl is
    /// missing.
    pub(crate) fn renew(&self, name: &str) -> bool {
        self.renew_as(name, "CA:FALSE")
    }

    /// Replaces the certificate by one with these basic constraints.
    pub(crate) fn renew_as(&self, name: &str, constraints: &str) -> bool {
        let Some(openssl) = program("openssl", "openssl") else { return false };
        let request = self.0.path().join("request.cnf");
        let text = format!(
            "[req]\nprompt=no\ndistinguished_name=name\nx509_extensions=extensions\n[name]\nCN={name}\n[extensions]\n\
             subjectAltName=DNS:{name},IP:127.0.0.1\nbasicConstraints=critical,{constraints}\n"
        );
        fs::write(&request, text).expect("a file");
        let mut make = Command::new(openssl);
        make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
        make.arg("-config").arg(request).arg("-keyout").arg(self.new_key()).arg("-out").arg(self.new_path());
        let outcome = run(make, b"");
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        fs::rename(self.new_key(), self.key()).expect("it takes the place");
        fs::rename(self.new_path(), self.path()).expect("it takes the place");
        true
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("certificate.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.0.path().join("key.pem")
    }

    fn new_path(&self) -> PathBuf {
        self.path().with_extension("new")
    }

    fn new_key(&self) -> PathBuf {
        self.key().with_extension("new")
    }

    /// Adds a TLS listener with this certificate, at its own address.
    pub(crate) fn shown_by(&self, setup: Setup) -> Setup {
        let (certificate, key) = (self.path(), self.key());
        let [certificate, key] = [&certificate, &key].map(|path| path.to_str().expect("a plain path"));
        setup.args(["--listen-tls", "127.0.0.1:0", "--tls-cert", certificate, "--tls-key", key])
    }
}

/// A TLS client trusting only this certificate.
pub(crate) fn client(certificate: &Path, versions: &[&'static SupportedProtocolVersion]) -> ClientConnection {
    client_offering(certificate, versions, &[])
}

/// A TLS client offering these ALPN protocols.
pub(crate) fn client_offering(
    certificate: &Path,
    versions: &[&'static SupportedProtocolVersion],
    offered: &[&str],
) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).expect("a certificate")).expect("it can be trusted");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_protocol_versions(versions).expect("versions");
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::from(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST));
    ClientConnection::new(Arc::new(config), name).expect("a session")
}

/// Source address of the front; the gateway accepts PROXY headers from it.
const FRONT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Accepts clients in the clear and connects to a gateway by TLS for each of them, with the
/// client's address in a PROXY header. Passes on a half-close at once, and a reset after the bytes
/// before it have arrived.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    over: Arc<AtomicBool>,
}

impl Front {
    /// Makes the gateway accept PROXY headers from the front.
    pub(crate) fn believed_by(setup: Setup) -> Setup {
        setup.args(["--proxy-protocol-from", "127.0.0.2"])
    }

    pub(crate) fn new(gateway: SocketAddr, certificate: &Path) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let over = Arc::new(AtomicBool::new(false));
        let (ended, certificate) = (Arc::clone(&over), certificate.to_owned());
        thread::spawn(move || {
            while let Ok((plain, from)) = listener.accept() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let connection = client(&certificate, rustls::ALL_VERSIONS);
                thread::spawn(move || {
                    let secure = dial(gateway, from);
                    Pair { plain, secure, connection, ended: [false; 2] }.run();
                });
            }
        });
        Self { address, over }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn dial(gateway: SocketAddr, from: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((FRONT, 0)).into()).expect("an address of loopback");
    socket.connect(&gateway.into()).expect("the gateway accepts");
    let mut stream = TcpStream::from(socket);
    stream.write_all(&header(Version::V2, from, gateway)).expect("it reads");
    stream
}

/// One client, and its connection to the gateway.
struct Pair {
    plain: TcpStream,
    secure: TcpStream,
    connection: ClientConnection,
    /// True once the FIN is passed on: from the client, from the gateway.
    ended: [bool; 2],
}

/// Longest stall in delivering the bytes before a failure, 1 second.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// Bytes per read, 16 KiB.
const PIECE: usize = 16 << 10;

impl Pair {
    fn run(mut self) {
        [&self.plain, &self.secure].iter().for_each(|socket| socket.set_nonblocking(true).expect("a socket"));
        match self.pass() {
            Ok(()) => {}
            // Reset both sides once the forwarded bytes have arrived or delivery has stalled.
            Err(_) => {
                let mut last = (self.left(), Instant::now());
                while last.0 > 0 && last.1.elapsed() < LAST_BYTES {
                    thread::park_timeout(Duration::from_millis(1));
                    let left = self.left();
                    if left != last.0 {
                        last = (left, Instant::now());
                    }
                }
                for socket in [&self.plain, &self.secure] {
                    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
                }
            }
        }
    }

    fn pass(&mut self) -> io::Result<()> {
        // Bytes read from the gateway and not yet written to the client.
        let mut waiting = Vec::new();
        let mut broke = None;
        while self.ended != [true; 2] || self.connection.wants_write() {
            let reads_plain = !self.ended[0] && !self.connection.wants_write() && !self.connection.is_handshaking();
            let reads_secure = !self.ended[1] && waiting.is_empty();
            let flags = |reads, writes| {
                let mut flags = PollFlags::ERR;
                flags.set(PollFlags::IN, reads);
                flags.set(PollFlags::OUT, writes);
                flags
            };
            let mut both = [
                PollFd::new(&self.plain, flags(reads_plain, !waiting.is_empty())),
                PollFd::new(&self.secure, flags(reads_secure, self.connection.wants_write())),
            ];
            poll(&mut both, None)?;
            let [plain_said, secure_said] = both.map(|said| said.revents());
            for (said, socket, reads) in
                [(plain_said, &self.plain, reads_plain), (secure_said, &self.secure, reads_secure)]
            {
                if !said.contains(PollFlags::ERR) || said.contains(PollFlags::IN) {
                    continue;
                }
                if !reads && broke.get_or_insert_with(Instant::now).elapsed() < LAST_BYTES {
                    // Wait for room to read the bytes before the failure; room may never come.
                    thread::park_timeout(Duration::from_millis(1));
                } else if let Some(error) = socket.take_error()? {
                    return Err(error);
                }
            }
            if reads_plain && plain_said.intersects(PollFlags::IN | PollFlags::HUP) {
                self.read_plain()?;
            }
            while self.connection.wants_write() {
                match self.connection.write_tls(&mut self.secure) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    written => drop(written?),
                }
            }
            if self.ended[0] && !self.connection.wants_write() {
                // Shuts down after the client's FIN; repeated calls have no effect.
                let _ = self.secure.shutdown(Shutdown::Write);
            }
            if reads_secure && secure_said.intersects(PollFlags::IN | PollFlags::HUP) {
                self.read_secure(&mut waiting)?;
            }
            while !waiting.is_empty() {
                match self.plain.write(&waiting) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    written => drop(waiting.drain(..written?)),
                }
            }
        }
        self.secure.set_nonblocking(false)?;
        self.secure.shutdown(Shutdown::Write)
    }

    /// Bytes not acknowledged, plus those not even sent.
    fn left(&mut self) -> usize {
        while self.connection.wants_write() && self.connection.write_tls(&mut self.secure).is_ok() {}
        let unsent = usize::from(self.connection.wants_write());
        unsent
            + [&self.plain, &self.secure].map(|socket| tcp::unacknowledged(socket).unwrap_or(0)).iter().sum::<usize>()
    }

    fn read_plain(&mut self) -> io::Result<()> {
        let mut piece = [0; PIECE];
        match self.plain.read(&mut piece) {
            Ok(0) => {
                self.connection.send_close_notify();
                self.ended[0] = true;
            }
            Ok(bytes) => self.connection.writer().write_all(&piece[..bytes])?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn read_secure(&mut self, waiting: &mut Vec<u8>) -> io::Result<()> {
        match self.connection.read_tls(&mut self.secure) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            read => drop(read?),
        }
        self.connection.process_new_packets().map_err(io::Error::other)?;
        let mut piece = [0; PIECE];
        loop {
            match self.connection.reader().read(&mut piece) {
                Ok(0) => {
                    // Only after all earlier bytes are written.
                    if waiting.is_empty() {
                        self.ended[1] = true;
                        self.plain.shutdown(Shutdown::Write)?;
                    }
                    return Ok(());
                }
                Ok(bytes) => waiting.extend_from_slice(&piece[..bytes]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
