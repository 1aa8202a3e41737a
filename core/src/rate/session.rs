//! What one session of a car may say, by kind: more than that waits, and what goes on for long ends the session.
//!
//! Asked by the link's reader for each message, before it is handed on. Waiting is done by reading no more, which holds up that car and
//! nobody else. The rates are far above what any car of ours says: they are no plan, only an end. Never: a kind handed on more often than
//! its rate, or one car's flood of one kind that lets another kind of it through faster.

use std::time::Duration;

use super::{Bucket, Rate};
use crate::clock::Boottime;

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The car is there.
    Heartbeat,
    /// What the car says of itself.
    State,
    /// What it says of an attempt.
    Status,
    /// What this version does not know.
    Unknown,
}

impl Kind {
    /// As in metrics, logs and what a car is told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::State => "state",
            Self::Status => "status",
            Self::Unknown => "unknown",
        }
    }
}

/// How much a session may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Heartbeats.
    pub heartbeat: Rate,
    /// States of the car.
    pub state: Rate,
    /// Statuses of attempts, of all together.
    pub status: Rate,
    /// Messages that this version does not know.
    pub unknown: Rate,
    /// A kind of which every message had to wait for so long ends the session.
    pub patience: Duration,
}

impl Default for Rates {
    /// A car is heard every 4 s at most, says how it stands when that changes, and keeps of each attempt only the newest status; a hundred
    /// Pods that begin at once say some hundred statuses in a few seconds.
    fn default() -> Self {
        let usual = Rate {
            burst: 100,
            every: Duration::from_millis(100),
        };
        Self {
            heartbeat: usual,
            state: usual,
            status: Rate {
                burst: 2_000,
                every: Duration::from_millis(10),
            },
            unknown: usual,
            patience: Duration::from_secs(30),
        }
    }
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is handed on now.
    Now,
    /// It is handed on after so long, and nothing else is read before.
    After(Duration),
    /// The session ends.
    End,
}

/// One kind of one session.
#[derive(Debug, Clone, Copy, Default)]
struct Lane {
    bucket: Bucket,
    /// Since when every message of the kind had to wait.
    late_since: Option<Boottime>,
}

/// What is left to one session.
#[derive(Debug)]
pub struct Flow {
    rates: Rates,
    heartbeat: Lane,
    state: Lane,
    status: Lane,
    unknown: Lane,
}

impl Flow {
    /// A session that has said nothing yet.
    pub fn new(rates: Rates) -> Self {
        Self {
            rates,
            heartbeat: Lane::default(),
            state: Lane::default(),
            status: Lane::default(),
            unknown: Lane::default(),
        }
    }

    /// A message of this kind was read at `now`.
    pub fn take(&mut self, kind: Kind, now: Boottime) -> Verdict {
        let (rate, lane) = match kind {
            Kind::Heartbeat => (self.rates.heartbeat, &mut self.heartbeat),
            Kind::State => (self.rates.state, &mut self.state),
            Kind::Status => (self.rates.status, &mut self.status),
            Kind::Unknown => (self.rates.unknown, &mut self.unknown),
        };
        let wait = lane.bucket.wait(rate, now);
        lane.bucket.take(rate, now);
        if wait.is_zero() {
            lane.late_since = None;
            return Verdict::Now;
        }
        let since = *lane.late_since.get_or_insert(now);
        if now.since(since) < self.rates.patience {
            Verdict::After(wait)
        } else {
            Verdict::End
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATES: Rates = Rates {
        heartbeat: Rate {
            burst: 2,
            every: Duration::from_secs(4),
        },
        state: Rate {
            burst: 1,
            every: Duration::from_secs(1),
        },
        status: Rate {
            burst: 5,
            every: Duration::from_millis(500),
        },
        unknown: Rate {
            burst: 1,
            every: Duration::from_secs(10),
        },
        patience: Duration::from_secs(30),
    };

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![
            Just(Kind::Heartbeat),
            Just(Kind::State),
            Just(Kind::Status),
            Just(Kind::Unknown)
        ]
    }

    fn rate_of(kind: Kind) -> Rate {
        match kind {
            Kind::Heartbeat => RATES.heartbeat,
            Kind::State => RATES.state,
            Kind::Status => RATES.status,
            Kind::Unknown => RATES.unknown,
        }
    }

    #[test]
    fn flood_is_held_to_its_rate_and_ends_the_session_after_the_patience() {
        let mut flow = Flow::new(RATES);
        let mut now = Boottime(Duration::from_secs(100));
        assert_eq!(flow.take(Kind::State, now), Verdict::Now);
        for _ in 0..30 {
            assert_eq!(flow.take(Kind::State, now), Verdict::After(Duration::from_secs(1)));
            now = now + Duration::from_secs(1);
        }
        assert_eq!(flow.take(Kind::State, now), Verdict::End);
    }

    #[test]
    fn burst_beyond_the_rate_that_ends_is_forgotten() {
        let mut flow = Flow::new(RATES);
        for minute in 0..100 {
            let now = Boottime(Duration::from_mins(minute));
            assert_eq!(flow.take(Kind::State, now), Verdict::Now);
            assert_eq!(flow.take(Kind::State, now), Verdict::After(Duration::from_secs(1)));
        }
    }

    proptest! {
        #[test]
        fn no_kind_is_handed_on_more_often_than_its_rate(says in prop::collection::vec((kind(), 0u64..3_000), 1..300)) {
            let mut flow = Flow::new(RATES);
            let begin = Boottime(Duration::from_secs(1_000));
            // When the reader is free, and when each message arrives.
            let (mut now, mut arrives) = (begin, begin);
            let mut handed_on: Vec<Kind> = Vec::new();
            for (kind, later) in says {
                arrives = arrives + Duration::from_millis(later);
                now = now.max(arrives);
                match flow.take(kind, now) {
                    Verdict::Now => {}
                    Verdict::After(wait) => now = now + wait,
                    Verdict::End => break,
                }
                handed_on.push(kind);
                let so_many = handed_on.iter().filter(|before| **before == kind).count();
                let rate = rate_of(kind);
                let allowed = u128::from(rate.burst) + now.since(begin).as_nanos() / rate.every.as_nanos();
                prop_assert!(so_many as u128 <= allowed, "{so_many} of {kind:?} after {:?}", now.since(begin));
            }
        }

        #[test]
        fn car_that_keeps_to_the_rates_is_never_held_up(says in prop::collection::vec((kind(), 0u64..60), 1..300)) {
            let mut flow = Flow::new(RATES);
            let mut now = Boottime::default();
            for (kind, more) in says {
                now = now + rate_of(kind).every + Duration::from_secs(more);
                prop_assert_eq!(flow.take(kind, now), Verdict::Now);
            }
        }

        #[test]
        fn flood_of_one_kind_ends_and_whatever_else_is_said_does_not_hide_it(other in kind(), every in 1usize..5) {
            prop_assume!(other != Kind::Status);
            let mut flow = Flow::new(RATES);
            let mut now = Boottime::default();
            let mut ended = false;
            for n in 0..2_000 {
                let kind = if n % every == 0 { Kind::Status } else { other };
                match flow.take(kind, now) {
                    Verdict::Now => {}
                    Verdict::After(wait) => now = now + wait,
                    Verdict::End => {
                        ended = true;
                        break;
                    }
                }
            }
            prop_assert!(ended);
            prop_assert!(now.since(Boottime::default()) < Duration::from_mins(2));
        }
    }
}
