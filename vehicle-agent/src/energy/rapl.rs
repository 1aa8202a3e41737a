//! The processor's own counters of energy, and how busy the computer is: a few bytes that the kernel makes up, so that no disk is waited for.
//!
//! Read by [`super::Energy`]. The kernel shows the counters below one directory, and in many systems to root alone. What must never happen:
//! a part of the counters that passes for all of them.

use std::fs;
use std::path::{Path, PathBuf};

use kerbside_core::energy::{Counter, Reading};

/// Where the kernel shows them.
pub(super) const POWERCAP: &str = "/sys/class/powercap";
/// Where it shows how busy it is.
pub(super) const STAT: &str = "/proc/stat";
/// Parts of a second that it counts in, on every system that cars have.
const TICK_MS: u64 = 10;
/// What a processor's package is called; `psys` is of the whole board, and would count the packages twice.
const PACKAGE: &str = "package-";

/// The counters of every package.
#[derive(Debug)]
pub(super) struct Rapl {
    zones: Vec<Zone>,
}

#[derive(Debug)]
struct Zone {
    energy: PathBuf,
    range: u64,
}

impl Rapl {
    /// Finds the packages. `None`: there are none, or one of them cannot be read.
    pub(super) fn find(root: &Path) -> Option<Self> {
        let entries = fs::read_dir(root).ok()?;
        let mut found: Vec<PathBuf> = entries
            .map(|entry| entry.ok().map(|entry| entry.path()))
            .collect::<Option<_>>()?;
        found.sort();
        let is_whole = |zone: &PathBuf| {
            let name = zone.file_name().unwrap_or_default().to_string_lossy();
            // A part of a package has a second colon.
            name.strip_prefix("intel-rapl:").is_some_and(|rest| !rest.contains(':'))
        };
        found.retain(is_whole);
        let mut zones = Vec::new();
        for zone in found {
            // One that does not say what it is may be a package.
            if text(&zone.join("name"))?.starts_with(PACKAGE) {
                zones.push(Zone {
                    range: number(&zone.join("max_energy_range_uj"))?,
                    energy: zone.join("energy_uj"),
                });
            }
        }
        let rapl = Self { zones };
        rapl.read().is_some().then_some(rapl)
    }

    /// What they show now: all of them, or nothing.
    pub(super) fn read(&self) -> Option<Reading> {
        let counters = self.zones.iter().map(|zone| {
            Some(Counter {
                microjoules: number(&zone.energy)?,
                range: zone.range,
            })
        });
        let counters: Vec<_> = counters.collect::<Option<_>>()?;
        (!counters.is_empty()).then_some(Reading::Counters(counters))
    }
}

/// Milliseconds for which all cores together were busy since the computer started.
pub(super) fn busy_ms(stat: &Path) -> Option<u64> {
    let text = fs::read_to_string(stat).ok()?;
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are within user.
    let [user, nice, system, _, _, rest @ ..] = fields.as_slice() else {
        return None;
    };
    let ticks = [user, nice, system].into_iter().chain(rest.iter().take(3));
    let ticks = ticks.fold(0, |sum: u64, part| sum.saturating_add(*part));
    Some(ticks.saturating_mul(TICK_MS))
}

fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A zone as the kernel shows it.
    pub(in crate::energy) fn zone(root: &Path, zone: &str, name: &str, microjoules: u64) {
        let zone = root.join(zone);
        fs::create_dir_all(&zone).unwrap();
        for (file, content) in [
            ("name", name.to_owned()),
            ("max_energy_range_uj", "262143328850".to_owned()),
            ("energy_uj", microjoules.to_string()),
        ] {
            fs::write(zone.join(file), format!("{content}\n")).unwrap();
        }
    }

    fn shown(rapl: &Rapl) -> Option<Vec<u64>> {
        match rapl.read()? {
            Reading::Counters(counters) => Some(counters.iter().map(|counter| counter.microjoules).collect()),
            Reading::Power { .. } => None,
        }
    }

    #[test]
    fn packages_are_counted_and_neither_their_parts_nor_the_board() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        assert!(Rapl::find(root).is_none() && Rapl::find(&root.join("none")).is_none());
        zone(root, "intel-rapl:1", "package-1", 7);
        zone(root, "intel-rapl:0", "package-0", 5);
        zone(root, "intel-rapl:0:0", "core", 3);
        zone(root, "intel-rapl:2", "psys", 100);
        zone(root, "intel-rapl-mmio:0", "package-0", 5);
        let rapl = Rapl::find(root).unwrap();
        assert_eq!(shown(&rapl), Some(vec![5, 7]));
        zone(root, "intel-rapl:0", "package-0", 6);
        assert_eq!(shown(&rapl), Some(vec![6, 7]));
        fs::remove_file(root.join("intel-rapl:1/energy_uj")).unwrap();
        assert_eq!(shown(&rapl), None, "a part is not the whole");
        assert!(Rapl::find(root).is_none());
    }

    #[test]
    fn package_that_does_not_say_what_it_is_leaves_no_part_for_the_whole() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        zone(root, "intel-rapl:0", "package-0", 5);
        zone(root, "intel-rapl:1", "package-1", 7);
        fs::remove_file(root.join("intel-rapl:1/name")).unwrap();
        assert!(Rapl::find(root).is_none());
    }

    #[test]
    fn busy_time_is_that_of_all_cores_without_idling_and_waiting() {
        let temp = tempfile::tempdir().unwrap();
        let stat = temp.path().join("stat");
        assert_eq!(busy_ms(&stat), None);
        for (text, busy) in [
            ("cpu  100 20 30 9999 8888 4 5 6 50 0\ncpu0 1 2 3 4\n", Some(1650)),
            ("cpu  100 20 30 9999 8888\n", Some(1500)),
            ("cpu  100 20\n", None),
            ("cpu0 1 2 3 4 5\n", None),
            ("", None),
        ] {
            fs::write(&stat, text).unwrap();
            assert_eq!(busy_ms(&stat), busy, "{text}");
        }
    }
}
