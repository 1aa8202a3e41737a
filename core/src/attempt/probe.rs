//! One probe of one container: when it is due, and what its results come to.
//!
//! Owned by a container of an attempt; the actor of the attempt asks the program and brings the answer. As the kubelet: the first try
//! after `initialDelaySeconds` of the run, then one each period, thresholds of results in a row. What must never happen: a result of a
//! try that was given up, by a freeze or an end, counts.

use std::time::Duration;

use crate::clock::Boottime;

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Until it succeeds the other two wait, and so do the containers after an init container that stays.
    Startup,
    /// A container that fails it is ended, and started again if its policy says so.
    Liveness,
    /// Whether the container is ready.
    Readiness,
}

/// What a Pod says of a probe, but how to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// `initialDelaySeconds`, from the start of the run.
    pub initial_delay: Duration,
    /// `periodSeconds`.
    pub period: Duration,
    /// `successThreshold`, at least 1.
    pub successes: u32,
    /// `failureThreshold`, at least 1.
    pub failures: u32,
    /// The probe's own `terminationGracePeriodSeconds`.
    pub grace: Option<Duration>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            successes: 1,
            failures: 3,
            grace: None,
        }
    }
}

/// Where a probe stands in this run of its container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The number of the try whose answer is waited for, and when it was made.
    asked: Option<(u32, Boottime)>,
    /// When the next try is due; `None`: not before the answer, or the thaw.
    due: Option<Boottime>,
    /// No try before this; it moves with every pause.
    first: Boottime,
    paused: Option<Boottime>,
    tries: u32,
    /// Results of one kind in a row.
    row: u32,
    last: Option<bool>,
    /// What the results came to, once one of the thresholds was reached.
    pub verdict: Option<bool>,
}

impl Probe {
    /// A probe of a run that began at `since`.
    pub fn begin(plan: &Plan, since: Boottime, now: Boottime) -> Self {
        let first = (since + plan.initial_delay).max(now);
        Self {
            asked: None,
            due: Some(first),
            first,
            paused: None,
            tries: 0,
            row: 0,
            last: None,
            verdict: None,
        }
    }

    /// When it is to be asked next.
    pub fn due(&self) -> Option<Boottime> {
        self.due
    }

    /// The number of the try that is to be made now, if one is due.
    pub fn ask(&mut self, now: Boottime) -> Option<u32> {
        self.due.take_if(|at| *at <= now)?;
        self.tries += 1;
        self.asked = Some((self.tries, now));
        Some(self.tries)
    }

    /// Takes the answer of a try; whether it counts.
    pub fn answered(&mut self, plan: &Plan, number: u32, well: bool, now: Boottime) -> bool {
        let Some((_, asked)) = self.asked.take_if(|(asked, _)| *asked == number) else {
            return false;
        };
        // One each period, however long an answer takes.
        self.due = Some((asked + plan.period).max(now));
        self.row = if self.last == Some(well) {
            self.row.saturating_add(1)
        } else {
            1
        };
        self.last = Some(well);
        let enough = if well { plan.successes } else { plan.failures };
        if self.row >= enough {
            self.verdict = Some(well);
        }
        true
    }

    /// The program stands still: nobody is asked, and no answer of before counts.
    pub fn pause(&mut self, now: Boottime) {
        (self.asked, self.due) = (None, None);
        self.paused = self.paused.or(Some(now));
    }

    /// The program goes on: it gets one period to catch up, and all of its delay before the first try.
    pub fn resume(&mut self, plan: &Plan, now: Boottime) {
        if let Some(paused) = self.paused.take() {
            // A pause after the first try moves nothing.
            if paused < self.first {
                self.first = self.first + now.since(paused);
            }
            self.due = Some((now + plan.period).max(self.first));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Boottime {
        Boottime(Duration::from_secs(seconds))
    }

    fn plan() -> Plan {
        Plan {
            initial_delay: Duration::from_secs(5),
            period: Duration::from_secs(2),
            successes: 2,
            ..Plan::default()
        }
    }

    /// Asks at `second` and answers.
    fn answer(probe: &mut Probe, second: u64, well: bool) -> Option<bool> {
        let number = probe.ask(at(second));
        assert!(number.is_some_and(|number| probe.answered(&plan(), number, well, at(second))));
        probe.verdict
    }

    #[test]
    fn first_try_is_after_the_delay_and_the_next_a_period_after_it_was_made() {
        let mut probe = Probe::begin(&plan(), at(100), at(100));
        assert_eq!(probe.due(), Some(at(105)));
        assert_eq!(probe.ask(at(104)), None);
        let number = probe.ask(at(105)).unwrap();
        assert_eq!((probe.due(), probe.ask(at(200))), (None, None), "one at a time");
        probe.answered(&plan(), number, true, at(106));
        assert_eq!(probe.due(), Some(at(107)));
        let slow = probe.ask(at(107)).unwrap();
        probe.answered(&plan(), slow, true, at(120));
        assert_eq!(probe.due(), Some(at(120)), "none is made up for");
    }

    #[test]
    fn pause_does_not_use_up_the_delay() {
        let mut probe = Probe::begin(&plan(), at(100), at(100));
        probe.pause(at(101));
        probe.resume(&plan(), at(301));
        assert_eq!(probe.due(), Some(at(305)));
    }

    #[test]
    fn probe_that_begins_late_is_due_at_once() {
        let probe = Probe::begin(&plan(), at(100), at(150));
        assert_eq!(probe.due(), Some(at(150)));
    }

    #[test]
    fn only_as_many_in_a_row_as_the_threshold_says_make_a_verdict() {
        let mut probe = Probe::begin(&plan(), at(100), at(100));
        assert_eq!(answer(&mut probe, 105, true), None);
        assert_eq!(answer(&mut probe, 107, false), None);
        assert_eq!(answer(&mut probe, 109, true), None, "the row begins anew");
        assert_eq!(answer(&mut probe, 111, true), Some(true));
        assert_eq!(answer(&mut probe, 113, false), Some(true), "one failure is not three");
        assert_eq!(answer(&mut probe, 115, false), Some(true));
        assert_eq!(answer(&mut probe, 117, false), Some(false));
    }

    #[test]
    fn answer_to_a_try_before_a_freeze_does_not_count() {
        let mut probe = Probe::begin(&plan(), at(100), at(100));
        let before = probe.ask(at(105)).unwrap();
        probe.pause(at(105));
        assert_eq!(probe.due(), None);
        assert!(!probe.answered(&plan(), before, false, at(106)));
        probe.resume(&plan(), at(300));
        assert_eq!(probe.due(), Some(at(302)));
        let after = probe.ask(at(302)).unwrap();
        assert!(
            !probe.answered(&plan(), before, false, at(303)),
            "nor does it while another is asked"
        );
        assert!(probe.answered(&plan(), after, true, at(303)));
    }
}
