//! However the bytes come, and however much is asked for: what was put in comes out, and then the end.

use std::collections::VecDeque;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

/// A certificate for localhost that is good for a hundred years, and known to nobody else.
fn file(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tls/testdata")).join(name)
}

/// A socket in memory, which gives and takes so many bytes at a time.
#[derive(Default)]
struct Wire {
    bytes: VecDeque<u8>,
    piece: usize,
    /// The other side has closed it.
    ended: bool,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.bytes.len().min(self.piece).min(buffer.len());
        match length {
            0 if self.ended => Ok(0),
            0 => Err(ErrorKind::WouldBlock.into()),
            _ => {
                let front: Vec<u8> = self.bytes.drain(..length).collect();
                buffer[..length].copy_from_slice(&front);
                Ok(length)
            }
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(self.piece);
        self.bytes.extend(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Two sides that have agreed, by bytes in such pieces.
fn established(piece: usize) -> [Session; 2] {
    let identity = Identity::load(&file("certificate.pem"), &file("key.pem")).unwrap();
    let trust = Trust::of_file(&file("certificate.pem")).unwrap();
    let sides = [trust.session(server_name(Err("localhost")).unwrap()).unwrap(), identity.session().unwrap()];
    let mut wire = Wire { piece, ..Wire::default() };
    while sides.iter().any(|side| !side.is_established() || side.wants_write()) {
        for (from, to) in [(0, 1), (1, 0)] {
            sides[from].flush(&mut wire).unwrap();
            while !wire.bytes.is_empty() {
                match sides[to].is_established() {
                    true => drop(sides[to].read(&mut wire, &mut [0; 1])),
                    false => sides[to].advance(&mut wire).unwrap(),
                }
            }
        }
    }
    sides
}

/// Puts all of it into the wire.
fn sent(side: &Session, mut bytes: &[u8]) -> Wire {
    let mut wire = Wire { piece: usize::MAX, ..Wire::default() };
    while !bytes.is_empty() {
        bytes = &bytes[side.put(bytes).unwrap()..];
        side.flush(&mut wire).unwrap();
    }
    wire
}

/// Reads until the end or an error, so much at a time.
fn received(side: &Session, wire: &mut Wire, room: usize) -> (Vec<u8>, io::Result<()>) {
    let (mut all, mut out) = (Vec::new(), vec![0; room]);
    loop {
        match side.read(wire, &mut out) {
            Ok(0) => return (all, Ok(())),
            Ok(bytes) => all.extend_from_slice(&out[..bytes]),
            Err(error) => return (all, Err(error)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn what_is_put_in_comes_out(
        length in 0_usize..200_000,
        piece in prop_oneof![1_usize..40, 1_000_usize..40_000, Just(usize::MAX)],
        room in prop_oneof![1_usize..40, 1_000_usize..300_000],
        announced in any::<bool>(),
        from in 0_usize..2,
    ) {
        let sides = established(piece);
        let bytes: Vec<u8> = (0..length).map(|n| (n * 7 + n / 251) as u8).collect();
        let mut wire = sent(&sides[from], &bytes);
        if announced {
            sides[from].close();
            sides[from].flush(&mut wire).unwrap();
            // Nobody listens to what comes behind the end.
            wire.bytes.extend([23, 3, 3, 0, 1, 0]);
        }
        (wire.piece, wire.ended) = (piece, true);
        let (all, end) = received(&sides[1 - from], &mut wire, room);
        prop_assert!(all == bytes);
        match announced {
            true => prop_assert!(end.is_ok()),
            false => {
                let error = end.unwrap_err();
                prop_assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                prop_assert!(error.to_string().contains("close_notify"), "{}", error);
                // And so it stays.
                prop_assert!(sides[1 - from].is_ready() && received(&sides[1 - from], &mut wire, room).1.is_err());
            }
        }
    }

    #[test]
    fn what_was_changed_on_the_way_is_nothing(length in 1_usize..40_000, at in any::<prop::sample::Index>(), room in 1_usize..70_000) {
        let sides = established(usize::MAX);
        let bytes: Vec<u8> = (0..length).map(|n| (n * 11) as u8).collect();
        let mut wire = sent(&sides[0], &bytes);
        let at = at.index(wire.bytes.len());
        wire.bytes[at] ^= 1;
        let (all, end) = received(&sides[1], &mut wire, room);
        prop_assert!(bytes.starts_with(&all) && all.len() < bytes.len());
        // A length that was changed may leave the peer waiting for the rest.
        let kind = end.unwrap_err().kind();
        prop_assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::WouldBlock), "{:?}", kind);
    }
}

#[test]
fn a_server_that_is_somebody_else_is_not_believed() {
    let identity = Identity::load(&file("certificate.pem"), &file("key.pem")).unwrap();
    let trust = Trust::of_file(&file("certificate.pem")).unwrap();
    let sides = [trust.session(server_name(Err("another.example")).unwrap()).unwrap(), identity.session().unwrap()];
    let mut wire = Wire { piece: usize::MAX, ..Wire::default() };
    sides[0].flush(&mut wire).unwrap();
    sides[1].advance(&mut wire).unwrap();
    sides[1].flush(&mut wire).unwrap();
    let error = sides[0].advance(&mut wire).unwrap_err();
    assert!(error.kind() == ErrorKind::ConnectionReset && error.to_string().contains("certificate"), "{error}");
    assert!(sides[0].wants_write(), "an alert");
    assert!(server_name(Err("not a name")).is_err());
}
