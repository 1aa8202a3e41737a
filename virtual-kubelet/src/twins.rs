//! Notices that two cars use one identity: each connection of the one ends that of the other, and neither ever keeps its own.
//!
//! Asked by the actor at each greeting. Pure. A car that connects anew, is sent to another replica or restarts its agent must not be
//! taken for two: only a connection counts that ends a living one, of an agent that was started another time.

use std::collections::VecDeque;
use std::time::Duration;

use kerbside_core::clock::Boottime;

/// A car whose agent was restarted while the adapter still took the old connection for alive replaces it once; cars that take turns
/// do it every few seconds.
const MOST: usize = 3;
/// They wait at least a second and at most some seconds before they connect again.
const WITHIN: Duration = Duration::from_mins(1);

/// When one agent's connection took the place of another's.
#[derive(Debug, Default)]
pub(crate) struct Twins {
    replaced: VecDeque<Boottime>,
    told: bool,
}

impl Twins {
    /// An agent's connection takes the place of another agent's that was alive; whether it is time to tell people. They are told once,
    /// and again only if it begins anew after a quiet minute.
    pub(crate) fn replaced(&mut self, now: Boottime) -> bool {
        self.replaced.retain(|at| now.since(*at) < WITHIN);
        if self.replaced.is_empty() {
            self.told = false;
        }
        if self.replaced.len() >= MOST {
            self.replaced.pop_front();
        }
        self.replaced.push_back(now);
        self.replaced.len() >= MOST && !std::mem::replace(&mut self.told, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(at: &[u64]) -> Vec<u64> {
        let mut twins = Twins::default();
        let replaced = |second: &&u64| twins.replaced(Boottime(Duration::from_secs(**second)));
        at.iter().filter(replaced).copied().collect()
    }

    #[rstest::rstest]
    #[case::once_or_twice(&[0, 5], &[])]
    #[case::three_times_in_a_minute(&[0, 5, 10], &[10])]
    #[case::for_ever_is_told_once(&[0, 5, 10, 15, 20, 60, 75, 110, 130], &[10])]
    #[case::too_slow_to_be_two(&[0, 40, 80, 120, 160], &[])]
    #[case::anew_after_a_quiet_minute(&[0, 1, 2, 100, 101, 102], &[2, 102])]
    fn turns_of_two_cars_are_told_once(#[case] at: &[u64], #[case] expected: &[u64]) {
        assert_eq!(told(at), expected);
    }
}
