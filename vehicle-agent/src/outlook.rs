//! What the policy loop knows, for everybody else: one value, replaced as a whole.
//!
//! Written by the policy loop alone. The supervisor admits attempts by it, the actors freeze and stop by it.

use std::sync::Arc;
use std::time::Duration;

use kerbside_core::clock::{Boottime, Clock};
use kerbside_core::names::reason;
use kerbside_core::owner::{self, Asked, Command, Document, Refusal, Situation};
use kerbside_core::parked::{Factor, Snapshot, State, Terms, View, judge};
use kerbside_core::quantity::Resources;

/// What the car may do now, and on what grounds.
#[derive(Debug, Clone)]
pub struct Outlook {
    /// Where the car stands.
    pub state: State,
    /// The owner's document, if it is valid.
    pub document: Option<Arc<Document>>,
    /// The owner's last command.
    pub command: Command,
    /// The signals.
    pub snapshot: Arc<Snapshot>,
    /// The maker's terms.
    pub terms: Arc<Terms>,
    /// What the car gives.
    pub allocatable: Resources,
}

/// What an attempt has to do about the car.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posture {
    /// Run.
    Run,
    /// Stand still.
    Freeze,
    /// End, by then.
    Leave {
        /// By then.
        until: Boottime,
    },
}

impl Outlook {
    /// Where every agent starts.
    pub fn initial(terms: Arc<Terms>, command: Command) -> Self {
        Self {
            state: State::initial(),
            document: None,
            command,
            snapshot: Arc::default(),
            terms,
            allocatable: Resources::default(),
        }
    }

    /// What attempts have to do.
    pub fn posture(&self) -> Posture {
        match self.state {
            State::Available { .. } => Posture::Run,
            State::Paused { .. } => Posture::Freeze,
            State::Leaving { until, cause } if !cause.at_once() => Posture::Leave { until },
            State::Leaving { .. } | State::Away { .. } => Posture::Leave {
                until: Boottime(Duration::ZERO),
            },
        }
    }

    /// Calls `ask` with what the owner's terms are held against.
    pub fn situation<T>(&self, clock: &dyn Clock, ask: impl FnOnce(&Situation<'_>) -> T) -> T {
        let wall = clock.wall();
        let zone = self
            .document
            .as_ref()
            .and_then(|document| document.time_zone.as_deref());
        let time_of_day = zone
            .and_then(|zone| jiff::tz::TimeZone::get(zone).ok())
            .map(|zone| zone.to_datetime(wall).time());
        ask(&Situation {
            view: View::new(&self.snapshot, clock.boottime(), self.terms.stale_after),
            wall,
            time_of_day,
            held: self.state.held(),
        })
    }

    /// Whether an attempt of this class may start.
    pub fn admit(&self, class: &str, clock: &dyn Clock) -> Result<(), Refusal> {
        let asked = Asked {
            class,
            available: self.posture() == Posture::Run,
        };
        self.situation(clock, |situation| {
            owner::admit(self.document.as_deref(), self.command, situation, asked)?;
            // A car that saves power lets go on what runs. Of the other thing that new work needs, a network, its arrival is the proof.
            let judgement = judge(&situation.view, &self.terms, situation.held);
            if judgement.of(Factor::PowerToStart).is_yes() {
                return Ok(());
            }
            let message = "the car saves power, and takes no new work";
            Err(Refusal::new(reason::ENERGY_TERMS, message))
        })
    }
}
