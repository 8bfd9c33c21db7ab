//! The memory limit of the process: that of the machine, or a lower one of its control groups.

use std::fs;
use std::path::{Component, Path};

use crate::config::Config;

/// Where control groups are mounted, the file with a group's limit, and whether it is version 2.
/// Systems in between have the memory in version 1, beside an empty tree of version 2.
const HIERARCHIES: [(&str, &str, bool); 3] = [
    ("sys/fs/cgroup", "memory.max", true),
    ("sys/fs/cgroup/unified", "memory.max", true),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", false),
];

const MIB: usize = 1 << 20;
/// The part of the memory limit that the store's cache takes if it is not configured.
const CACHE_SHARE: usize = 8;
/// The least and the most that the cache takes, and its size where the limit is not known, in MiB.
const CACHE_MIB: (usize, usize) = (8, 1_024);
const UNKNOWN_CACHE_MIB: usize = 32;

/// The size of the store's cache in bytes: what is configured, or what follows from the memory
/// limit.
pub(super) fn cache_bytes(config: &Config) -> u64 {
    config.cache_mib.unwrap_or_else(|| default_cache_mib(limit())) << 20
}

/// An eighth of the limit, 8 MiB to 1 GiB: the process takes a few times the cache, and connections
/// take at most half of what is left.
fn default_cache_mib(limit: Option<usize>) -> u64 {
    let mib = limit.map_or(UNKNOWN_CACHE_MIB, |limit| limit / CACHE_SHARE / MIB);
    mib.clamp(CACHE_MIB.0, CACHE_MIB.1) as u64
}

/// The memory limit of this process in bytes, if it is known.
pub(super) fn limit() -> Option<usize> {
    let limits = [of_groups(Path::new("/")), of_machine()].into_iter().flatten();
    limits.min().map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// By a system call: a unit with a restricted /proc has no /proc/meminfo.
#[cfg(target_os = "linux")]
#[allow(clippy::useless_conversion, reason = "the number has 32 bits on some machines")]
fn of_machine() -> Option<u64> {
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit).max(1);
    let bytes = u64::from(info.totalram).saturating_mul(unit);
    Some(bytes).filter(|bytes| *bytes > 0)
}

#[cfg(not(target_os = "linux"))]
fn of_machine() -> Option<u64> {
    None
}

/// The smallest limit of this process's groups and of all groups above them, in a system whose root
/// is `root`. Version 1 has a very large number for no limit.
fn of_groups(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    // A line is `number:controllers:path`; version 2 has number 0 and no controllers.
    let groups = groups.lines().filter_map(|line| {
        let (_, group) = line.split_once(':')?;
        let (controllers, path) = group.split_once(':')?;
        let of_memory = controllers.split(',').any(|name| name == "memory");
        (of_memory || controllers.is_empty()).then_some((controllers.is_empty(), path))
    });
    let limits = groups.flat_map(|(unified, path)| {
        let mounted = HIERARCHIES.into_iter().filter(move |(_, _, version2)| *version2 == unified);
        mounted.filter_map(move |(at, file, _)| of_path(&root.join(at), Path::new(path), file))
    });
    limits.min()
}

/// The smallest number in `file` of the group `path` and of all groups above it. A container may
/// see its own group as the root, but its path as outside; a missing file means no limit.
fn of_path(mount: &Path, path: &Path, file: &str) -> Option<u64> {
    let names = path.components().filter(|part| matches!(part, Component::Normal(_)));
    let mut at = mount.to_owned();
    let limit = |at: &Path| fs::read_to_string(at.join(file)).ok()?.trim().parse().ok();
    let mut least: Option<u64> = limit(&at);
    for name in names {
        at.push(name);
        least = least.into_iter().chain(limit(&at)).min();
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::budgets::Budgets;

    fn system(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        of_groups(root.path())
    }

    #[test]
    fn the_smallest_limit_of_a_group_and_those_above_is_found() {
        let group = ("proc/self/cgroup", "0::/system.slice/pixii@n1.service\n");
        let own = "sys/fs/cgroup/system.slice/pixii@n1.service/memory.max";
        let above = "sys/fs/cgroup/system.slice/memory.max";
        assert_eq!(system(&[group, (own, "268435456\n"), (above, "max\n")]), Some(256 << 20));
        assert_eq!(system(&[group, (own, "max\n"), (above, "1048576\n")]), Some(1 << 20));
        assert_eq!(system(&[group, (own, "2097152\n"), (above, "1048576\n")]), Some(1 << 20));
        assert_eq!(system(&[group, (own, "max\n"), (above, "max\n")]), None);
        // A container that sees its own group as the root.
        let outside = ("proc/self/cgroup", "0::/../other\n");
        assert_eq!(system(&[outside, ("sys/fs/cgroup/memory.max", "4096\n")]), Some(4_096));
        assert_eq!(system(&[]), None);
        assert_eq!(system(&[("proc/self/cgroup", "nonsense\n")]), None);
    }

    #[test]
    fn limits_of_the_first_version_are_found_too() {
        let groups = ("proc/self/cgroup", "5:cpu:/a\n4:memory:/a/b\n0::/\n");
        let own = "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes";
        let above = "sys/fs/cgroup/memory/memory.limit_in_bytes";
        let none = (above, "9223372036854771712\n");
        assert_eq!(system(&[groups, (own, "4096\n"), none]), Some(4_096));
    }

    #[test]
    fn the_cache_is_an_eighth_of_the_limit_within_bounds() {
        let of = |mib: usize| default_cache_mib(Some(mib * MIB));
        // The default unit with MemoryMax=256M has the cache that it had before there was a
        // formula.
        assert_eq!([of(256), of(1_024), of(4_096)], [32, 128, 512]);
        assert_eq!([of(0), of(64), of(100), of(8_192), of(65_536)], [8, 8, 12, 1_024, 1_024]);
        assert_eq!(default_cache_mib(None), 32);
        // These are the numbers of the pages on limits and configuration.
        let lacks = |mib: usize| {
            let cache = default_cache_mib(Some(mib * MIB)) as usize * MIB;
            Budgets::of(Some(mib * MIB), cache).lack().is_some()
        };
        assert_eq!([lacks(234), lacks(235), lacks(256)], [true, false, false]);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(limit().is_none_or(|bytes| bytes > 1 << 20), "{:?}", limit());
    }
}
