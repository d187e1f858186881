//! Limits of the control groups of this process (cgroups(7)): version 2, and version 1 for a
//! controller still on it.

use super::host::{Host, HostError};

/// CPUs' worth of time for the group; `None`: no limit.
///
/// # Errors
/// A failure to read the limit.
pub(super) fn cpus(host: &Host) -> Result<Option<f64>, HostError> {
    let mut least: Option<f64> = None;
    for folder in folders(host, "cpu")? {
        // `cpu.max` is `QUOTA PERIOD` or `max PERIOD` (Documentation/admin-guide/cgroup-v2.rst);
        // the old files hold one number each, a negative one for no limit
        // (Documentation/scheduler/sched-bwc.rst).
        let quota = match folder.version {
            Version::Two => host.try_read(&format!("{}/cpu.max", folder.path))?,
            Version::One => {
                let quota = host.try_read(&format!("{}/cpu.cfs_quota_us", folder.path))?;
                let period = host.try_read(&format!("{}/cpu.cfs_period_us", folder.path))?;
                quota.zip(period).map(|(quota, period)| format!("{quota} {period}"))
            }
        };
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

/// Threshold for the limit of version 1: for unlimited memory it is the largest multiple of a page
/// in 63 bits, above this.
const NO_LIMIT: u64 = 1 << 62;

/// Bytes of memory for the group; `None`: no limit.
///
/// # Errors
/// A failure to read the limit.
pub(super) fn memory(host: &Host) -> Result<Option<u64>, HostError> {
    let mut least: Option<u64> = None;
    for folder in folders(host, "memory")? {
        let files: &[&str] = match folder.version {
            Version::Two => &["memory.max", "memory.high"],
            Version::One => &["memory.limit_in_bytes"],
        };
        for file in files {
            let limit = host.try_read(&format!("{}/{file}", folder.path))?;
            let limit = limit.and_then(|text| text.parse().ok()).filter(|limit| *limit < NO_LIMIT);
            least = limit.into_iter().chain(least).min();
        }
    }
    Ok(least)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A control group's folder.
#[derive(Debug, PartialEq, Eq)]
struct Folder {
    version: Version,
    path: String,
}

/// Folders of the limits in force: the group's own and those above it, as far as visible.
fn folders(host: &Host, controller: &str) -> Result<Vec<Folder>, HostError> {
    // Lines `number:controllers:path`; version 2 names no controllers.
    let groups = host.read("/proc/self/cgroup")?;
    let lines: Vec<Vec<&str>> = groups.lines().map(|line| line.splitn(3, ':').collect()).collect();
    let of = |wanted: &dyn Fn(&str) -> bool| {
        lines.iter().find_map(|line| match line[..] {
            [_, controllers, path] if wanted(controllers) => Some(path.to_owned()),
            _ => None,
        })
    };
    let old = of(&|controllers| controllers.split(',').any(|name| name == controller));
    let found = match old {
        Some(path) => Some((Version::One, path)),
        None => of(&str::is_empty).map(|path| (Version::Two, path)),
    };
    let Some((version, path)) = found else { return Ok(Vec::new()) };
    let mounts = host.read("/proc/self/mountinfo")?;
    let mount = mounts.lines().filter_map(Mount::parse).find(|mount| mount.is_of(version, controller));
    let mount =
        mount.ok_or_else(|| HostError(format!("/proc/self/mountinfo: no cgroup with {controller} is mounted")))?;
    Ok(mount.folders(&path).into_iter().map(|path| Folder { version, path }).collect())
}

/// A line of `/proc/self/mountinfo` (proc(5)).
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let mut back = back.split(' ');
        Some(Self { root: front.next()?, point: front.next()?, kind: back.next()?, options: back.nth(1)? })
    }

    fn is_of(&self, version: Version, controller: &str) -> bool {
        match version {
            Version::One => self.kind == "cgroup" && self.options.split(',').any(|name| name == controller),
            Version::Two => self.kind == "cgroup2",
        }
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
            ("sys/fs/cgroup/a.slice/memory.max", "max\n"),
            ("sys/fs/cgroup/a.slice/b.service/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/a.slice/b.service/memory.high", "536870912\n"),
        ]);
        assert_eq!(cpus(&tree.host()), Ok(Some(1.5)));
        assert_eq!(memory(&tree.host()), Ok(Some(512 << 20)));
    }

    #[test]
    fn version_1_and_a_part_of_a_tree_are_understood() {
        let tree = Tree::new(&[
            ("proc/self/cgroup", "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n"),
            (
                "proc/self/mountinfo",
                "40 32 0:35 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                 41 32 0:36 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us", "50000\n"),
            ("sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu/docker/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/docker/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(cpus(&tree.host()), Ok(Some(0.5)));
        assert_eq!(memory(&tree.host()), Ok(None));
    }

    #[test]
    fn no_limit_and_no_knowledge_are_two_things() {
        let free = Tree::new(&[("proc/self/cgroup", "0::/\n"), ("proc/self/mountinfo", TWO)]);
        assert_eq!((cpus(&free.host()), memory(&free.host())), (Ok(None), Ok(None)));
        let hidden = Tree::new(&[("proc/self/cgroup", "0::/\n"), ("proc/self/mountinfo", "")]);
        assert!(cpus(&hidden.host()).unwrap_err().to_string().contains("no cgroup with cpu is mounted"));
        assert!(memory(&Tree::new(&[]).host()).is_err());
    }
}
