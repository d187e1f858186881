//! TLS with clients, for which the gateway is an https proxy, and with https parents. Tests of
//! every byte through TLS are in `engines`.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;

use rustix::process::Signal;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, StreamOwned};
use sluicegate::metrics::{CERTIFICATE_EXPIRY, CONNECT_REQUESTS, PARENT_REQUESTS, TUNNELS};

use crate::support::client::{self, ESTABLISHED, dial, request};
use crate::support::log::Line;
use crate::support::noise::End;
use crate::support::process::{Haproxies, program, replace, run, sluicegate};
use crate::support::tls::{self, Certificate, testdata};
use crate::support::{Gateway, Noise, Origin, Setup, connect_as, eventually};

const USER: &str = "mover:s3cret";

type Secure = StreamOwned<rustls::ClientConnection, TcpStream>;

/// A gateway with this certificate.
fn gateway(certificate: &Certificate) -> Gateway {
    certificate.shown_by(Setup::new(&[])).user(USER).debug().start()
}

fn secured(gateway: &Gateway, connection: rustls::ClientConnection) -> Secure {
    StreamOwned::new(connection, dial(gateway.secure.expect("an address")))
}

fn read_head(stream: &mut Secure) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {}", head.escape_ascii()));
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}

/// A tunnel, and its client's address.
fn tunnel(gateway: &Gateway, certificate: &Certificate, target: SocketAddr) -> (Secure, SocketAddr) {
    let mut stream = secured(gateway, tls::client(&certificate.path(), rustls::ALL_VERSIONS));
    stream.write_all(request(target, Some(USER)).as_bytes()).expect("it reads");
    assert_eq!(read_head(&mut stream), ESTABLISHED);
    let from = stream.sock.local_addr().expect("an address");
    (stream, from)
}

#[test]
fn both_versions_on_the_copy_engine_and_the_others_as_ever() {
    let Some(certificate) = Certificate::make() else { return };
    let (gateway, origin) = (gateway(&certificate), Origin::echo());
    let said = gateway.log_line("what it means", |line| line.message().contains("copied in this process"));
    assert!(said.message().contains("end with it"), "{}", said.raw);
    // For TLS 1.2 the cipher suite without a limit on the use of its keys, whatever the client
    // prefers.
    for (version, label, suite) in [
        (&TLS12, "TLSv1.2", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
        (&TLS13, "TLSv1.3", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ] {
        let mut stream = secured(&gateway, tls::client(&certificate.path(), &[version]));
        stream.write_all(request(origin.address, Some(USER)).as_bytes()).unwrap();
        assert_eq!(read_head(&mut stream), ESTABLISHED);
        assert_eq!(stream.conn.negotiated_cipher_suite().unwrap().suite(), suite);
        let bytes = Noise::new(3).take(60_000);
        stream.write_all(&bytes).unwrap();
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).unwrap();
        assert!(back == bytes);
        eventually("it is listed", || gateway.tunnels().len() == 1);
        let listed = &gateway.tunnels()[0];
        assert_eq!((&listed["tls"], &listed["engine"]), (&label.into(), &"copy".into()));
        let from = stream.sock.local_addr().unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the echo's end");
        drop(stream);
        let line = gateway.closing_line(from);
        assert_eq!((line.text("tls"), line.text("outcome")), (label, "client_closed"), "{}", line.raw);
    }
    let plain = connect_as(gateway.address, origin.address, USER);
    client::echoes(&plain, 100_000);
    eventually("it is listed", || gateway.tunnels().len() == 1);
    assert!(gateway.tunnels()[0].get("tls").is_none() && gateway.tunnels()[0]["engine"] != "copy");
    eventually("counted", || gateway.metric(&TUNNELS, &["copy", "client_closed"]) == 2);
}

#[test]
fn curl_by_an_https_proxy() {
    let Some(curl) = program("curl", "curl") else { return };
    let Some(certificate) = Certificate::make() else { return };
    let (gateway, origin) = (gateway(&certificate), Origin::http("a document behind an https proxy\n"));
    let proxy = format!("https://localhost:{}", gateway.secure.unwrap().port());
    let fetch = |user: &str| {
        let mut fetch = Command::new(curl);
        fetch.args(["--silent", "--show-error", "--verbose", "--noproxy", "", "--proxytunnel", "--proxy", &proxy]);
        fetch.args(["--proxy-user", user, &format!("http://{}/", origin.address)]);
        fetch.arg("--proxy-cacert").arg(certificate.path());
        run(fetch, b"")
    };
    let outcome = fetch(USER);
    assert_eq!((outcome.code, &*outcome.out), (Some(0), "a document behind an https proxy\n"), "{outcome:?}");
    let refused = fetch("mover:wrong");
    assert!(refused.err.contains("407 Proxy Authentication Required: wrong user name or password"), "{refused:?}");
    // A client without trust in the certificate closes.
    let mut fetch = Command::new(curl);
    fetch.args(["--silent", "--noproxy", "", "--proxytunnel", "--proxy", &proxy, "http://127.0.0.1:1/"]);
    assert_eq!(run(fetch, b"").code, Some(60), "a certificate that curl does not know");
    eventually("counted", || gateway.metric(&CONNECT_REQUESTS, &["none", "tls_failed"]) == 1);
}

/// Clients offer other protocols by mistake; the gateway accepts them anyway.
#[test]
fn a_client_that_offers_other_protocols_goes_on_without() {
    let Some(certificate) = Certificate::make() else { return };
    let (gateway, origin) = (gateway(&certificate), Origin::echo());
    for (offered, chosen) in [
        (&["http 1.1"][..], None),
        (&["http/1.0"], None),
        (&["h2"], None),
        (&[], None),
        (&["h2", "http/1.1"], Some(&b"http/1.1"[..])),
        (&["http/1.0", "http/1.1"], Some(b"http/1.1")),
    ] {
        for version in [&TLS12, &TLS13] {
            let mut stream = secured(&gateway, tls::client_offering(&certificate.path(), &[version], offered));
            stream.write_all(request(origin.address, Some(USER)).as_bytes()).unwrap();
            assert_eq!(read_head(&mut stream), ESTABLISHED, "{offered:?}");
            assert_eq!(stream.conn.alpn_protocol(), chosen, "{offered:?}");
        }
    }
}

/// openssl offers a protocol no proxy supports.
#[test]
fn openssl_offers_http_1_0() {
    let Some(openssl) = program("openssl", "openssl") else { return };
    let Some(certificate) = Certificate::make() else { return };
    let gateway = gateway(&certificate);
    let mut client = Command::new(openssl);
    let address = gateway.secure.unwrap().to_string();
    client.args(["s_client", "-alpn", "http/1.0", "-connect", &address, "-CAfile"]).arg(certificate.path());
    let outcome = run(client, b"");
    assert!(outcome.out.contains("No ALPN negotiated") && outcome.code == Some(0), "{outcome:?}");
}

#[test]
fn another_certificate_counts_for_those_who_come_then() {
    let Some(certificate) = Certificate::make() else { return };
    let (gateway, origin) = (gateway(&certificate), Origin::echo());
    let before = fs::read(certificate.path()).unwrap();
    let (mut old, _) = tunnel(&gateway, &certificate, origin.address);
    let position = gateway.log.position();
    certificate.renew("another.example");
    gateway.log.line_from(position, "re-read", |line| line.message() == "certificate reloaded");
    let (mut new, _) = tunnel(&gateway, &certificate, origin.address);
    for stream in [&mut old, &mut new] {
        stream.write_all(b"and so on").unwrap();
        stream.read_exact(&mut [0; 9]).unwrap();
    }
    // A client trusting only the first certificate is no longer admitted.
    let first = certificate.path().with_extension("first");
    fs::write(&first, before).unwrap();
    let mut late = secured(&gateway, tls::client(&first, rustls::ALL_VERSIONS));
    assert!(late.write_all(b"x").is_err());
    // An unusable file changes nothing and is logged.
    for (file, said) in [(certificate.path(), "--tls-cert "), (certificate.key(), "--tls-key ")] {
        let (position, before) = (gateway.log.position(), fs::read(&file).unwrap());
        fs::write(&file, "nothing of the kind\n").unwrap();
        let kept =
            gateway.log.line_from(position, "kept", |line| line.message().starts_with("certificate not reloaded"));
        assert!(kept.level() == "ERROR" && kept.text("error").contains(said), "{}", kept.raw);
        fs::write(&file, before).unwrap();
        gateway.log.line_from(position, "re-read", |line| line.message() == "certificate reloaded");
        tunnel(&gateway, &certificate, origin.address);
    }
}

#[test]
fn an_end_that_was_not_announced_is_a_reset() {
    let Some(certificate) = Certificate::make() else { return };
    let (gateway, origin) = (gateway(&certificate), Origin::new());
    let (mut stream, from) = tunnel(&gateway, &certificate, origin.address);
    let at_origin = origin.accept();
    stream.write_all(&Noise::new(5).take(100_000)).unwrap();
    // An attacker on the path could send this FIN.
    stream.sock.shutdown(Shutdown::Write).unwrap();
    assert_eq!(Noise::new(5).expect(&at_origin), (100_000, End::Reset));
    let line = gateway.closing_line(from);
    assert_eq!((line.text("outcome"), line.number("to_origin")), ("client_reset", 100_000), "{}", line.raw);
    let mut rest = Vec::new();
    assert_eq!(stream.sock.read_to_end(&mut rest).unwrap_err().kind(), ErrorKind::ConnectionReset);

    // A modified record never comes from the client.
    let (mut stream, from) = tunnel(&gateway, &certificate, origin.address);
    let at_origin = origin.accept();
    stream.write_all(b"sound").unwrap();
    let mut sound = [0; 5];
    (&at_origin).read_exact(&mut sound).unwrap();
    stream
        .sock
        .write_all(&[23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20])
        .unwrap();
    assert_eq!(client::end_of(&at_origin), End::Reset);
    assert_eq!(gateway.closing_line(from).text("outcome"), "client_reset");
}

/// Many clients close without close_notify once they have the answer.
#[test]
fn an_end_that_was_not_announced_behind_the_origins_is_no_cut() {
    let Some(certificate) = Certificate::make() else { return };
    let (gateway, origin) = (gateway(&certificate), Origin::new());
    for _ in 0..10 {
        let position = gateway.log.position();
        let (mut stream, from) = tunnel(&gateway, &certificate, origin.address);
        let mut at_origin = origin.accept();
        stream.write_all(b"question").unwrap();
        at_origin.read_exact(&mut [0; 8]).unwrap();
        at_origin.write_all(b"answer").unwrap();
        at_origin.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the end is announced to the client");
        assert_eq!(answer, "answer");
        stream.sock.shutdown(Shutdown::Write).unwrap();
        // The stream may be truncated, as far as the origin can tell.
        assert_eq!(client::end_of(&at_origin), End::Reset);
        let line = gateway.closing_line(from);
        assert_eq!((line.text("outcome"), line.number("to_client")), ("origin_closed", 6), "{}", line.raw);
        let said = |line: &Line| line.message().starts_with("TLS ended without close_notify");
        assert_eq!(gateway.log.line_from(position, "one line", said).level(), "DEBUG");
    }
    assert_eq!(gateway.log.count(|line| line.message().contains("TLS error in a tunnel")), 0);
    assert_eq!(gateway.log.count(|line| line.message().starts_with("TLS ended without close_notify")), 10);
}

/// For bytes read together with the reset and for bytes read before it.
#[test]
fn a_reset_comes_behind_the_bytes_before_it() {
    let Some(certificate) = Certificate::make() else { return };
    let (gateway, origin) = (gateway(&certificate), Origin::new());
    for length in [1_000, 30_000] {
        let (mut stream, from) = tunnel(&gateway, &certificate, origin.address);
        let at_origin = origin.accept();
        gateway.signal(Signal::STOP);
        stream.write_all(&Noise::new(6).take(length)).unwrap();
        client::reset(&stream.sock);
        gateway.signal(Signal::CONT);
        assert_eq!(Noise::new(6).expect(&at_origin), (length, End::Reset));
        let line = gateway.closing_line(from);
        assert_eq!((line.text("outcome"), line.number("to_origin")), ("client_reset", length as u64), "{}", line.raw);
    }
}

#[test]
fn what_is_no_tls_is_told_by_an_alert() {
    let Some(certificate) = Certificate::make() else { return };
    let arguments = ["--no-auth", "--handshake-timeout", "300ms"];
    let gateway = certificate.shown_by(Setup::new(&arguments)).debug().start();
    let secure = gateway.secure.unwrap();
    let hello = [22, 3, 1, 0, 50, 1, 0, 0, 46, 3, 3];
    for (bytes, detail) in [
        (&b"connect h:443 HTTP/1.1\r\n\r\n"[..], "TLS: "),
        (&[0x16, 3, 1, 0, 4, 2, 0, 0, 0][..], "TLS: "),
        (&hello[..], "TLS handshake not complete within 300ms (--handshake-timeout)"),
    ] {
        let mut stream = dial(secure);
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("a clean end");
        // An alert record, or nothing.
        assert!(answer.is_empty() || answer[0] == 21 && answer.len() == 7, "{answer:?}");
        assert_eq!(answer.is_empty(), detail.starts_with("TLS handshake"), "{answer:?}");
        let line = gateway.refusal_line(stream.local_addr().unwrap());
        assert!(line.text("reason") == "tls_failed" && line.text("detail").contains(detail), "{}", line.raw);
    }
    assert_eq!(gateway.metric(&CONNECT_REQUESTS, &["none", "tls_failed"]), 3);
    // After a PROXY header too.
    let believing = certificate.shown_by(Setup::new(&arguments)).args(["--proxy-protocol-from", "127.0.0.0/8"]).start();
    let mut stream = dial(believing.secure.unwrap());
    stream.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 3129\r\nconnect h:443 HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("a clean end");
    assert!(answer.len() == 7 && answer[0] == 21, "{answer:?}");
    assert_eq!(believing.refusal_line("192.0.2.1:4711".parse().unwrap()).text("reason"), "tls_failed");
    // A port check is not a failure.
    let probe = dial(secure);
    let from = probe.local_addr().unwrap();
    drop(probe);
    let line = gateway.refusal_line(from);
    assert_eq!((line.text("reason"), line.level()), ("client_gone", "DEBUG"), "{}", line.raw);
    // Other protocols are named in a plaintext answer.
    for (bytes, reason) in [
        (&b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n"[..], "proxy_header"),
        (b"\x05\x01\0", "socks"),
        (b"SSH-2.0-x\r\n", "malformed"),
    ] {
        let (from, answer) = client::ask(secure, bytes);
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request: "), "{answer}");
        assert_eq!(gateway.refusal_line(from).text("reason"), reason);
    }
    // TLS on a plain port is named too.
    let (_, answer) = client::ask(gateway.address, &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]);
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request: TLS on a plain port"), "{answer}");
    // The gateway refuses itself as a target, through every listener.
    let (_, answer) = client::ask(gateway.address, request(secure, None).as_bytes());
    assert!(answer.contains("is a listener of this gateway"), "{answer}");
}

#[test]
fn what_is_wrong_with_the_files_is_said() {
    let Some(certificate) = Certificate::make() else { return };
    let Some(other) = Certificate::make() else { return };
    let text = |path: std::path::PathBuf| path.to_str().expect("a plain path").to_owned();
    let (own, key, others) = (text(certificate.path()), text(certificate.key()), text(other.key()));
    let listen = ["--listen-tls", "127.0.0.1:0"];
    for (arguments, said) in [
        (vec!["--tls-cert", &own], "--tls-cert and --tls-key need --listen-tls"),
        ([&listen[..], &["--tls-key", &key]].concat(), "--listen-tls has no certificate; add --tls-cert FILE"),
        ([&listen[..], &["--tls-cert", &own]].concat(), "--listen-tls has no key; add --tls-key FILE"),
        ([&listen[..], &["--tls-cert", "/nowhere", "--tls-key", &key]].concat(), "--tls-cert /nowhere: cannot be read"),
        ([&listen[..], &["--tls-cert", &key, "--tls-key", &key]].concat(), "contains no certificate; write the"),
        ([&listen[..], &["--tls-cert", &own, "--tls-key", &own]].concat(), "contains no key; write the key"),
        ([&listen[..], &["--tls-cert", &own, "--tls-key", &others]].concat(), "does not match --tls-cert"),
    ] {
        let outcome = sluicegate(&[&["check", "--no-auth"][..], &arguments].concat(), &[]);
        assert!(outcome.code == Some(2) && outcome.err.contains(said), "{arguments:?}: {outcome:?}");
    }
    let good = [&["check", "--no-auth"][..], &listen, &["--tls-cert", &own, "--tls-key", &key]].concat();
    let outcome = sluicegate(&good, &[]);
    // No plain listener.
    assert!(outcome.code == Some(0) && outcome.out.contains(" tunnels, listening on 127.0.0.1:0."), "{outcome:?}");
}

#[test]
fn a_certificate_that_has_expired_is_told_of() {
    let (expired, key) = (testdata("expired.pem"), testdata("key.pem"));
    let says = "expired.pem has expired at 2025-01-01T00:00:00Z: clients refuse it; replace the file";
    let shown = ["--listen-tls", "127.0.0.1:0", "--tls-key", &key, "--tls-cert"];
    let outcome = sluicegate(&[&["check", "--no-auth"], &shown[..], &[&expired]].concat(), &[]);
    assert!(outcome.code == Some(0) && outcome.err.contains(says), "{outcome:?}");

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shown.pem");
    let put = |name: &str| replace(&path, &fs::read_to_string(testdata(name)).unwrap());
    put("expired.pem");
    let gateway = Setup::new(&[]).args(shown).args([path.to_str().unwrap()]).user(USER).debug().start();
    let told = |line: &Line| line.message().contains("shown.pem has expired at 2025-01-01T00:00:00Z");
    gateway.log.line_from(0, "expired", told);
    let until = |seconds| gateway.wait_for_metric(&CERTIFICATE_EXPIRY, &[], seconds);
    until(1_735_689_600);
    // A valid certificate causes no warning, and the first one is reported again on its return.
    let position = gateway.log.position();
    put("certificate.pem");
    let read = gateway.log.line_from(position, "re-read", |line| line.message() == "certificate reloaded");
    assert_eq!(read.text("until"), "2126-11-03T00:15:39Z", "{}", read.raw);
    assert!(read.text("names").contains("localhost"), "{}", read.raw);
    until(4_949_338_539);
    assert_eq!(gateway.log.count(told), 1);
    put("expired.pem");
    gateway.log.line_from(position, "expired", told);
    assert_eq!(gateway.log.count(told), 2);
}

/// TLS with the client, with the parent, and with both.
#[test]
fn parents_by_tls() {
    let Some(certificate) = Certificate::make() else { return };
    let origin = Origin::echo();
    let last = gateway(&certificate);
    let port = last.secure.unwrap().port();
    let trusted = certificate.path().to_str().unwrap().to_owned();
    for host in ["localhost", "127.0.0.1"] {
        let parent = format!("https://mover:s3cret@{host}:{port}");
        let setup = Setup::new(&["--parent", &parent, "--parent-ca", &trusted, "--allow", "*:*"]);
        let first = certificate.shown_by(setup).user(USER).start();
        let plain = connect_as(first.address, origin.address, USER);
        client::echoes(&plain, 3_000_000);
        let from = plain.local_addr().unwrap();
        client::hang_up(&plain);
        let line = first.closing_line(from);
        assert_eq!((line.text("engine"), line.text("outcome")), ("copy", "client_closed"), "{}", line.raw);
        assert_eq!((line.number("to_origin"), line.number("to_client")), (3_000_000, 3_000_000), "{}", line.raw);
        let (mut secure, _) = tunnel(&first, &certificate, origin.address);
        secure.write_all(b"by TLS on both legs").unwrap();
        let mut back = [0; 19];
        secure.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"by TLS on both legs");
        assert_eq!(first.metric(&PARENT_REQUESTS, &[&format!("{host}:{port}"), "established"]), 2);
    }
}

/// HAProxy speaks TLS for a client and sends its address by the PROXY protocol; another HAProxy
/// speaks TLS for the parent.
#[test]
fn between_two_haproxies() {
    let Some(certificate) = Certificate::make() else { return };
    let Some(haproxies) = Haproxies::new() else { return };
    let both = certificate.path().with_extension("both");
    fs::write(&both, [fs::read(certificate.path()).unwrap(), fs::read(certificate.key()).unwrap()].concat()).unwrap();
    let origin = Origin::new();
    let last = Setup::new(&[]).user(USER).start();
    let (_behind, behind) = haproxies.start("behind", |port| {
        let (both, last) = (both.display(), last.address);
        format!("listen behind\n  mode tcp\n  bind 127.0.0.1:{port} ssl crt {both}\n  server last {last}\n")
    });
    let parent = format!("https://mover:s3cret@localhost:{behind}");
    let trusted = certificate.path();
    let trusted = trusted.to_str().unwrap();
    let arguments = ["--parent", &parent, "--parent-ca", trusted, "--proxy-protocol-from", "127.0.0.0/8"];
    let gateway = certificate.shown_by(Setup::new(&arguments)).args(["--allow", "*:*"]).user(USER).start();
    let secure = gateway.secure.unwrap();
    let (_before, before) = haproxies.start("before", |port| {
        let server =
            format!("server gateway {secure} ssl verify required ca-file {trusted} sni str(localhost) send-proxy");
        format!("listen before\n  mode tcp\n  bind 127.0.0.1:{port}\n  {server}\n")
    });
    let client = connect_as(SocketAddr::from(([127, 0, 0, 1], before)), origin.address, USER);
    let at_origin = origin.accept();
    let bytes = 20 << 20;
    std::thread::scope(|scope| {
        for (seed, from, to) in [(1, &client, &at_origin), (2, &at_origin, &client)] {
            scope.spawn(move || {
                Noise::new(seed).send(from, bytes);
                from.shutdown(Shutdown::Write).expect("an open stream");
            });
            scope.spawn(move || assert_eq!(Noise::new(seed).expect(to), (bytes, End::Clean)));
        }
    });
    let line = gateway.closing_line(client.local_addr().unwrap());
    let counts = (line.number("to_origin"), line.number("to_client"));
    assert_eq!(counts, (bytes as u64, bytes as u64), "{}", line.raw);
    assert_eq!((line.text("tls"), line.text("engine")), ("TLSv1.3", "copy"), "{}", line.raw);
}

#[test]
fn a_parent_has_to_be_who_it_is() {
    let Some(certificate) = Certificate::make() else { return };
    let Some(other) = Certificate::make() else { return };
    let last = gateway(&certificate);
    let port = last.secure.unwrap().port();
    let (trusted, others) = (certificate.path(), other.path());
    let renamed = Certificate::make().unwrap();
    renamed.renew("another.example");
    let elsewhere = gateway(&renamed);
    let another = elsewhere.secure.unwrap().port();
    // The certificate `openssl req -x509` makes by default.
    let authority = Certificate::make().unwrap();
    authority.renew_as("localhost", "CA:TRUE");
    let of_authority = gateway(&authority);
    let careless = of_authority.secure.unwrap().port();
    let unknown = "the certificate is not signed by a trusted CA; name its CA with --parent-ca";
    let unfit = "a CA certificate does not identify a server: use one with basicConstraints=CA:FALSE";
    for (parent, trusts, said) in [
        (format!("https://localhost:{port}"), &others, unknown),
        (format!("https://localhost:{another}"), &renamed.path(), "not valid for name"),
        (format!("https://localhost:{careless}"), &authority.path(), unfit),
        // A parent without TLS.
        (format!("https://localhost:{}", last.address.port()), &trusted, "received corrupt message"),
    ] {
        let gateway = Gateway::open(&["--parent", &parent, "--parent-ca", trusts.to_str().unwrap()]);
        let (from, answer) = client::ask(gateway.address, request("127.0.0.1:1", None).as_bytes());
        let head = "HTTP/1.1 502 Bad Gateway: TLS handshake with the parent proxy localhost";
        assert!(answer.starts_with(head) && answer.contains(said), "{parent}: {answer}");
        assert_eq!(gateway.refusal_line(from).text("reason"), "parent_tls");
        let label = parent.trim_start_matches("https://").to_owned();
        assert_eq!(gateway.metric(&PARENT_REQUESTS, &[&label, "parent_tls"]), 1);
    }
    for (arguments, said) in [
        (["--parent", "https://localhost:1", "--parent-ca", "/nowhere"], "--parent-ca /nowhere: "),
        (["--parent", "http://localhost:1", "--parent-ca", "/nowhere"], "--parent-ca needs an https:// parent"),
    ] {
        let outcome = sluicegate(&[&["check", "--no-auth"][..], &arguments].concat(), &[]);
        assert!(outcome.code == Some(2) && outcome.err.contains(said), "{outcome:?}");
    }
    // The system's trusted certificates, if the gateway has no others configured.
    let gateway = Setup::new(&["--no-auth", "--parent", &format!("https://localhost:{port}")]);
    let gateway = gateway.variable("SSL_CERT_FILE", trusted.to_str().unwrap()).start();
    let (_, answer) = client::ask(gateway.address, request("127.0.0.1:1", None).as_bytes());
    assert!(answer.contains("answered 407 "), "{answer}");
}
