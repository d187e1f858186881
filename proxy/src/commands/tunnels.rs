//! `sluicegate tunnels`: the live tunnels of a running gateway, as a table or as JSON.

use std::fmt::Write;

use clap::Args;
use hyper::body::Bytes;
use hyper::{Method, StatusCode};

use super::endpoint::{ControlOption, admin_address, refused};
use crate::account::{TunnelView, sanitize};
use crate::admin::client::{Endpoint, ask};

/// The options of `tunnels`.
#[derive(Args, Debug)]
pub struct Tunnels {
    /// Print JSON, as of /api/tunnels, instead of a table
    #[arg(long)]
    pub json: bool,
    /// The gateway's control socket.
    #[command(flatten)]
    pub control: ControlOption,
    /// Ask the gateway's admin address instead of its control socket
    #[arg(long, value_name = "ADDR:PORT", value_parser = admin_address)]
    pub admin: Option<String>,
}

impl Tunnels {
    /// Asks the gateway; the text to print.
    ///
    /// # Errors
    /// The reason why there is no answer, for the user.
    pub async fn run(&self) -> Result<String, String> {
        let endpoint = match &self.admin {
            Some(admin) => Endpoint::Admin(admin.clone()),
            None => self.control.endpoint()?,
        };
        let (status, body) = ask(&endpoint, Method::GET, "/api/tunnels", Bytes::new()).await?;
        if status != StatusCode::OK {
            return Err(refused(&endpoint, status, &body));
        }
        let tunnels: Vec<TunnelView> = serde_json::from_slice(&body).map_err(|error| {
            format!("{endpoint} sent an answer that is not a list of tunnels ({error}); is it a gateway?")
        })?;
        if self.json { Ok(format!("{}\n", String::from_utf8_lossy(&body))) } else { Ok(table(&tunnels)) }
    }
}

/// Number of columns.
const COLUMNS: usize = 11;

const HEAD: [&str; COLUMNS] =
    ["ID", "USER", "CLIENT", "TARGET", "ORIGIN", "ENGINE", "HELD TO", "AGE", "QUIET", "TO ORIGIN", "TO CLIENT"];
/// Columns of figures, aligned to the right.
const FIGURES: [bool; COLUMNS] = [true, false, false, false, false, false, true, true, true, true, true];

fn table(tunnels: &[TunnelView]) -> String {
    let rows: Vec<_> = std::iter::once(HEAD.map(str::to_owned)).chain(tunnels.iter().map(row)).collect();
    let widths: [usize; COLUMNS] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<_> = std::iter::zip(row, widths)
            .zip(FIGURES)
            .map(|((cell, width), figure)| if figure { format!("{cell:>width$}") } else { format!("{cell:<width$}") })
            .collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

fn row(tunnel: &TunnelView) -> [String; COLUMNS] {
    let via = tunnel.parent.as_deref().map(|parent| format!("via {}", sanitize(parent)));
    [
        tunnel.id.to_string(),
        tunnel.user.as_deref().map_or("-".into(), sanitize).into_owned(),
        tunnel.client.to_string(),
        sanitize(&tunnel.target).into_owned(),
        via.unwrap_or_else(|| tunnel.origin.to_string()),
        sanitize(&tunnel.engine).into_owned(),
        tunnel.rate.map_or("-".into(), |rate| format!("{}/s", bytes(rate.bytes()))),
        time(tunnel.age_seconds),
        time(tunnel.quiet_seconds),
        bytes(tunnel.bytes_to_origin),
        bytes(tunnel.bytes_to_client),
    ]
}

/// Formats seconds in the two largest units.
fn time(seconds: f64) -> String {
    let seconds = seconds as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Bytes in the largest binary unit below them, to three digits or so.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut scaled = count as f64;
    let mut unit = "B";
    for next in UNITS {
        // A value rounded up to 1024 belongs to the next unit.
        if scaled.round() < 1_024.0 {
            break;
        }
        scaled /= 1_024.0;
        unit = next;
    }
    if unit == "B" || scaled >= 99.95 { format!("{scaled:.0} {unit}") } else { format!("{scaled:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use std::path::Path;
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    use clap::Parser;
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::watch;
    use tokio::task::JoinSet;

    use crate::account::{Account, Limits, Registry};
    use crate::admin::{self, Access, Admin, ControlSocket, Listener};
    use crate::commands::kill::Kill;
    use crate::rate::Rate;
    use crate::reason::Reason;
    use crate::target::Target;
    use crate::tunnel::{Command, Direction, Flow};

    fn by_socket(path: &Path) -> ControlOption {
        ControlOption { control: Some(path.to_owned()) }
    }

    fn by_address(admin: &impl ToString) -> Tunnels {
        Tunnels { json: false, control: ControlOption::default(), admin: Some(admin.to_string()) }
    }

    /// A gateway serving `registry`.
    struct Asked {
        address: SocketAddr,
        directory: TempDir,
        _stop: watch::Sender<bool>,
        _servers: JoinSet<()>,
    }

    impl Asked {
        async fn new(registry: &Arc<Registry>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let directory = tempfile::tempdir().unwrap();
            let (control, file) =
                ControlSocket::bind(&directory.path().join("control.sock")).unwrap().into_parts().unwrap();
            let (stop, stopping) = watch::channel(false);
            let admin = Admin::new(Arc::clone(registry), Arc::default(), admin::build().handle());
            let mut servers = JoinSet::new();
            servers.spawn(admin.clone().run(Listener::Tcp(listener, Access::Read), stopping.clone()));
            servers.spawn(async move {
                let _file = file;
                admin.run(Listener::Control(control), stopping).await;
            });
            Self { address, directory, _stop: stop, _servers: servers }
        }

        fn control(&self) -> ControlOption {
            by_socket(&self.directory.path().join("control.sock"))
        }
    }

    fn registry() -> Arc<Registry> {
        Registry::new(Limits { tunnels: 9, per_user: None, per_source: None, ..Limits::default() })
    }

    fn tunnel(registry: &Arc<Registry>, flow: &Arc<Flow>) -> Account {
        let mut account = registry.accepted("192.0.2.7:40000".parse().unwrap());
        account.set_user(Some("ann".into()));
        account.set_target(&Target::from("198.51.100.1:443".parse::<SocketAddr>().unwrap()));
        account.established("198.51.100.1:443".parse().unwrap(), "splice", Arc::clone(flow));
        account
    }

    #[tokio::test]
    async fn the_commands_show_and_end_a_tunnel() {
        let registry = registry();
        let gateway = Asked::new(&registry).await;
        let (flow, told) = (Arc::new(Flow::default()), Arc::new(Mutex::new(None)));
        let engine = Arc::clone(&told);
        flow.attach_control(move |command| *engine.lock().unwrap() = Some(command));
        let account = tunnel(&registry, &flow);
        flow.add(Direction::ToClient, 3 << 20, Instant::now());

        let by_control = Tunnels { json: false, control: gateway.control(), admin: None };
        for tunnels in [by_control, by_address(&gateway.address)] {
            let shown = tunnels.run().await.unwrap();
            assert_eq!(shown.lines().count(), 2, "{shown}");
            assert!(
                shown.lines().nth(1).is_some_and(|line| line.contains("  ann  ") && line.ends_with(" 3.0 MiB")),
                "{shown}"
            );
        }
        let json = Tunnels { json: true, control: gateway.control(), admin: None }.run().await.unwrap();
        let views: Vec<TunnelView> = serde_json::from_str(&json).unwrap();
        assert_eq!((views.len(), views[0].bytes_to_client), (1, 3 << 20));

        let kill = |ids: &[u64]| Kill { ids: ids.to_vec(), control: gateway.control() };
        let (ended, missing) = kill(&[98, 99]).run().await;
        let missing = missing.unwrap_err();
        assert_eq!(ended, "");
        let [first, second] = missing.lines().collect::<Vec<_>>()[..] else { panic!("{missing}") };
        assert!(first.starts_with("no tunnel 98 is open on /"), "{missing}");
        assert!(second.starts_with("no tunnel 99 ") && second.ends_with("lists the open ones"), "{missing}");
        assert_eq!(*told.lock().unwrap(), None);
        assert_eq!(kill(&[account.id()]).run().await, ("ended tunnel 1\n".to_owned(), Ok(())));
        assert_eq!(*told.lock().unwrap(), Some(Command::Stop(Reason::Killed)));
        let (ended, both) = kill(&[99, account.id()]).run().await;
        let both = both.unwrap_err();
        assert!(ended == "ended tunnel 1\n" && both.starts_with("no tunnel 99 is open"), "{ended} {both}");
        drop(account);
    }

    /// The client resolves the name in --admin, so the guard against foreign pages sees an address.
    #[tokio::test]
    async fn a_gateway_may_be_named() {
        let gateway = Asked::new(&registry()).await;
        let shown = by_address(&format!("localhost:{}", gateway.address.port())).run().await.unwrap();
        assert_eq!(shown.lines().count(), 1, "{shown}");
    }

    #[tokio::test]
    async fn what_does_not_answer_is_explained() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = by_address(&address).run().await.unwrap_err();
        assert!(error.starts_with(&format!("no gateway answers on {address}: ")), "{error}");
        assert!(error.ends_with("is it running? name its address with --admin"), "{error}");
        let error = by_address(&"9128").run().await.unwrap_err();
        assert!(error.contains("no gateway answers on 9128: "), "{error}");

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let kill = || async { Kill { ids: vec![1], control: by_socket(&path) }.run().await.1.unwrap_err() };
        let missing = kill().await;
        assert!(missing.starts_with(&format!("no control socket at {}: ", path.display())), "{missing}");
        assert!(missing.contains("as this user") && missing.ends_with("with --control PATH"), "{missing}");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let dead = kill().await;
        assert!(dead.contains("the gateway that made it has ended"), "{dead}");
    }

    #[tokio::test]
    async fn what_is_no_gateway_is_told_apart() {
        for (answer, expected) in [
            ("", "did not answer"),
            ("SSH-2.0-OpenSSH_9.2\r\n", "did not answer"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", "not a list of tunnels"),
            ("HTTP/1.1 502 x\r\ncontent-length: 9\r\n\r\n\u{1b}[2Jdown\n", "502 Bad Gateway: \u{fffd}[2Jdown"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let asks = by_address(&listener.local_addr().unwrap());
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "the request is cut off");
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                stream
            };
            let (asked, _stream) = tokio::join!(asks.run(), serve);
            let error = asked.unwrap_err();
            assert!(error.contains(expected), "{answer:?}: {error}");
        }
    }

    #[test]
    fn the_table_is_aligned_and_safe_to_print() {
        let view = |id, user: Option<&str>, bytes| TunnelView {
            id,
            client: "192.0.2.7:40000".parse().unwrap(),
            user: user.map(str::to_owned),
            tls: None,
            upgrade: None,
            parent: None,
            target: "db.example:443".into(),
            origin: "198.51.100.1:443".parse().unwrap(),
            rate: None,
            engine: "splice".into(),
            age_seconds: 93_784.2,
            quiet_seconds: 0.3,
            bytes_to_origin: bytes,
            bytes_to_client: 12,
        };
        let paced = TunnelView {
            rate: Rate::new(125_000_000).ok(),
            parent: Some("proxy.example:3128".into()),
            ..view(1_234, None, 0)
        };
        let text = table(&[view(7, Some("z\u{fc}\u{1b}[2J"), 1 << 40), paced]);
        let expected = "  \
  ID  USER    CLIENT           TARGET          ORIGIN                  ENGINE    HELD TO     AGE  QUIET  TO ORIGIN  TO CLIENT
   7  z\u{fc}\u{fffd}[2J  192.0.2.7:40000  db.example:443  198.51.100.1:443        splice          -  1d 02h     0s    1.0 TiB       12 B
1234  -       192.0.2.7:40000  db.example:443  via proxy.example:3128  splice  119 MiB/s  1d 02h     0s        0 B       12 B
";
        assert_eq!(text, expected);
    }

    #[test]
    fn sizes_and_times_read_well() {
        for (count, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (150 << 20, "150 MiB"),
            (102_349, "100 KiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        for (seconds, text) in [(0.0, "0s"), (59.9, "59s"), (61.0, "1m 01s"), (7_260.0, "2h 01m"), (f64::NAN, "0s")] {
            assert_eq!(time(seconds), text);
        }
    }

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        tunnels: Tunnels,
    }

    #[test]
    fn the_control_socket_is_asked_unless_an_address_is_named() {
        let parsed = |line: &[&str]| Line::try_parse_from(line).unwrap().tunnels;
        let default = parsed(&["x", "--json"]);
        assert_eq!((default.control.control, default.admin), (None, None));
        assert_eq!(parsed(&["x", "--admin", "[::1]:1"]).admin.as_deref(), Some("[::1]:1"));
        assert_eq!(parsed(&["x", "--control", "/a"]).control.control.as_deref(), Some(Path::new("/a")));
    }
}
