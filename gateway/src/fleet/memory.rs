//! How much memory this machine, or this container, has.
//!
//! Asked once, at the start, for the default of the budget. Of a device's memory the same part is left
//! to others.

/// Of what there is, so much is left to the system and to others: a tenth, within these bounds.
const RESERVE_MIN: u64 = 256 << 20;
const RESERVE_MAX: u64 = 4 << 30;

/// What all workers together may take where nobody says; `None` if the system does not tell what
/// it has.
#[must_use]
pub fn default_budget() -> Option<u64> {
    #[cfg(target_os = "linux")]
    let total = linux::total_bytes();
    #[cfg(not(target_os = "linux"))]
    let total: Option<u64> = None;
    total.map(less_a_reserve)
}

pub(super) fn less_a_reserve(total: u64) -> u64 {
    // In a small container even the least reserve would be more than half.
    let reserve = (total / 10).clamp(RESERVE_MIN, RESERVE_MAX).min(total / 2);
    total - reserve
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;
    use std::path::{Path, PathBuf};

    pub(super) fn total_bytes() -> Option<u64> {
        let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
        let machine = of_meminfo(&meminfo)?;
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let limits = limit_files(&groups, Path::new("/sys/fs/cgroup"));
        // "max", and whatever else is no number, is no limit.
        let limits = limits.iter().filter_map(|file| fs::read_to_string(file).ok());
        let limits = limits.filter_map(|text| text.trim().parse::<u64>().ok());
        limits.chain([machine]).min()
    }

    pub(super) fn of_meminfo(text: &str) -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    }

    /// Every file that may limit us: our group's and those of all groups above, of both versions of
    /// control groups. In a container the outer ones are not there.
    pub(super) fn limit_files(groups: &str, root: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) =
                (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            let (mount, file) = match controllers {
                "" => (root.to_owned(), "memory.max"),
                names if names.split(',').any(|name| name == "memory") => {
                    (root.join("memory"), "memory.limit_in_bytes")
                }
                _ => continue,
            };
            let group = Path::new(path.trim_start_matches('/'));
            files.extend(group.ancestors().map(|group| mount.join(group).join(file)));
        }
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_left_to_others_within_bounds() {
        const GIB: u64 = 1 << 30;
        for (total, budget) in [
            (20 * GIB, 18 * GIB),
            (100 * GIB, 96 * GIB),
            (GIB, GIB - (256 << 20)),
            (256 << 20, 128 << 20),
        ] {
            assert_eq!(less_a_reserve(total), budget);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn limits_of_all_groups_above_count_in_both_versions() {
        let root = std::path::Path::new("/g");
        let files = |groups| {
            let files = linux::limit_files(groups, root);
            files.into_iter().map(|file| file.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(files("0::/a/b\n"), ["/g/a/b/memory.max", "/g/a/memory.max", "/g/memory.max"]);
        assert_eq!(
            files("4:cpu,memory:/x\n3:cpuset:/\n"),
            ["/g/memory/x/memory.limit_in_bytes", "/g/memory/memory.limit_in_bytes"]
        );
        assert_eq!(linux::of_meminfo("MemFree: 1 kB\nMemTotal:   2048 kB\n"), Some(2 << 20));
        assert!(linux::total_bytes().is_some_and(|bytes| bytes > 64 << 20));
    }
}
