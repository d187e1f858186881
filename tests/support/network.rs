//! Two network namespaces joined by a link: the gateway in one, its clients and origins in the
//! other.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::process::getuid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::gateway::Setup;
use super::process::{program, run};
use super::skipped::skipped;

/// Addresses of the two ends of the link (RFC 5737).
const OUTSIDE: &str = "192.0.2.1";
const GATEWAY: &str = "192.0.2.2";

/// The two namespaces; removed when dropped.
#[derive(Debug)]
pub(crate) struct Network {
    gateway: String,
    outside: String,
}

impl Network {
    /// Creates the namespaces. Prints a note and returns `None` if this process may not.
    pub(crate) fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        program("ip", "iproute2")?;
        program("nft", "nftables")?;
        if !getuid().is_root() {
            skipped("network namespaces need root");
            return None;
        }
        let name = format!("sluicegate-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let this = Self { gateway: format!("{name}-in"), outside: format!("{name}-out") };
        for namespace in [&this.gateway, &this.outside] {
            ip(&["netns", "add", namespace]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        ip(&["-n", &this.gateway, "link", "add", "in", "type", "veth", "peer", "out", "netns", &this.outside]);
        for (namespace, end, address) in [(&this.gateway, "in", GATEWAY), (&this.outside, "out", OUTSIDE)] {
            ip(&["-n", namespace, "address", "add", &format!("{address}/24"), "dev", end]);
            ip(&["-n", namespace, "link", "set", end, "up"]);
        }
        Some(this)
    }

    /// Drops one in `packets` packets on arrival, at both ends of the link.
    pub(crate) fn lose_one_in(&self, packets: u32) {
        let rules = format!(
            "add table ip loss; add chain ip loss in {{ type filter hook input priority 0; }}; \
             add rule ip loss in iifname != \"lo\" meta l4proto tcp numgen random mod {packets} == 0 drop"
        );
        for namespace in [&self.gateway, &self.outside] {
            ip(&["netns", "exec", namespace, "nft", &rules]);
        }
    }

    /// Drops every packet sent from an outside port to the gateway, without notice to either side.
    pub(crate) fn silence(&self, port: u16) {
        let rules = format!(
            "add table ip silence; add chain ip silence in {{ type filter hook input priority 0; }}; \
             add rule ip silence in tcp sport {port} drop"
        );
        ip(&["netns", "exec", &self.gateway, "nft", &rules]);
    }

    /// Address of the clients and origins.
    pub(crate) fn outside(&self) -> IpAddr {
        OUTSIDE.parse().expect("an address")
    }

    /// A gateway at the other end of the link, allowed to dial the outside address.
    pub(crate) fn setup(&self, arguments: &[&str]) -> Setup {
        let wrapper = ["ip", "netns", "exec", &self.gateway];
        Setup::bare(arguments).args(["--allow", &format!("{OUTSIDE}:*")]).under(&wrapper).at(GATEWAY)
    }

    /// A command prefix: runs a command in the gateway's namespace, with each file bind-mounted
    /// over a path of the host (file, path).
    pub(crate) fn wrapper(&self, files: &[(&Path, &str)]) -> Vec<String> {
        let mounts: String =
            files.iter().map(|(new, place)| format!("mount --bind {} {place} && ", new.display())).collect();
        // `ip netns exec` has already created a mount namespace.
        let script = format!("{mounts}exec \"$@\"");
        ["ip", "netns", "exec", &self.gateway, "sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
    }

    /// Adds an address to the outside end of the link.
    pub(crate) fn add_outside(&self, address: &str) {
        ip(&["-n", &self.outside, "address", "add", &format!("{address}/24"), "dev", "out"]);
    }

    /// Runs `work` in the outside namespace.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let namespace = File::open(format!("/run/netns/{}", self.outside)).expect("a namespace of ours");
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), network).expect("root may go anywhere");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.gateway, &self.outside] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let mut command = Command::new("ip");
    command.args(arguments);
    let outcome = run(command, b"");
    assert_eq!(outcome.code, Some(0), "ip {arguments:?}: {outcome:?}");
}
