//! Room for tunnels: pipes and descriptors.

use std::io;

use rustix::process::{Resource, getrlimit};

use super::finding::{Found, State};
use super::host::{Capability, Host, HostError, Scope};
use super::refusal::more_descriptors;
use crate::relay::Engine;
use crate::server::descriptors;
use crate::sys::pipe::{Pipe, WANTED_CAPACITY};

/// Pipes to try: an unprivileged user's number by the default of 16,384 pages
/// (`/proc/sys/fs/pipe-user-pages-soft`, pipe(7)), at 256 pages each.
const TRIED: usize = 64;

/// Whole pipes needed: the pipes kept by one worker for the next burst (`relay/pipes.rs`). A busy
/// direction holds one while its bytes wait for the receiver.
pub(super) const ENOUGH: usize = 32;

/// Tunnels needing room: the volumes of a migration open about 200 at once.
pub(super) const BURST: usize = 200;

/// Pipes available to a user, as tried.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    /// Those of [`WANTED_CAPACITY`].
    pub(super) whole: usize,
    /// Size of the last pipe, in bytes.
    pub(super) last: usize,
    /// Why there was no further one.
    pub(super) error: Option<io::Error>,
}

impl Pipes {
    /// Makes up to 64 pipes and closes them. Their pages are only counted, not allocated; a gateway
    /// of the same user making a pipe in these milliseconds may get a small one.
    #[must_use]
    pub(super) fn tried() -> Self {
        let (mut held, mut seen) = (Vec::new(), Self::default());
        while held.len() < TRIED && seen.error.is_none() && seen.whole == held.len() {
            match Pipe::new() {
                Ok(pipe) => {
                    seen.last = pipe.capacity();
                    seen.whole += usize::from(pipe.capacity() >= WANTED_CAPACITY);
                    held.push(pipe);
                }
                Err(error) => seen.error = Some(error),
            }
        }
        seen
    }

    const fn are_enough(&self) -> bool {
        self.whole >= ENOUGH
    }
}

/// The budget of pipes; a low one degrades an engine with pipes.
pub(super) fn pipes(host: &Host, pipes: &Pipes, engine: Option<Engine>) -> Found {
    let got = match &pipes.error {
        Some(error) => format!("{} of 1 MiB, then {error}", pipes.whole),
        None if pipes.whole == TRIED => format!("{TRIED} of {TRIED} of 1 MiB"),
        None => format!("{} of 1 MiB, then {} KiB", pipes.whole, pipes.last >> 10),
    };
    let found = format!("{got}; {}", limits(host).unwrap_or_else(|unread| unread.to_string()));
    Found::ok(found).unless(pipes.are_enough(), |found| {
        // Measured with one, four and 64 tunnels: a tunnel without a pipe is copied, at half the
        // speed; pipes of 256 KiB cost 28 % at four tunnels.
        let costs = "busy tunnels beyond these are copied, at half the speed";
        let degrades = engine.is_some_and(|engine| engine != Engine::Copy);
        Found { degrades, ..found.costs(State::Slow, costs).fixes(more_pipes(host, pipes)) }
    })
}

/// Settings for the limit of a user's pipes (pipe(7)). CAP_SYS_RESOURCE lifts it; CAP_SYS_ADMIN
/// would too (`pipe_is_unprivileged_user`, `fs/pipe.c`), and `serve` drops that.
fn limits(host: &Host) -> Result<String, HostError> {
    let value = |name| host.sysctl(name);
    let lifted = if host.has(Capability::SysResource)? { ", lifted by CAP_SYS_RESOURCE" } else { "" };
    Ok(format!(
        "pipe-max-size {}, pipe-user-pages-soft {}, -hard {}{}",
        value("fs.pipe-max-size")?,
        value("fs.pipe-user-pages-soft")?,
        value("fs.pipe-user-pages-hard")?,
        lifted
    ))
}

fn more_pipes(host: &Host, pipes: &Pipes) -> Vec<String> {
    if pipes.error.is_some() {
        return more_descriptors();
    }
    if host.number("fs.pipe-max-size").is_ok_and(|size| size < WANTED_CAPACITY as u64) {
        return vec![host.set(Scope::Machine, "fs.pipe-max-size", &WANTED_CAPACITY.to_string())];
    }
    vec![
        // 256 pipes of 1 MiB.
        host.set(Scope::Machine, "fs.pipe-user-pages-soft", "65536"),
        "systemd unit: AmbientCapabilities=CAP_SYS_RESOURCE".to_owned(),
        "podman run --cap-add SYS_RESOURCE ...    # a rootful one: the capability of a user namespace is not enough"
            .to_owned(),
    ]
}

/// The soft limit of descriptors as the gateway was given it, and the one it has made of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    soft: Option<u64>,
    raised: u64,
}

impl Limit {
    /// Raises the limit as `serve` does.
    #[must_use]
    pub(super) fn raised() -> Self {
        let soft = getrlimit(Resource::Nofile).current;
        Self { soft, raised: descriptors::raise() }
    }

    /// There is room for a tunnel; `serve` does not start without.
    #[must_use]
    pub(super) fn has_room(self) -> bool {
        descriptors::divide(None, self.raised, 1).is_ok()
    }
}

/// The limit of descriptors of a process.
pub(super) fn process(limit: Limit) -> Found {
    let text = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
    let tunnels = descriptors::divide(None, limit.raised, 1).map_or(0, |division| division.tunnels);
    let raised = text(Some(limit.raised).filter(|raised| *raised != u64::MAX));
    let found = format!("soft {}, raised to hard {raised}: {tunnels} tunnels", text(limit.soft));
    Found::ok(found).unless(tunnels >= BURST, |found| {
        let found = found.costs(State::Slow, "further clients are answered 503").fixes(more_descriptors());
        let found = Found { degrades: true, ..found };
        found.unless(limit.has_room(), |found| found.costs(State::Fails, "the gateway does not start"))
    })
}

/// Open files of the machine, `fs.file-nr` of `fs.file-max`, and the most a process may be
/// permitted (Documentation/admin-guide/sysctl/fs.rst).
pub(super) fn machine(host: &Host, limit: Limit) -> Result<Found, HostError> {
    let (most, each) = (host.number("fs.file-max")?, host.number("fs.nr_open")?);
    let [open] = host.numbers("fs.file-nr")?;
    let found = Found::ok(format!("{open} of fs.file-max {most} are open; fs.nr_open {each}"));
    Ok(found.unless(most.saturating_sub(open) >= limit.raised.min(each), |found| {
        let wanted = open.saturating_add(each);
        found
            .costs(State::Slow, "no accept, dial or pipe anywhere on the machine once they are used up (ENFILE)")
            .fix(host.set(Scope::Machine, "fs.file-max", &wanted.to_string()))
    }))
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    fn tree() -> Tree {
        let tree = Tree::new(&[
            ("proc/self/status", "CapEff:\t0\n"),
            ("proc/sys/fs/pipe-max-size", "1048576"),
            ("proc/sys/fs/pipe-user-pages-soft", "16384"),
            ("proc/sys/fs/pipe-user-pages-hard", "0"),
            ("proc/sys/fs/file-max", "10000"),
            ("proc/sys/fs/file-nr", "2000\t0\t10000"),
            ("proc/sys/fs/nr_open", "1048576"),
        ]);
        tree.link("proc/self/ns/user", "user:[4026531837]");
        tree
    }

    #[test]
    fn too_few_pipes_degrade_what_moves_bytes_through_them() {
        let tree = tree();
        let got = |whole, last| Pipes { whole, last, error: None };
        let row = pipes(&tree.host(), &got(64, 1 << 20), Some(Engine::Splice));
        assert_eq!((row.state, row.degrades), (State::Ok, false));
        assert!(row.found.starts_with("64 of 64 of 1 MiB; pipe-max-size 1048576, "), "{row:?}");
        let few = got(31, 8 << 10);
        let row = pipes(&tree.host(), &few, Some(Engine::Splice));
        assert!(
            row.degrades && row.state == State::Slow && row.found.starts_with("31 of 1 MiB, then 8 KiB"),
            "{row:?}"
        );
        assert_eq!(row.fix[0], "sysctl -w fs.pipe-user-pages-soft=65536");
        assert!(!pipes(&tree.host(), &few, Some(Engine::Copy)).degrades);
        let blind = pipes(&Tree::new(&[]).host(), &few, Some(Engine::Splice));
        assert!(blind.degrades && blind.found.ends_with("no such file"), "{blind:?}");
        tree.file("proc/sys/fs/pipe-max-size", "65536");
        let row = pipes(&tree.host(), &got(0, 64 << 10), Some(Engine::Splice));
        assert_eq!(row.fix, ["sysctl -w fs.pipe-max-size=1048576"]);
        let out = Pipes { whole: 3, last: 1 << 20, error: Some(rustix::io::Errno::MFILE.into()) };
        let row = pipes(&tree.host(), &out, Some(Engine::Splice));
        assert!(row.found.contains("Too many open files") && row.fix[1].contains("LimitNOFILE"), "{row:?}");
    }

    #[test]
    fn pipes_are_tried_up_to_a_bound() {
        let seen = Pipes::tried();
        assert!(seen.whole <= TRIED && seen.last > 0 && seen.error.is_none(), "{seen:?}");
    }

    #[test]
    fn descriptors_are_counted_in_tunnels() {
        let limit = |raised| Limit { soft: Some(1_024), raised };
        for (raised, state, degrades, found) in [
            (u64::MAX, State::Ok, false, "raised to hard unlimited: "),
            (20_000, State::Ok, false, "soft 1024, raised to hard 20000: "),
            (600, State::Slow, true, "soft 1024, raised to hard 600: "),
            (300, State::Fails, true, "soft 1024, raised to hard 300: "),
        ] {
            let row = process(limit(raised));
            assert_eq!((row.state, row.degrades), (state, degrades), "{row:?}");
            let tunnels = descriptors::divide(None, raised, 1).map_or(0, |division| division.tunnels);
            assert!(row.found.contains(&format!("{found}{tunnels} tunnels")), "{row:?}");
        }
        let tree = tree();
        assert_eq!(machine(&tree.host(), limit(8_000)).unwrap().state, State::Ok);
        let row = machine(&tree.host(), limit(8_001)).unwrap();
        assert_eq!((row.state, row.fix[0].as_str()), (State::Slow, "sysctl -w fs.file-max=1050576"));
    }
}
