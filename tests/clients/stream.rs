//! Byte streams.

use super::tls::{DOCUMENT, TlsOrigin};
use super::user::{NAME, PASSWORD, command, gateway, gateway_with, succeed, went_through};
use crate::support::Origin;
use crate::support::process::program;

/// Text of many short lines, longer than any buffer.
fn text() -> String {
    (0..20_000).map(|number| format!("line {number} of what is sent and comes back\n")).collect()
}

#[test]
fn ncat() {
    let Some(ncat) = program("ncat", "ncat") else { return };
    let gateway = gateway();
    let origin = Origin::echo();
    let mut relay = command(ncat);
    relay.args(["--proxy-type", "http", "--proxy", &gateway.address.to_string()]);
    relay.args(["--proxy-auth", &format!("{NAME}:{PASSWORD}")]);
    relay.args([origin.address.ip().to_string(), origin.address.port().to_string()]);
    assert_eq!(succeed(relay, text().as_bytes()).out, text());
    went_through(&gateway, origin.address);
}

#[test]
fn socat() {
    // socat 1.7.4 does not base64-encode non-ASCII bytes.
    const PASSWORD: &str = "s3cret:with:@/%";
    let Some(socat) = program("socat", "socat") else { return };
    let gateway = gateway_with(PASSWORD);
    let origin = Origin::echo();
    let directory = tempfile::tempdir().unwrap();
    // A colon separates parts of a socat address; in a file it needs no quoting.
    let credentials = directory.path().join("credentials");
    std::fs::write(&credentials, format!("{NAME}:{PASSWORD}")).unwrap();
    let (proxy, target) = (gateway.address, origin.address);
    let address = format!("PROXY:{}:{target},proxyport={}", proxy.ip(), proxy.port());
    let mut relay = command(socat);
    // -t: seconds to wait for the other direction after the end of one.
    relay.args(["-t", "30", "-", &format!("{address},proxy-authorization-file={}", credentials.display())]);
    assert_eq!(succeed(relay, text().as_bytes()).out, text());
    went_through(&gateway, origin.address);
}

#[test]
fn openssl_s_client() {
    let Some(openssl) = program("openssl", "openssl") else { return };
    let Some(origin) = TlsOrigin::start() else { return };
    let gateway = gateway();
    let mut relay = command(openssl);
    relay.args(["s_client", "-quiet", "-verify_return_error", "-connect", &origin.address.to_string()]);
    relay.args([
        "-proxy",
        &gateway.address.to_string(),
        "-proxy_user",
        NAME,
        "-proxy_pass",
        &format!("pass:{PASSWORD}"),
    ]);
    relay.arg("-CAfile").arg(origin.certificate());
    let outcome = succeed(relay, b"GET /document HTTP/1.0\r\n\r\n");
    assert!(outcome.out.ends_with(DOCUMENT), "{outcome:?}");
    went_through(&gateway, origin.address);
}
