//! Which replicas are seen to live: pure, from the Leases as they are looked at again and again.
//!
//! Asked by `replica` at every look. A renewal is a change of the Lease, seen by our own clock: clocks are never compared. What must never
//! happen: a replica that renews is called dead because nobody looked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kerbside_core::clock::Boottime;

use super::{BLIND_AFTER, EXPIRES_AFTER};

/// A replica as it was last seen.
#[derive(Debug)]
struct Sight {
    /// Its renewal; None: it has no Lease.
    renewal: Option<String>,
    /// Since when that is so.
    since: Boottime,
    /// It had a Lease and has none: it has ended in good order, or was forgotten.
    ended: bool,
}

/// Who looks at the other replicas.
#[derive(Debug, Default)]
pub(super) struct Watchman {
    seen: BTreeMap<String, Sight>,
    looked_at: Boottime,
}

impl Watchman {
    /// `leases` are the renewals by holder; the replicas among `wanted` that have shown nothing new for too long, or have ended.
    pub(super) fn dead(
        &mut self,
        wanted: &BTreeSet<String>,
        leases: &BTreeMap<String, String>,
        now: Boottime,
    ) -> BTreeSet<String> {
        // Who could not look for so long has seen no renewal, whoever renewed: everybody gets the same time anew.
        if now.since(self.looked_at) >= BLIND_AFTER {
            for sight in self.seen.values_mut() {
                sight.since = now;
            }
        }
        self.looked_at = now;
        self.seen.retain(|replica, _| wanted.contains(replica));
        let mut dead = BTreeSet::new();
        for replica in wanted {
            let renewal = leases.get(replica);
            let sight = self.seen.entry(replica.clone()).or_insert_with(|| Sight {
                renewal: renewal.cloned(),
                since: now,
                ended: false,
            });
            if sight.renewal.as_ref() != renewal {
                *sight = Sight {
                    ended: renewal.is_none(),
                    renewal: renewal.cloned(),
                    since: now,
                };
            }
            if sight.ended || now.since(sight.since) >= EXPIRES_AFTER {
                dead.insert(replica.clone());
            }
        }
        dead
    }

    /// For how long the replica has shown nothing new.
    pub(super) fn silence(&self, replica: &str, now: Boottime) -> Duration {
        self.seen
            .get(replica)
            .map_or(Duration::ZERO, |sight| now.since(sight.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::RENEW_EVERY;
    use kerbside_k8s::lease;

    fn at(seconds: u64) -> Boottime {
        Boottime(Duration::from_secs(seconds))
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    fn renewals(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    /// Looks as often as a replica does, from `from` until `to`, and finds nobody dead.
    fn nobody_dead(
        watchman: &mut Watchman,
        wanted: &BTreeSet<String>,
        leases: &BTreeMap<String, String>,
        from: u64,
        to: u64,
    ) {
        for second in (from..to).step_by(3) {
            let dead = watchman.dead(wanted, leases, at(second));
            assert!(dead.is_empty(), "at {second}: {dead:?}");
        }
    }

    #[test]
    fn replica_that_renews_lives_and_one_that_stops_dies() {
        let mut watchman = Watchman::default();
        let both = set(&["a", "b"]);
        for second in [0, 3, 6, 9, 12, 15, 17] {
            let renewed = second.to_string();
            let dead = watchman.dead(&both, &renewals(&[("a", &renewed), ("b", "1")]), at(second));
            assert!(dead.is_empty(), "{second}: {dead:?}");
        }
        assert_eq!(
            watchman.dead(&both, &renewals(&[("a", "2"), ("b", "1")]), at(18)),
            set(&["b"])
        );
        assert!(
            watchman
                .dead(&both, &renewals(&[("a", "2"), ("b", "2")]), at(21))
                .is_empty(),
            "it is back"
        );
    }

    #[test]
    fn replica_without_a_lease_gets_the_same_time() {
        let mut watchman = Watchman::default();
        nobody_dead(&mut watchman, &set(&["a"]), &renewals(&[]), 100, 118);
        assert_eq!(watchman.dead(&set(&["a"]), &renewals(&[]), at(118)), set(&["a"]));
    }

    #[test]
    fn replica_that_took_its_lease_away_has_ended_and_is_waited_for_no_longer() {
        let mut watchman = Watchman::default();
        let a = set(&["a"]);
        assert!(watchman.dead(&a, &renewals(&[("a", "1")]), at(100)).is_empty());
        assert_eq!(watchman.dead(&a, &renewals(&[]), at(103)), a);
        assert_eq!(
            watchman.dead(&a, &renewals(&[]), at(106)),
            a,
            "until its vehicles are taken"
        );
        assert!(
            watchman.dead(&a, &renewals(&[("a", "2")]), at(109)).is_empty(),
            "it was started again"
        );
    }

    #[test]
    fn who_could_not_look_gives_everybody_the_time_anew() {
        let mut watchman = Watchman::default();
        let (other, lease) = (set(&["a"]), renewals(&[("a", "1")]));
        assert!(watchman.dead(&other, &lease, at(1000)).is_empty());
        // The API server was away for five minutes, for both of us.
        nobody_dead(&mut watchman, &other, &lease, 1300, 1318);
        assert_eq!(watchman.dead(&other, &lease, at(1318)), other);
    }

    #[test]
    fn silence_is_since_the_last_new_word() {
        let mut watchman = Watchman::default();
        watchman.dead(&set(&["a"]), &renewals(&[("a", "1")]), at(100));
        watchman.dead(&set(&["a"]), &renewals(&[("a", "1")]), at(103));
        assert_eq!(watchman.silence("a", at(104)), Duration::from_secs(4));
        assert_eq!(watchman.silence("b", at(104)), Duration::ZERO);
    }

    /// A replica dies at any moment between two of its renewals, another looks at any moment between two of its looks, and the Lease of a
    /// Node was due for renewal just then.
    #[test]
    fn node_of_a_replica_that_died_is_renewed_before_kube_controller_manager_gives_it_up() {
        // What the claim of the vehicle, the start of its actor and the first renewal may take.
        let taking_over = Duration::from_secs(5);
        let every = u64::try_from(RENEW_EVERY.as_millis()).unwrap();
        let mut latest = Duration::ZERO;
        for (dies, looks) in (0..every)
            .step_by(100)
            .flat_map(|d| (0..every).step_by(100).map(move |l| (d, l)))
        {
            let mut watchman = Watchman::default();
            let died = 60_000 + dies;
            let adopted = (looks..).step_by(usize::try_from(every).unwrap()).find(|now| {
                let renewal = (died.min(*now) / every).to_string();
                let now = Boottime(Duration::from_millis(*now));
                !watchman
                    .dead(&set(&["a"]), &renewals(&[("a", &renewal)]), now)
                    .is_empty()
            });
            let after = Duration::from_millis(adopted.unwrap() - died);
            assert!(adopted.unwrap() > died, "it was alive");
            latest = latest.max(after);
        }
        let unrenewed = lease::RENEW_EVERY + latest + taking_over;
        assert!(
            unrenewed < lease::CONTROLLER_GRACE,
            "unrenewed for {unrenewed:?}, adopted after {latest:?}"
        );
    }
}
