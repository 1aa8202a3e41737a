//! How much of the work that a returning driver interrupts goes on afterwards because it was frozen and not ended. Pure: from traces.
//!
//! Attempts of an hour each run one after the other while a car stands. A visit freezes the one that runs; if the car is left alone again
//! within the owner's `resumeWithin` it goes on, else what was done of it is lost, as it is when the car drives off. How often people go to
//! their cars without driving off is not known: the share is given for several numbers of visits a day.

use std::time::Duration;

use kerbside_simulator::traces::{Fleet, Interval, Trace};

/// How long an attempt computes.
const ATTEMPT: Duration = Duration::from_hours(1);
/// A driver is at the car for so long before it drives off.
const RETURN: Duration = Duration::from_secs(45);

/// What an owner's document and a maker's terms say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) dwell: Duration,
    pub(super) resume_within: Duration,
}

/// Seconds of work that were going on when somebody came: how much of it went on afterwards, and how much was lost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Interrupted {
    saved: f64,
    lost: f64,
}

/// Of the work that was going on when somebody came, the share that went on afterwards; `per_day`: visits to each car.
pub(super) fn share(fleet: &Fleet, cars: u32, per_day: f64, terms: Terms) -> f64 {
    let mut all = Interrupted::default();
    for trace in fleet.traces(cars) {
        let visits = fleet.visits(&trace, per_day);
        let of_car = interrupted(&trace, &visits, terms);
        all.saved += of_car.saved;
        all.lost += of_car.lost;
    }
    all.saved / (all.saved + all.lost).max(f64::MIN_POSITIVE)
}

fn interrupted(trace: &Trace, visits: &[Interval], terms: Terms) -> Interrupted {
    let mut all = Interrupted::default();
    for stay in &trace.stays {
        let end = stay.during.until.saturating_sub(RETURN);
        // When the present attempt has begun, as if it had computed ever since.
        let mut begun = stay.during.from + terms.dwell;
        for visit in visits.iter().filter(|visit| stay.during.contains(visit.from)) {
            let done = done(begun, visit.from);
            let again = visit.until + terms.dwell;
            if visit.length() <= terms.resume_within {
                all.saved += done.as_secs_f64();
                // It stood still meanwhile.
                begun = again.saturating_sub(done);
            } else {
                all.lost += done.as_secs_f64();
                begun = again;
            }
        }
        // Whoever stays beyond the end of the trace is not interrupted.
        if stay.during.until < trace.length {
            all.lost += done(begun, end).as_secs_f64();
        }
    }
    all
}

/// What the attempt that runs at `now` has done, when the first one began at `begun`.
fn done(begun: Duration, now: Duration) -> Duration {
    let since = now.saturating_sub(begun);
    since.saturating_sub(ATTEMPT * u32::try_from(since.as_secs() / ATTEMPT.as_secs()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use kerbside_simulator::traces::{Place, Stay};

    use super::*;

    const TERMS: Terms = Terms {
        dwell: Duration::from_mins(2),
        resume_within: Duration::from_mins(2),
    };

    fn minutes(from: u64, until: u64) -> Interval {
        Interval {
            from: Duration::from_mins(from),
            until: Duration::from_mins(until),
        }
    }

    fn stands(during: Interval) -> Trace {
        let fleet = Fleet {
            days: 1,
            ..Fleet::default()
        };
        Trace {
            stays: vec![Stay {
                place: Place::Home,
                during,
            }],
            ..fleet.trace(0)
        }
    }

    #[test]
    fn short_visit_saves_what_was_done_and_the_way_home_loses_it() {
        let trace = stands(minutes(0, 50));
        let all = interrupted(&trace, &[minutes(22, 23)], TERMS);
        // From minute 2 to 22, then from 25 to a driver's return before 50.
        let lost = 20.0 * 60.0 + 25.0 * 60.0 - RETURN.as_secs_f64();
        assert_eq!(
            all,
            Interrupted {
                saved: 20.0 * 60.0,
                lost
            }
        );
    }

    #[test]
    fn long_visit_loses_what_was_done_and_what_was_finished_is_not_counted() {
        let trace = stands(minutes(0, 200));
        let all = interrupted(&trace, &[minutes(72, 80)], TERMS);
        // An hour is finished at 62; ten minutes are lost; from 82 on one more hour is finished.
        let lost = 10.0 * 60.0 + 58.0 * 60.0 - RETURN.as_secs_f64();
        assert_eq!(all, Interrupted { saved: 0.0, lost });
    }

    #[test]
    fn more_visits_save_more_and_none_saves_nothing() {
        let fleet = Fleet {
            seed: 7,
            days: 7,
            ..Fleet::default()
        };
        let shares = [0.0, 0.5, 2.0].map(|per_day| share(&fleet, 30, per_day, TERMS));
        assert!(shares[0].abs() < f64::EPSILON);
        assert!(
            shares[0] < shares[1] && shares[1] < shares[2] && shares[2] < 1.0,
            "{shares:?}"
        );
    }
}
