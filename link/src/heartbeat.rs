//! When a car says that it is there, and when either side stops believing that the other is.
//!
//! Pure. [`CarBeat`] is the car's side, one per session; [`Hearing`] is the adapter's, one per car, for its vehicle actor. Both
//! count on `CLOCK_BOOTTIME` alone. Never: a fence counted from an acknowledgement; it counts from *sending* what was
//! acknowledged, so that the car's fence is always over before the adapter's.
//!
//! | state of the session | the car sends | the car gives it up | the adapter suspects the car |
//! |---|---|---|---|
//! | no attempt in the car | every 20 s | 10 s after an unanswered heartbeat | after 50 s of silence |
//! | an attempt in the car | every 4 s | 6 s after an unanswered heartbeat | after 10 s of silence |
//! | a `Run` without an answer | as above | as above | 3 s after it was sent |

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kerbside_core::clock::Boottime;

/// Between heartbeats of a car without an attempt: all that 0.1 kbit/s on the air allows.
pub const IDLE: Duration = Duration::from_secs(20);

/// Between heartbeats of a car with an attempt.
pub const BUSY: Duration = Duration::from_secs(4);

/// Unanswered heartbeats that are remembered; the session is given up long before there are more.
const REMEMBERED: usize = 16;

/// How often a car sends, as its adapter wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intervals {
    /// While the car has no attempt.
    pub idle: Duration,
    /// While it has one.
    pub busy: Duration,
}

impl Default for Intervals {
    fn default() -> Self {
        Self { idle: IDLE, busy: BUSY }
    }
}

impl Intervals {
    /// As `Welcome` says it; what it leaves out or gives as zero is the default.
    pub fn from_millis(idle: u32, busy: u32) -> Self {
        let or = |ms: u32, default: Duration| {
            if ms == 0 {
                default
            } else {
                Duration::from_millis(u64::from(ms))
            }
        };
        Self {
            idle: or(idle, IDLE),
            busy: or(busy, BUSY),
        }
    }
}

/// What the car is to do about its heartbeat now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// Send the heartbeat with this number.
    Send(u64),
    /// Nothing, until then.
    Wait(Boottime),
    /// The adapter is silent: leave this session and connect again.
    Silent,
}

/// The car's side of one session.
#[derive(Debug)]
pub struct CarBeat {
    intervals: Intervals,
    busy: bool,
    seq: u64,
    last_sent: Boottime,
    /// Hello, until it or a heartbeat after it is acknowledged.
    hello: Option<Boottime>,
    unanswered: VecDeque<(u64, Boottime)>,
}

impl CarBeat {
    /// A session whose `Hello` was sent at `hello`; it counts as the heartbeat with the number zero. Whether `Welcome` came, the session
    /// knows; nobody is given up for an acknowledgement of `Hello`, which older adapters do not send.
    pub fn new(intervals: Intervals, hello: Boottime, busy: bool) -> Self {
        Self {
            intervals,
            busy,
            seq: 0,
            last_sent: hello,
            hello: Some(hello),
            unanswered: VecDeque::new(),
        }
    }

    /// Whether the car has an attempt; a car that gets one sends sooner.
    pub fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
    }

    /// What to do now. `Send` counts as done.
    pub fn poll(&mut self, now: Boottime) -> Beat {
        let give_up = self.unanswered.front().map(|(_, sent)| *sent + self.patience());
        if give_up.is_some_and(|at| now >= at) || self.unanswered.len() >= REMEMBERED {
            return Beat::Silent;
        }
        let due = self.last_sent + self.interval();
        if now < due {
            return Beat::Wait(give_up.map_or(due, |at| at.min(due)));
        }
        Beat::Send(self.send(now))
    }

    /// The number of a heartbeat that is sent now, due or not. The first goes out with the Welcome: before it the adapter cannot know
    /// that the car still has this session, and concludes nothing from what `Hello` did not name.
    pub fn send(&mut self, now: Boottime) -> u64 {
        self.seq += 1;
        self.last_sent = now;
        self.unanswered.push_back((self.seq, now));
        self.seq
    }

    /// The adapter has heard the heartbeat `seq`, and with it all before. Returns when it was sent: fences count from then.
    pub fn acknowledged(&mut self, seq: u64) -> Option<Boottime> {
        if seq == 0 {
            return self.hello.take();
        }
        let mut sent_at = None;
        while let Some((first, sent)) = self.unanswered.front().copied() {
            if first > seq {
                break;
            }
            self.unanswered.pop_front();
            if first == seq {
                sent_at = Some(sent);
                self.hello = None;
            }
        }
        sent_at
    }

    fn interval(&self) -> Duration {
        if self.busy {
            self.intervals.busy
        } else {
            self.intervals.idle
        }
    }

    /// With an attempt: before the adapter suspects us. Without: a sleeping modem may take its time.
    fn patience(&self) -> Duration {
        if self.busy {
            self.intervals.busy * 3 / 2
        } else {
            self.intervals.idle / 2
        }
    }
}

/// How long an adapter believes in a car that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Without an attempt.
    pub idle: Duration,
    /// With one.
    pub busy: Duration,
    /// After a `Run` that is not answered by a status.
    pub run: Duration,
}

impl Default for Thresholds {
    /// Two and a half intervals: one heartbeat may be lost, two may not.
    fn default() -> Self {
        Self {
            idle: IDLE * 5 / 2,
            busy: BUSY * 5 / 2,
            run: Duration::from_secs(3),
        }
    }
}

/// The adapter's side: what it has heard of one car, over all its sessions.
#[derive(Debug)]
pub struct Hearing {
    thresholds: Thresholds,
    busy: bool,
    heard: Boottime,
    runs: BTreeMap<String, Boottime>,
}

impl Hearing {
    /// A car that was heard at `now`.
    pub fn new(thresholds: Thresholds, now: Boottime) -> Self {
        Self {
            thresholds,
            busy: false,
            heard: now,
            runs: BTreeMap::new(),
        }
    }

    /// Whether an attempt is in the car, as far as the adapter knows.
    pub fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
    }

    /// Something arrived from the car.
    pub fn heard(&mut self, at: Boottime) {
        self.heard = self.heard.max(at);
    }

    /// A `Run` was sent over a living session. Sent again, it counts from the first time.
    pub fn run_sent(&mut self, uid: &str, at: Boottime) {
        self.runs.entry(uid.to_owned()).or_insert(at);
    }

    /// A status of that attempt arrived, or nobody waits for one any more.
    pub fn run_answered(&mut self, uid: &str) {
        self.runs.remove(uid);
    }

    /// When the car was last heard: the adapter's fences count from then.
    pub fn last_heard(&self) -> Boottime {
        self.heard
    }

    /// From when on the car is suspect, unless it is heard before.
    pub fn suspect_at(&self) -> Boottime {
        let silence = if self.busy {
            self.thresholds.busy
        } else {
            self.thresholds.idle
        };
        let silent = self.heard + silence;
        let unanswered = self.runs.values().min().map(|sent| *sent + self.thresholds.run);
        unanswered.map_or(silent, |at| at.min(silent))
    }

    /// Whether the car is suspect.
    pub fn is_suspect(&self, now: Boottime) -> bool {
        now >= self.suspect_at()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Boottime {
        Boottime(Duration::from_millis(ms))
    }

    fn beat(busy: bool) -> CarBeat {
        CarBeat::new(Intervals::default(), at(0), busy)
    }

    #[test]
    fn car_without_an_attempt_sends_every_twenty_seconds() {
        let mut beat = beat(false);
        assert_eq!(beat.poll(at(0)), Beat::Wait(at(20_000)));
        assert_eq!(beat.poll(at(20_000)), Beat::Send(1));
        assert_eq!(beat.acknowledged(1), Some(at(20_000)));
        assert_eq!(beat.poll(at(20_100)), Beat::Wait(at(40_000)));
    }

    #[test]
    fn heartbeat_that_is_sent_before_it_is_due_puts_off_the_next() {
        let mut beat = beat(false);
        assert_eq!(beat.send(at(300)), 1);
        assert_eq!(beat.poll(at(400)), Beat::Wait(at(10_300)));
        assert_eq!(beat.acknowledged(1), Some(at(300)));
        assert_eq!(beat.poll(at(400)), Beat::Wait(at(20_300)));
    }

    #[test]
    fn car_that_gets_an_attempt_sends_four_seconds_after_its_last() {
        let mut beat = beat(false);
        assert_eq!(beat.poll(at(1_000)), Beat::Wait(at(20_000)));
        beat.set_busy(true);
        assert_eq!(beat.poll(at(1_000)), Beat::Wait(at(4_000)));
        assert_eq!(beat.poll(at(5_000)), Beat::Send(1));
    }

    #[test]
    fn car_with_an_unanswered_heartbeat_gives_up_before_it_is_suspected() {
        let mut beat = beat(true);
        assert_eq!(beat.poll(at(4_000)), Beat::Send(1));
        assert_eq!(beat.poll(at(8_000)), Beat::Send(2));
        assert_eq!(beat.poll(at(8_001)), Beat::Wait(at(10_000)));
        assert_eq!(beat.poll(at(10_000)), Beat::Silent);
        let hearing = Hearing::new(
            Thresholds {
                idle: IDLE,
                ..Thresholds::default()
            },
            at(4_000),
        );
        assert!(!hearing.is_suspect(at(10_000)));
    }

    #[test]
    fn car_woken_after_hours_in_suspend_sends_at_once() {
        let mut beat = beat(false);
        assert_eq!(beat.poll(at(7_200_000)), Beat::Send(1));
    }

    #[test]
    fn acknowledgement_gives_the_time_of_sending_and_covers_what_was_before() {
        let mut beat = beat(true);
        assert_eq!(beat.poll(at(4_000)), Beat::Send(1));
        assert_eq!(beat.poll(at(8_000)), Beat::Send(2));
        assert_eq!(beat.acknowledged(2), Some(at(8_000)));
        assert_eq!(beat.acknowledged(1), None);
        assert_eq!(beat.poll(at(11_000)), Beat::Wait(at(12_000)));
    }

    #[test]
    fn hello_is_acknowledged_once_and_not_after_a_heartbeat() {
        let mut greeted = beat(true);
        assert_eq!(greeted.acknowledged(0), Some(at(0)));
        assert_eq!(greeted.acknowledged(0), None);
        let mut late = beat(true);
        assert_eq!(late.poll(at(4_000)), Beat::Send(1));
        assert_eq!(late.acknowledged(1), Some(at(4_000)));
        assert_eq!(late.acknowledged(0), None);
    }

    #[test]
    fn acknowledgement_of_what_was_never_sent_says_nothing() {
        let mut beat = beat(true);
        assert_eq!(beat.poll(at(4_000)), Beat::Send(1));
        assert_eq!(beat.acknowledged(77), None);
    }

    #[rstest::rstest]
    #[case(false, 49_999, false)]
    #[case(false, 50_000, true)]
    #[case(true, 9_999, false)]
    #[case(true, 10_000, true)]
    fn adapter_after_silence_suspects(#[case] busy: bool, #[case] ms: u64, #[case] suspect: bool) {
        let mut hearing = Hearing::new(Thresholds::default(), at(0));
        hearing.set_busy(busy);
        assert_eq!(hearing.is_suspect(at(ms)), suspect);
    }

    #[test]
    fn adapter_after_an_unanswered_run_suspects_a_car_that_still_sends_heartbeats() {
        let mut hearing = Hearing::new(Thresholds::default(), at(0));
        hearing.run_sent("a", at(1_000));
        hearing.run_sent("a", at(3_000));
        hearing.heard(at(3_900));
        assert!(!hearing.is_suspect(at(3_999)));
        assert!(hearing.is_suspect(at(4_000)));
        hearing.run_answered("a");
        assert!(!hearing.is_suspect(at(4_000)));
    }

    #[test]
    fn intervals_that_welcome_leaves_out_are_the_default() {
        assert_eq!(Intervals::from_millis(0, 0), Intervals::default());
        assert_eq!(Intervals::from_millis(7, 3).busy, Duration::from_millis(3));
    }

    proptest! {
        /// Whatever is lost and however late, the car counts its fences from no later a moment than the adapter does.
        #[test]
        fn fences_are_counted_earlier_by_the_car(steps in prop::collection::vec((1u64..3_000, 0u64..2_000, any::<bool>(), any::<bool>()), 1..100)) {
            let mut beat = beat(true);
            let mut hearing = Hearing::new(Thresholds::default(), at(0));
            let mut now = 0;
            let mut car_from = at(0);
            for (later, way, there, back) in steps {
                now += later;
                if let Beat::Send(seq) = beat.poll(at(now)) {
                    let arrives = at(now + way);
                    if there {
                        hearing.heard(arrives);
                        if back && let Some(sent) = beat.acknowledged(seq) {
                            car_from = car_from.max(sent);
                        }
                    }
                }
                prop_assert!(car_from <= hearing.last_heard());
            }
        }
    }
}
