//! Whether this car gives its compute now: from signals to standing.
//!
//! Called by the agent's policy loop on every snapshot, owner's command and deadline. It decides, the loop carries out. Two rules hold
//! everywhere: unknown is no, and the first event of a returning driver stops work at once; waiting (the dwell) is only ever
//! for becoming available.
//!
//! | state | what is seen | next | effects |
//! |---|---|---|---|
//! | Away | parked for the dwell, may start, owner willing | Available | Announce |
//! | Away | anything else | Away | |
//! | Available | somebody at the car, a factor unknown, or the owner paused | Paused | Freeze, Announce |
//! | Available | about to drive, unfit, or the owner unwilling | Leaving | Freeze, Announce, Depart |
//! | Paused | parked for the dwell, owner willing | Available | Thaw, Announce |
//! | Paused | about to drive, unfit, owner unwilling, or `resume_within` over | Leaving | Announce, Depart |
//! | Leaving | somebody at the car, about to drive or unfit, and it was the owner's will so far | Leaving | Depart |
//! | Leaving | every attempt has stopped, or the notice is over | Away | Announce |
//!
//! Who leaves by the owner's will alone ends work in good order, within the notice; all others end it at once ([`Cause::at_once`]).
//!
//! `resume_within` is for the car to be parked again. One that is, in time, waits out the dwell even beyond it: else a dwell as long as
//! the owner's time would let no work ever go on. So work is frozen for at most both together.

pub mod judge;
pub mod signals;
mod tri;

use std::time::Duration;

pub use judge::{Factor, Gate, Judgement, Terms, Verdict, judge};
pub use signals::{Reading, Snapshot, Value, View};
pub use tri::Tri;

use crate::clock::Boottime;

/// What the owner's document and command say now, signals of energy included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Will {
    /// Willing.
    Yes,
    /// Not now, but perhaps soon.
    Paused,
    /// Not willing.
    No,
}

/// Why work was frozen or ended. For the owner and the log; never said to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A factor is not yes.
    Factor(Factor),
    /// The owner's document or command.
    Owner,
    /// The car was paused for longer than the owner lets work wait.
    PausedTooLong,
}

impl Cause {
    /// Whether work ends without any processor time more. Only who is not willing any more while nobody is at the car lets it end in good
    /// order, within the notice.
    pub fn at_once(self) -> bool {
        self != Self::Owner
    }
}

/// Where the car stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No work.
    Away {
        /// Since when the car has been parked without a break, if it is.
        parked_since: Option<Boottime>,
    },
    /// Parked and willing.
    Available {
        /// Since when it has been parked.
        parked_since: Boottime,
    },
    /// Work is frozen.
    Paused {
        /// Since when it has been frozen.
        since: Boottime,
        /// Since when the car has been parked again without a break, if it is.
        parked_since: Option<Boottime>,
        /// What froze it first.
        cause: Cause,
    },
    /// Work is being stopped.
    Leaving {
        /// By then every attempt has been stopped.
        until: Boottime,
        /// What ended it.
        cause: Cause,
    },
}

impl State {
    /// Numeric gates of a car that has work use the level at which they stop.
    pub fn held(self) -> bool {
        matches!(self, Self::Available { .. } | Self::Paused { .. })
    }

    /// Where every agent starts: nothing is known yet.
    pub fn initial() -> Self {
        Self::Away { parked_since: None }
    }

    /// When this state may change although nothing is heard. A time that has passed means that something else is missing.
    pub fn deadline(self, will: Will, terms: &Terms, resume_within: Duration) -> Option<Boottime> {
        match self {
            Self::Away { parked_since } => parked_since.map(|since| since + terms.dwell),
            Self::Available { .. } => None,
            Self::Paused {
                since, parked_since, ..
            } => {
                let over = since + resume_within;
                Some(parked_again(parked_since, will, over).map_or(over, |parked| parked + terms.dwell))
            }
            Self::Leaving { until, .. } => Some(until),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Signals, owner's word or clock were looked at again.
    Judged {
        /// What the signals say.
        verdict: Verdict,
        /// What the owner says.
        will: Will,
        /// How long work may stay frozen before it is ended: the owner's term.
        resume_within: Duration,
    },
    /// No attempt has a live process any more.
    Cleared,
}

/// What the loop has to do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Freeze every attempt, now.
    Freeze(Cause),
    /// Let every attempt go on.
    Thaw,
    /// Tell the cluster the new standing.
    Announce,
    /// Stop every attempt within the time.
    Depart {
        /// The longest time it may take.
        notice: Duration,
        /// Why.
        cause: Cause,
    },
}

/// Since when a paused car has been parked again, if its owner is willing and it was in time: then it waits for the dwell alone.
fn parked_again(parked_since: Option<Boottime>, will: Will, over: Boottime) -> Option<Boottime> {
    parked_since.filter(|since| will == Will::Yes && *since <= over)
}

/// The next state and what has to be done.
pub fn step(state: State, event: Event, now: Boottime, terms: &Terms) -> (State, Vec<Effect>) {
    let Event::Judged {
        verdict,
        will,
        resume_within,
    } = event
    else {
        return match state {
            State::Leaving { .. } => (State::Away { parked_since: None }, vec![Effect::Announce]),
            other => (other, Vec::new()),
        };
    };
    let parked = matches!(verdict, Verdict::Parked { .. });
    let since = |before: Option<Boottime>| parked.then(|| before.unwrap_or(now));
    let dwelt = |since: Option<Boottime>| since.is_some_and(|since| now.since(since) >= terms.dwell);
    let leave = |cause, freeze: bool| {
        let mut effects = vec![
            Effect::Announce,
            Effect::Depart {
                notice: terms.notice,
                cause,
            },
        ];
        if freeze {
            effects.insert(0, Effect::Freeze(cause));
        }
        (
            State::Leaving {
                until: now + terms.notice,
                cause,
            },
            effects,
        )
    };
    match state {
        State::Away { parked_since } => {
            let parked_since = since(parked_since);
            match (parked_since, verdict, will) {
                (Some(since), Verdict::Parked { may_start: true }, Will::Yes) if dwelt(parked_since) => {
                    (State::Available { parked_since: since }, vec![Effect::Announce])
                }
                _ => (State::Away { parked_since }, Vec::new()),
            }
        }
        State::Available { parked_since } => match (verdict, will) {
            (Verdict::Going(factor), _) => leave(Cause::Factor(factor), true),
            // Somebody is there: what ends now ends at once, whatever the owner said in the same moment.
            (Verdict::Attended(factor), Will::No) => leave(Cause::Factor(factor), true),
            (_, Will::No) => leave(Cause::Owner, true),
            (Verdict::Parked { .. }, Will::Yes) => (state, Vec::new()),
            (Verdict::Attended(_), _) | (_, Will::Paused) => {
                let cause = if let Verdict::Attended(factor) = verdict {
                    Cause::Factor(factor)
                } else {
                    Cause::Owner
                };
                let paused = State::Paused {
                    since: now,
                    parked_since: since(Some(parked_since)),
                    cause,
                };
                (paused, vec![Effect::Freeze(cause), Effect::Announce])
            }
        },
        State::Paused {
            since: paused,
            parked_since,
            cause,
        } => {
            let (parked_since, over) = (since(parked_since), paused + resume_within);
            match (parked_again(parked_since, will, over), verdict, will) {
                (_, Verdict::Going(factor), _) => leave(Cause::Factor(factor), false),
                (_, Verdict::Attended(factor), Will::No) => leave(Cause::Factor(factor), false),
                (_, _, Will::No) => leave(cause, false),
                (Some(since), _, _) if dwelt(parked_since) => (
                    State::Available { parked_since: since },
                    vec![Effect::Thaw, Effect::Announce],
                ),
                (None, _, _) if now >= over => leave(Cause::PausedTooLong, false),
                _ => (
                    State::Paused {
                        since: paused,
                        parked_since,
                        cause,
                    },
                    Vec::new(),
                ),
            }
        }
        State::Leaving { until, .. } if now >= until => (
            State::Away {
                parked_since: since(None),
            },
            vec![Effect::Announce],
        ),
        State::Leaving { until, cause } => leaving(until, cause, verdict, now),
    }
}

/// Whoever comes while work ends in good order ends it at once.
fn leaving(until: Boottime, cause: Cause, verdict: Verdict, now: Boottime) -> (State, Vec<Effect>) {
    match verdict {
        Verdict::Attended(factor) | Verdict::Going(factor) if !cause.at_once() => {
            let cause = Cause::Factor(factor);
            let notice = until.since(now);
            (State::Leaving { until, cause }, vec![Effect::Depart { notice, cause }])
        }
        _ => (State::Leaving { until, cause }, Vec::new()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
