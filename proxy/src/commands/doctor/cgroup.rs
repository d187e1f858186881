//! Limit of CPU time of the control group of this process, version 2 (cgroups(7)).

use super::host::{Host, HostError};

/// CPUs' worth of time for the group; `None`: no limit.
///
/// # Errors
/// A failure to read the limit.
pub(super) fn cpus(host: &Host) -> Result<Option<f64>, HostError> {
    let mut least: Option<f64> = None;
    for folder in folders(host)? {
        // `QUOTA PERIOD` or `max PERIOD` (Documentation/admin-guide/cgroup-v2.rst).
        let quota = host.try_read(&format!("{folder}/cpu.max"))?;
        let share = quota.as_deref().and_then(share);
        least = share.into_iter().chain(least).reduce(f64::min);
    }
    Ok(least)
}

fn share(text: &str) -> Option<f64> {
    let (quota, period) = text.split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

/// Returns the visible folders with limits in force: the group's own and those above it.
fn folders(host: &Host) -> Result<Vec<String>, HostError> {
    // Lines `number:controllers:path`; version 2 names no controllers.
    let groups = host.read("/proc/self/cgroup")?;
    let Some(path) = groups.lines().find_map(|line| line.strip_prefix("0::")) else { return Ok(Vec::new()) };
    let mounts = host.read("/proc/self/mountinfo")?;
    let mount = mounts.lines().filter_map(Mount::parse).find(Mount::is_unified);
    let mount = mount.ok_or_else(|| HostError("/proc/self/mountinfo: no cgroup2 is mounted".to_owned()))?;
    Ok(mount.folders(path))
}

/// A line of `/proc/self/mountinfo` (proc(5)).
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let mut back = back.split(' ');
        Some(Self { root: front.next()?, point: front.next()?, kind: back.next()? })
    }

    fn is_unified(&self) -> bool {
        self.kind == "cgroup2"
    }

    /// Returns the folder of `group` and those above it. The mount may show a part of the tree, as
    /// in a container; a group outside this part has no folder here but the mount point.
    fn folders(&self, group: &str) -> Vec<String> {
        let below = group.strip_prefix(self.root.trim_end_matches('/')).unwrap_or_default();
        let mut folders = vec![self.point.to_owned()];
        for name in below.split('/').filter(|name| !name.is_empty() && *name != "..") {
            folders.push(format!("{}/{name}", folders.last().map_or("", String::as_str)));
        }
        folders
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    const TWO: &str = "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let tree = Tree::new(&[
            ("proc/self/cgroup", "0::/a.slice/b.service\n"),
            ("proc/self/mountinfo", TWO),
            ("sys/fs/cgroup/a.slice/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/a.slice/b.service/cpu.max", "max 100000\n"),
        ]);
        assert_eq!(cpus(&tree.host()), Ok(Some(1.5)));
    }

    #[test]
    fn a_part_of_a_tree_is_understood() {
        let tree = Tree::new(&[
            ("proc/self/cgroup", "5:memory:/docker/abc\n0::/docker/abc\n"),
            (
                "proc/self/mountinfo",
                "40 32 0:35 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                 41 32 0:36 /docker/abc /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            ),
            ("sys/fs/cgroup/unified/cpu.max", "50000 100000\n"),
        ]);
        assert_eq!(cpus(&tree.host()), Ok(Some(0.5)));
    }

    #[test]
    fn no_limit_and_no_knowledge_are_two_things() {
        let free = Tree::new(&[("proc/self/cgroup", "0::/\n"), ("proc/self/mountinfo", TWO)]);
        assert_eq!(cpus(&free.host()), Ok(None));
        let hidden = Tree::new(&[("proc/self/cgroup", "0::/\n"), ("proc/self/mountinfo", "")]);
        assert!(cpus(&hidden.host()).unwrap_err().to_string().contains("no cgroup2 is mounted"));
        assert!(cpus(&Tree::new(&[]).host()).is_err());
    }
}
