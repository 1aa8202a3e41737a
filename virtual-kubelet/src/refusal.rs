//! How long a refused Pod of other people is held Pending before it is Failed.
//!
//! A ReplicaSet replaces a Failed Pod at once and without any back-off; held Pods keep it from making thousands. One ledger for
//! the adapter, asked by the actors. Per owner and car the hold doubles from 10 s to 10 min; over all cars, the Pods of one owner
//! are let go one every 10 s at most.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kerbside_core::backoff::Backoff;
use kerbside_core::clock::Boottime;
use kerbside_core::ids::VehicleId;

/// Between two Pods of one owner that are let go.
const SPACING: Duration = Duration::from_secs(10);
/// After that long without a refusal the back-off begins anew.
const FORGET_AFTER: Duration = Duration::from_mins(20);

/// Who was refused where, how often and until when.
#[derive(Debug, Default)]
pub(crate) struct RefusalLedger {
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    by_car: HashMap<(String, VehicleId), (u32, Boottime)>,
    by_owner: HashMap<String, Boottime>,
}

impl RefusalLedger {
    /// Until when a Pod of `owner`, just refused on `car`, is held.
    pub(crate) fn hold(&self, owner: &str, car: &VehicleId, now: Boottime) -> Boottime {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.by_car.retain(|_, (_, until)| now.since(*until) < FORGET_AFTER);
        entries.by_owner.retain(|_, until| now.since(*until) < FORGET_AFTER);
        let entry = entries
            .by_car
            .entry((owner.to_owned(), car.clone()))
            .or_insert((0, now));
        entry.0 = entry.0.saturating_add(1);
        let mut until = now + Backoff::POD.delay(entry.0);
        entry.1 = until;
        let last = entries.by_owner.get(owner).copied();
        if let Some(last) = last {
            until = until.max(last + SPACING);
        }
        entries
            .by_owner
            .insert(owner.to_owned(), until.max(last.unwrap_or_default()));
        until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn car(n: u8) -> VehicleId {
        VehicleId::from_random([n; 10])
    }

    fn at(seconds: u64) -> Boottime {
        Boottime(Duration::from_secs(seconds))
    }

    #[test]
    fn hold_doubles_per_owner_and_car() {
        let ledger = RefusalLedger::default();
        assert_eq!(ledger.hold("rs", &car(1), at(0)), at(10));
        assert_eq!(ledger.hold("rs", &car(1), at(10)), at(30));
        assert_eq!(ledger.hold("rs", &car(1), at(30)), at(70));
        assert_eq!(ledger.hold("other", &car(1), at(30)), at(40));
    }

    #[test]
    fn hold_is_forgotten_after_a_while() {
        let ledger = RefusalLedger::default();
        ledger.hold("rs", &car(1), at(0));
        assert_eq!(ledger.hold("rs", &car(1), at(2_000)), at(2_010));
    }

    #[test]
    fn deployment_that_every_car_refuses_makes_fewer_than_ten_pods_in_a_minute() {
        let ledger = RefusalLedger::default();
        let (mut pods, mut next_car) = (0, 0);
        let mut failures: Vec<u64> = Vec::new();
        let mut make = |now: u64, failures: &mut Vec<u64>| {
            next_car += 1;
            pods += 1;
            failures.push(ledger.hold("rs", &car(next_car), at(now)).0.as_secs());
        };
        for _ in 0..3 {
            make(0, &mut failures);
        }
        for now in 0..60 {
            while let Some(i) = failures.iter().position(|f| *f == now) {
                failures.remove(i);
                make(now, &mut failures);
            }
        }
        assert!(pods < 10, "{pods}");
    }
}
