//! Names of targets: absolute, checked after resolution, and resolved separately for each user.
//!
//! The gateway runs in its own network namespace, with its own `/etc/resolv.conf` and `/etc/hosts`;
//! its name server, clients and origins are at the other end of the link.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use sluicegate::metrics::{CONNECT_REQUESTS, LOOKUPS, LOOKUPS_ACTIVE};
use tempfile::TempDir;

use crate::support::binary::{BINARY, in_clean_environment};
use crate::support::client::{ESTABLISHED, ask, dial, read_head, request};
use crate::support::name_server::{NameServer, Reply};
use crate::support::network::Network;
use crate::support::origin::{Serving, echo};
use crate::support::process::{raise_descriptor_limit, run};
use crate::support::stranger::Stranger;
use crate::support::{Gateway, Origin, Setup, eventually};

/// A search list the gateway must not use, and a name server at the other end.
const RESOLV_CONF: &str = "nameserver 192.0.2.1\nsearch secret.corp example\noptions ndots:5\n";

/// The clients' end, in the network of the test.
struct Scene<'a> {
    network: &'a Network,
    files: TempDir,
    origin: Serving,
}

/// Plays a scene at the clients' end.
fn scene(play: impl FnOnce(&Scene) + Send) {
    let Some(network) = Network::new() else { return };
    network.run(|| {
        let origin = Origin::at(network.outside()).serve(|stream| drop(echo(&stream)));
        let scene = Scene { network: &network, files: tempfile::tempdir().expect("a directory"), origin };
        scene.write(RESOLV_CONF, "127.0.0.1 localhost\n192.0.2.1 listed\n");
        play(&scene);
    });
}

impl Scene<'_> {
    fn paths(&self) -> [PathBuf; 2] {
        ["resolv.conf", "hosts"].map(|name| self.files.path().join(name))
    }

    fn write(&self, resolv_conf: &str, hosts: &str) {
        let [resolv_file, hosts_file] = self.paths();
        std::fs::write(resolv_file, resolv_conf).expect("a file");
        std::fs::write(hosts_file, hosts).expect("a file");
    }

    fn wrapper(&self) -> Vec<String> {
        let [resolv, hosts] = self.paths();
        self.network.wrapper(&[(&resolv, "/etc/resolv.conf"), (&hosts, "/etc/hosts")])
    }

    fn setup(&self, arguments: &[&str]) -> Setup {
        let wrapper = self.wrapper();
        let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
        self.network.setup(arguments).under(&wrapper)
    }

    /// An open gateway without restrictions on targets.
    fn open(&self, arguments: &[&str]) -> Gateway {
        self.setup(&["--no-auth", "--allow", "*:*"]).args(arguments.iter().copied()).start()
    }

    /// Status line, without the version, for the origin's port on this host.
    fn status(&self, gateway: &Gateway, host: &str) -> String {
        self.status_of(&dial(gateway.address), host)
    }

    fn status_of(&self, mut client: &TcpStream, host: &str) -> String {
        let target = format!("{host}:{}", self.origin.address.port());
        client.write_all(request(target, None).as_bytes()).expect("the gateway reads");
        read_head(client).lines().next().unwrap_or_default().trim_start_matches("HTTP/1.1 ").to_owned()
    }

    fn here(&self) -> Vec<IpAddr> {
        vec![self.network.outside()]
    }

    fn name_server(&self, answer: impl Fn(&str, bool) -> Reply + Send + 'static) -> NameServer {
        NameServer::start(self.network.outside(), answer)
    }
}

const OK: &str = "200 Connection established";

/// Answers with these addresses for these names, and with NXDOMAIN for any other.
fn only(names: &'static [&str], addresses: Vec<IpAddr>) -> impl Fn(&str, bool) -> Reply + Send + 'static {
    move |name, _| match names.contains(&name) {
        true => Reply::Addresses(60, addresses.clone()),
        false => Reply::NoSuchName,
    }
}

#[test]
fn a_label_may_start_with_a_hyphen_or_an_underscore() {
    scene(|scene| {
        let _server = scene.name_server(only(&["-a.example", "_b.-.example"], scene.here()));
        let gateway = scene.open(&[]);
        for name in ["-a.example", "_b.-.example"] {
            assert_eq!(scene.status(&gateway, name), OK, "{name}");
        }
    });
}

#[test]
fn a_name_is_absolute_whatever_the_search_list_says() {
    scene(|scene| {
        let known = &["api.example", "db.secret.corp", "api.example.secret.corp", "api.example.example"];
        for resolver in ["dns", "system"] {
            let server = scene.name_server(only(known, scene.here()));
            let gateway = scene.open(&["--deny", "*.secret.corp:*", "--resolver", resolver]);
            for name in ["api.example.", "API.Example", "api.example"] {
                assert_eq!(scene.status(&gateway, name), OK, "{resolver}");
            }
            assert_eq!(server.asked(), ["api.example"], "{resolver}");
            for name in ["db", "db."] {
                let said = scene.status(&gateway, name);
                assert!(said.starts_with("502 Bad Gateway: db does not resolve: "), "{resolver}: {said}");
            }
            assert_eq!(server.asked(), ["db"], "{resolver}");
            let said = scene.status(&gateway, "db.secret.corp.");
            assert!(said.starts_with("403 Forbidden: denied by rule --deny *.secret.corp:*"), "{resolver}: {said}");
            // The hosts file applies, also to names without a dot, and localhost is this host.
            assert_eq!(scene.status(&gateway, "listed"), OK, "{resolver}");
            let said = scene.status(&gateway, "a.localhost");
            assert!(said.contains("is loopback: needs a rule that names it"), "{resolver}: {said}");
            assert_eq!(server.count(), 0, "{resolver}");
        }
    });
}

#[test]
fn a_search_domain_completes_a_name_before_the_rules_see_it() {
    scene(|scene| {
        let server = scene.name_server(|name, is_ipv6| match name {
            "db.b.corp" if !is_ipv6 => Reply::Addresses(60, vec![[192, 0, 2, 1].into()]),
            "db.b.corp" => Reply::NoData,
            "broken.a.corp" => Reply::Failure,
            _ => Reply::NoSuchName,
        });
        let search = ["--search-domain", "a.corp", "--search-domain", "b.corp", "--deny", "secret.a.corp:*"];
        let gateway = scene.open(&search);
        let client = dial(gateway.address);
        assert_eq!(scene.status_of(&client, "DB"), OK);
        assert_eq!(server.asked(), ["db.a.corp", "db.b.corp"]);
        let port = scene.origin.address.port();
        eventually("the tunnel is shown under the completed name", || {
            gateway.tunnels().iter().any(|tunnel| tunnel["target"] == format!("db.b.corp:{port}"))
        });
        // A name with a dot, with a final dot, or in the hosts file stays as given.
        for (name, status) in [("db.", "502"), ("x.y", "502"), ("listed", "200")] {
            assert!(scene.status(&gateway, name).starts_with(status), "{name}");
        }
        assert_eq!(server.asked(), ["db", "x.y"]);
        // A domain with a possible match ends the search.
        let said = scene.status(&gateway, "broken");
        let words = "502 Bad Gateway: broken.a.corp does not resolve: the name server 192.0.2.1 answered SERVFAIL";
        assert_eq!(said, words);
        assert_eq!(server.asked(), ["broken.a.corp"]);
        assert_eq!(scene.status(&gateway, "secret"), "403 Forbidden: denied by rule --deny secret.a.corp:*");
        assert_eq!(server.count(), 0);
        let said = scene.status(&gateway, "nothing");
        let words = "nothing.b.corp does not resolve: no such name (NXDOMAIN), nor nothing.a.corp";
        assert_eq!(said, format!("502 Bad Gateway: {words}"));

        // The parent receives the completed name, and explain shows it.
        let parent = Origin::at(scene.network.outside());
        let address = parent.address.to_string();
        let url = format!("http://{address} for *.a.corp:*");
        let through = scene.open(&[&search[..], &["--parent", &url]].concat());
        let mut client = dial(through.address);
        client.write_all(request("DB:443", None).as_bytes()).expect("the gateway reads");
        assert!(read_head(&parent.accept()).starts_with("CONNECT db.a.corp:443 HTTP/1.1\r\nHost: db.a.corp:443\r\n"));
        for (options, words) in [(&["--parent", &url][..], "which resolves db.a.corp:443"), (&[], "db.b.corp:443")] {
            let wrapper = scene.wrapper();
            let mut command = Command::new(&wrapper[0]);
            command
                .args(&wrapper[1..])
                .args([BINARY, "explain", "--allow", "*:*"])
                .args(search)
                .args(options)
                .arg("db:443");
            in_clean_environment(&mut command);
            let outcome = run(command, b"");
            assert!(outcome.code == Some(0) && outcome.out.contains(words), "{outcome:?}");
        }
    });
}

/// Connections of one client, each with a request for a different name no server answers.
fn slow(gateway: SocketAddr, count: usize, credentials: Option<&str>) -> Vec<TcpStream> {
    let ask = |number| {
        let mut stream = dial(gateway);
        stream.write_all(request(format!("x{number}.slow.example:443"), credentials).as_bytes()).expect("it reads");
        stream
    };
    (0..count).map(ask).collect()
}

#[test]
fn slow_names_of_one_user_delay_nobody_else_and_are_free_when_the_client_leaves() {
    raise_descriptor_limit();
    scene(|scene| {
        let here = scene.here();
        let _server = scene.name_server(move |name, _| match name.ends_with("slow.example") {
            true => Reply::Silence,
            false => Reply::Addresses(60, here.clone()),
        });
        let users = ["--user", "ann:a", "--user", "bob:b", "--allow", "*:*", "--handshake-timeout", "1m"];
        let gateway =
            scene.setup(&users).args(["--max-dials-per-user", "2000", "--max-lookups-per-user", "150"]).start();
        let mut clients = slow(gateway.address, 1_100, Some("ann:a"));
        let active = || gateway.metric(&LOOKUPS_ACTIVE, &[]);
        eventually("ann is refused what exceeds her share", || {
            gateway.metric(&CONNECT_REQUESTS, &["503", "lookup_limit"]) >= 900
        });
        assert_eq!(active(), 150);
        let said = |name: &str, user| {
            let mut client = dial(gateway.address);
            let target = format!("{name}:{}", scene.origin.address.port());
            client.write_all(request(target, Some(user)).as_bytes()).expect("it reads");
            read_head(&client)
        };
        // Bob's name takes one exchange with the name server: bob waits for no share of ann's.
        assert_eq!(said("good.example", "bob:b"), ESTABLISHED);
        // A cached answer costs ann nothing either.
        assert_eq!(said("good.example", "ann:a"), ESTABLISHED);
        let refused = said("fresh.example", "ann:a");
        let words = "fresh.example is not looked up: --max-lookups-per-user 150 reached by user ann";
        assert!(refused.starts_with(&format!("HTTP/1.1 503 Service Unavailable: {words}\r\n")), "{refused}");
        clients.clear();
        eventually("the look-ups of clients that have left are given up", || active() == 0);
        assert!(gateway.metric(&LOOKUPS, &["abandoned"]) >= 150);
        assert_eq!(said("fresh.example", "ann:a"), ESTABLISHED);
    });
}

#[test]
fn without_users_each_source_has_a_share() {
    scene(|scene| {
        scene.network.add_outside("192.0.2.3");
        let here = scene.here();
        let _server = scene.name_server(move |name, _| match name.ends_with("slow.example") {
            true => Reply::Silence,
            false => Reply::Addresses(60, here.clone()),
        });
        let gateway = scene.open(&["--max-lookups-per-user", "3"]);
        let _clients = slow(gateway.address, 3, None);
        eventually("three names are looked up", || gateway.metric(&LOOKUPS_ACTIVE, &[]) == 3);
        let said = scene.status(&gateway, "good.example");
        let words = "--max-lookups-per-user 3 reached by source 192.0.2.1";
        assert_eq!(said, format!("503 Service Unavailable: good.example is not looked up: {words}"));
        let other = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        other.bind(&SocketAddr::from(([192, 0, 2, 3], 0)).into()).expect("an address of this network");
        other.connect(&gateway.address.into()).expect("the gateway accepts");
        assert_eq!(scene.status_of(&other.into(), "good.example"), OK);
    });
}

#[test]
fn what_a_name_server_says_is_what_the_client_is_told() {
    scene(|scene| {
        let here = scene.here();
        let server = scene.name_server(move |name, is_ipv6| match name {
            "failing.example" => Reply::Failure,
            "empty.example" => Reply::NoData,
            // A server without any answer for AAAA.
            "four.example" if is_ipv6 => Reply::Silence,
            "large.example" => Reply::Truncated(here.clone()),
            "four.example" | "short-lived.example" => Reply::Addresses(0, here.clone()),
            _ => Reply::NoSuchName,
        });
        let gateway = scene.open(&[]);
        for (name, why) in [
            ("missing.example", "no such name (NXDOMAIN)"),
            ("empty.example", "no address"),
            ("failing.example", "the name server 192.0.2.1 answered SERVFAIL"),
        ] {
            assert_eq!(scene.status(&gateway, name), format!("502 Bad Gateway: {name} does not resolve: {why}"));
        }
        // Positive and negative answers are cached, at least for a while.
        server.asked();
        assert!(scene.status(&gateway, "missing2.example").starts_with("502"));
        assert!(scene.status(&gateway, "missing2.example").starts_with("502"));
        assert_eq!(server.count(), 2);
        server.asked();
        for _ in 0..3 {
            assert_eq!(scene.status(&gateway, "short-lived.example"), OK);
        }
        assert_eq!(server.count(), 2);
        for name in ["four.example", "large.example"] {
            assert_eq!(scene.status(&gateway, name), OK);
        }
    });
}

#[test]
fn name_servers_are_asked_in_their_order_and_anew_when_the_file_changes() {
    scene(|scene| {
        scene.network.add_outside("192.0.2.3");
        let conf = "options timeout:1\nnameserver 192.0.2.1\nnameserver 192.0.2.3\n";
        scene.write(conf, "");
        let first = scene.name_server(|name, _| match name {
            "failing.example" => Reply::Failure,
            "missing.example" => Reply::NoSuchName,
            _ => Reply::Silence,
        });
        let here = scene.here();
        let second = NameServer::start([192, 0, 2, 3].into(), move |name, _| match name.ends_with(".example") {
            true => Reply::Addresses(60, here.clone()),
            false => Reply::NoSuchName,
        });
        let gateway = scene.open(&[]);
        for name in ["failing.example", "silent.example"] {
            assert_eq!(scene.status(&gateway, name), OK, "the second server knows");
        }
        assert_eq!(second.asked(), ["failing.example", "silent.example"]);
        assert!(scene.status(&gateway, "missing.example").contains("no such name"));
        assert_eq!(second.count(), 0, "the first server knows");
        drop(first);
        // Nothing listens there now, and the kernel reports it at once.
        assert_eq!(scene.status(&gateway, "refusing.example"), OK);
        scene.write("nameserver 192.0.2.1\n", "192.0.2.1 short\n");
        eventually("the files are read again", || scene.status(&gateway, "short") == OK);
        let said = scene.status(&gateway, "refusing2.example");
        let words = "refusing2.example does not resolve: the name server 192.0.2.1 cannot be reached";
        assert_eq!(said, format!("502 Bad Gateway: {words}"));
    });
}

/// A user without room for another process or thread, like a pids cgroup at its limit.
#[test]
fn a_look_up_that_gets_no_thread_is_refused_while_that_lasts() {
    let Some(stranger) = Stranger::new() else { return };
    scene(|scene| {
        let _server = scene.name_server(only(&["good.example", "other.example"], scene.here()));
        let wrapper = [scene.wrapper(), stranger.wrapper("true")].concat();
        let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
        let options = ["--no-auth", "--allow", "*:*", "--resolver", "system"];
        let gateway = scene.network.setup(&options).under(&wrapper).start();
        assert_eq!(scene.status(&gateway, "other.example"), OK);
        stranger.limit_processes(gateway.pid(), 0);
        let said = scene.status(&gateway, "good.example");
        let words = "503 Service Unavailable: good.example cannot be looked up: cannot start a thread: ";
        assert!(said.starts_with(words), "{said}");
        assert_eq!(scene.status(&gateway, "listed"), OK);
        stranger.limit_processes(gateway.pid(), 1_000);
        assert_eq!(scene.status(&gateway, "good.example"), OK);
        let (_, answer) = ask(gateway.address, request("missing.example:443", None).as_bytes());
        assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway: missing.example does not resolve: "), "{answer}");
    });
}
