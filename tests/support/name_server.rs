//! A DNS server with scripted answers. It records its questions.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};

use super::origin::patient;

/// Answer to one question.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Addresses of the requested family, with a time to live in seconds.
    Addresses(u32, Vec<IpAddr>),
    /// No records of the requested type.
    NoData,
    /// NXDOMAIN.
    NoSuchName,
    /// SERVFAIL.
    Failure,
    /// A truncated answer over UDP; these addresses over TCP.
    Truncated(Vec<IpAddr>),
    /// No answer at all.
    Silence,
}

/// Question: the name without its final dot, and true for an AAAA query.
type Question = (String, bool);

/// A server that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct NameServer {
    asked: Arc<Mutex<Vec<Question>>>,
    _stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// Answers on port 53 of `address`, in the network namespace of the calling thread.
    pub(crate) fn start(address: IpAddr, answer: impl Fn(&str, bool) -> Reply + Send + 'static) -> Self {
        let udp = UdpSocket::bind((address, 53)).expect("port 53 in a network of the test's own");
        let tcp = TcpListener::bind((address, 53)).expect("port 53 in a network of the test's own");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = UnixStream::pair().expect("a pair of sockets");
        let thread = thread::spawn({
            let asked = asked.clone();
            move || {
                serve(&udp, &tcp, &stopped, |query, over_tcp| {
                    let question = question(query)?;
                    asked.lock().expect("no panic").push(question.clone());
                    reply(query, &question, &answer(&question.0, question.1), over_tcp)
                });
            }
        });
        Self { asked, _stop: stop, thread: Some(thread) }
    }

    /// Takes the names asked for so far, each once, and clears the record.
    pub(crate) fn asked(&self) -> Vec<String> {
        let questions = std::mem::take(&mut *self.asked.lock().expect("no panic"));
        questions.into_iter().map(|question| question.0).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Number of questions since the record was last cleared.
    pub(crate) fn count(&self) -> usize {
        self.asked.lock().expect("no panic").len()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = self._stop.shutdown(std::net::Shutdown::Both);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Serves until the other end of `stopped` is shut down.
fn serve(udp: &UdpSocket, tcp: &TcpListener, stopped: &UnixStream, answer: impl Fn(&[u8], bool) -> Option<Vec<u8>>) {
    loop {
        let mut ready =
            [PollFd::new(udp, PollFlags::IN), PollFd::new(tcp, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        poll(&mut ready, None).expect("poll");
        let [on_udp, on_tcp, stop] = ready.map(|ready| !ready.revents().is_empty());
        if stop {
            return;
        }
        if on_udp {
            let mut query = [0; 512];
            if let Ok((length, from)) = udp.recv_from(&mut query)
                && let Some(answer) = answer(&query[..length], false)
            {
                let _ = udp.send_to(&answer, from);
            }
        }
        if on_tcp && let Ok((mut stream, _)) = tcp.accept() {
            patient(&stream);
            // One query per connection is enough for these tests.
            let mut length = [0; 2];
            let mut query = Vec::new();
            let read = stream.read_exact(&mut length).and_then(|()| {
                query.resize(usize::from(u16::from_be_bytes(length)), 0);
                stream.read_exact(&mut query)
            });
            if read.is_ok()
                && let Some(answer) = answer(&query, true)
            {
                let length = u16::try_from(answer.len()).expect("a short answer").to_be_bytes();
                let _ = stream.write_all(&[&length[..], &answer].concat());
            }
        }
    }
}

/// Parses the only question of a query (RFC 1035, 4.1.2).
fn question(query: &[u8]) -> Option<Question> {
    let (mut labels, mut rest) = (Vec::new(), query.get(12..)?);
    loop {
        let (length, behind) = rest.split_first()?;
        if *length == 0 {
            let kind = behind.get(..2)?;
            return Some((labels.join(".").to_lowercase(), kind == [0, 28]));
        }
        let (label, behind) = behind.split_at_checked(usize::from(*length))?;
        labels.push(String::from_utf8_lossy(label).into_owned());
        rest = behind;
    }
}

/// Encodes the answer (RFC 1035, 4.1): the question repeated, no compression except of its name.
fn reply(query: &[u8], question: &Question, reply: &Reply, over_tcp: bool) -> Option<Vec<u8>> {
    let end = 12 + question.0.len() + 2 + 4;
    let (ttl, addresses, code, truncated) = match reply {
        Reply::Addresses(ttl, addresses) => (*ttl, &addresses[..], 0, false),
        Reply::Truncated(addresses) if over_tcp => (60, &addresses[..], 0, false),
        Reply::Truncated(_) => (60, &[][..], 0, true),
        Reply::NoData => (60, &[][..], 0, false),
        Reply::NoSuchName => (60, &[][..], 3, false),
        Reply::Failure => (60, &[][..], 2, false),
        Reply::Silence => return None,
    };
    let addresses: Vec<_> = addresses.iter().filter(|address| address.is_ipv6() == question.1).collect();
    let count = u8::try_from(addresses.len()).ok()?;
    let mut answer = query.get(..2)?.to_vec();
    answer.extend([0x81 | (u8::from(truncated) << 1), 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
    answer.extend(query.get(12..end)?);
    for address in addresses {
        let (kind, bytes) = match address {
            IpAddr::V4(address) => (1, address.octets().to_vec()),
            IpAddr::V6(address) => (28, address.octets().to_vec()),
        };
        answer.extend([0xc0, 12, 0, kind, 0, 1]);
        answer.extend(ttl.to_be_bytes());
        answer.extend([0, u8::try_from(bytes.len()).ok()?]);
        answer.extend(bytes);
    }
    Some(answer)
}
