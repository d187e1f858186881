//! Requests of well-known clients, byte for byte.

use std::io::Write;

use crate::support::client::{ESTABLISHED, basic, dial, read_head};
use crate::support::{Origin, Setup, client};

const USER: &str = "mover:s3cret:with:@/%\u{fc}";

/// stunnel with `protocol = connect`: unsolicited credentials, the scheme in lower case, each line
/// in its own segment.
#[test]
fn stunnel() {
    let gateway = Setup::new(&[]).user(USER).start();
    let origin = Origin::echo();
    let mut stream = dial(gateway.address);
    stream.set_nodelay(true).unwrap();
    for line in [
        format!("CONNECT {} HTTP/1.1\r\n", origin.address),
        format!("Host: {}\r\n", origin.address),
        format!("Proxy-Authorization: {}\r\n", basic(USER).replace("Basic", "basic")),
        "\r\n".to_owned(),
    ] {
        stream.write_all(line.as_bytes()).unwrap();
        client::arrives(&stream);
    }
    assert_eq!(read_head(&stream), ESTABLISHED);
    client::echoes(&stream, 100_000);
    let tunnels = gateway.tunnels();
    assert_eq!((tunnels.len(), &tunnels[0]["user"]), (1, &"mover".into()));
}

/// rsync with `RSYNC_PROXY`: HTTP/1.0 without Host.
#[test]
fn rsync() {
    let gateway = Setup::new(&[]).user(USER).start();
    let origin = Origin::echo();
    let head = format!("CONNECT {} HTTP/1.0\r\nProxy-Authorization: {}\r\n\r\n", origin.address, basic(USER));
    client::echoes(&client::established(gateway.address, &head, b""), 100_000);
}

/// corkscrew ends its request line with LF alone; other clients use the line ends of `printf`, or a
/// future minor version.
#[test]
fn lines_that_end_in_lf_and_versions_above_1_1() {
    let gateway = Setup::new(&[]).user(USER).start();
    let origin = Origin::echo();
    let (target, credentials) = (origin.address, basic(USER));
    for head in [
        format!("CONNECT {target} HTTP/1.0\nProxy-Authorization: {credentials}\r\n\r\n"),
        format!("CONNECT {target} HTTP/1.0\nProxy-Authorization: {credentials}\n\n"),
        format!("CONNECT {target} HTTP/1.2\r\nProxy-Authorization: {credentials}\r\n\r\n"),
        format!("CONNECT {target} HTTP/1.9\r\nProxy-Authorization: {credentials}\r\n\r\n"),
    ] {
        // Bytes after the head belong to the tunnel, whatever they are.
        let mut stream = client::established(gateway.address, &head, b"\n\r\nPOST ");
        let mut back = [0; 8];
        std::io::Read::read_exact(&mut stream, &mut back).unwrap();
        assert_eq!(&back, b"\n\r\nPOST ", "{head:?}");
        client::echoes(&stream, 10_000);
    }
}

/// client-go, as used by kubectl and the migration controller.
#[test]
fn client_go() {
    let gateway = Setup::new(&[]).user(USER).start();
    let origin = Origin::echo();
    let head = format!(
        "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\nUser-Agent: Go-http-client/1.1\r\nProxy-Authorization: {1}\r\n\r\n",
        origin.address,
        basic(USER)
    );
    client::echoes(&client::established(gateway.address, &head, b""), 100_000);
}

/// All volumes of a migration at once, each with a port check first.
#[test]
fn a_burst() {
    const VOLUMES: usize = 200;
    let gateway = Setup::new(&[]).user(USER).start();
    let origin = Origin::echo();
    let checks: Vec<_> = (0..VOLUMES).map(|_| client::connect_as(gateway.address, origin.address, USER)).collect();
    checks.iter().for_each(client::hang_up);
    let volumes: Vec<_> = (0..VOLUMES).map(|_| client::connect_as(gateway.address, origin.address, USER)).collect();
    volumes.iter().for_each(|volume| client::echoes(volume, 1_000));
    let closed = |line: &crate::support::log::Line| line.message() == "tunnel closed";
    volumes.iter().for_each(client::hang_up);
    volumes.iter().for_each(|volume| drop(gateway.closing_line(volume.local_addr().unwrap())));
    // A tunnel without a byte is not logged at the default level.
    assert_eq!(gateway.log.count(closed), VOLUMES);
}
