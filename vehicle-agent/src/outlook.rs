//! What the policy loop knows, for everybody else: one value, replaced as a whole.
//!
//! Written by the policy loop alone. The supervisor admits attempts by it, the actors freeze and stop by it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kerbside_core::clock::{Boottime, Clock};
use kerbside_core::consent::{Consents, Lack, Unusable};
use kerbside_core::energy::Used;
use kerbside_core::names::reason;
use kerbside_core::owner::{ClockTrust, Command, Document, Draw, Grounds, Refusal, Uplink};
use kerbside_core::parked::{Snapshot, State, Terms};
use kerbside_core::quantity::Resources;
use kerbside_core::receipt::Consent;

pub use kerbside_core::names::reason::RECEIPTS_REFUSED;

/// Why a car that is to forget its owner takes no work, for everybody.
pub const FORGETTING: &str = "the car is to forget its owner, and takes no work until it has";

/// What the car may do now, and on what grounds.
#[derive(Debug, Clone)]
pub struct Outlook {
    /// Where the car stands.
    pub state: State,
    /// The owner's document, if it is valid.
    pub document: Option<Arc<Document>>,
    /// How a receipt names that document.
    pub consent: Option<Consent>,
    /// What the owner has consented to, on record.
    pub consents: Arc<Consents>,
    /// The job classes of which that holds now.
    pub consented: Arc<BTreeSet<String>>,
    /// Those that are not among them although there is a consent on record that holds: the owner's expression is not true for them.
    pub held_off: Arc<BTreeSet<String>>,
    /// The cluster refuses the car's receipts: what it would do now would not be paid.
    pub unpaid: bool,
    /// The car is to forget its owner: until it has it works for nobody, whoever agrees to what.
    pub forgetting: bool,
    /// The owner's last command.
    pub command: Command,
    /// The signals.
    pub snapshot: Arc<Snapshot>,
    /// The maker's terms.
    pub terms: Arc<Terms>,
    /// What the car gives.
    pub allocatable: Resources,
    /// What is known of the wall clock.
    pub trust: ClockTrust,
    /// The energy that work has had today; `None`: nothing measures it in this car.
    pub energy: Option<Used>,
    /// The car's way to the world, and what went by it this month.
    pub uplink: Uplink,
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
            consent: None,
            consents: Arc::default(),
            consented: Arc::default(),
            held_off: Arc::default(),
            unpaid: false,
            forgetting: false,
            command,
            snapshot: Arc::default(),
            terms,
            allocatable: Resources::default(),
            trust: ClockTrust::default(),
            energy: None,
            uplink: Uplink::default(),
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

    /// What attempts of this class have to do. One whose consent is over, or whose class the owner's document names no more, ends at once, also where
    /// the car goes on with others.
    pub fn posture_of(&self, class: &str) -> Posture {
        let named = |document: &Arc<Document>| document.consent.classes.iter().any(|named| named == class);
        let agreed = self.consented.contains(class) && self.document.as_ref().is_none_or(named);
        match self.posture() {
            Posture::Run | Posture::Freeze if !agreed => Posture::Leave {
                until: Boottime(Duration::ZERO),
            },
            posture => posture,
        }
    }

    /// Why work of this class ends in a car that goes on with other work: the reason and a message, for the cluster.
    pub fn why_no_more(&self, class: &str) -> (&'static str, &'static str) {
        if self.held_off.contains(class) {
            // What an expression is about is its owner's.
            return (reason::OWNER_TERMS, "a term of the owner is not met");
        }
        (
            reason::OWNER_CONSENT_MISSING,
            "the owner's consent to work of this class is over",
        )
    }

    /// What is wrong with the car's own state, so that the cluster should know; empty: nothing that is its business.
    pub fn fault(&self, clock: &dyn Clock) -> &'static str {
        let (boot, wall) = (clock.boottime(), clock.wall());
        if self.unpaid {
            return RECEIPTS_REFUSED;
        }
        match &*self.consents {
            Consents::Unusable(Unusable::NotRead) => "",
            Consents::Unusable(_) => reason::STATE_NOT_TRUSTED,
            Consents::Known(known) => {
                let behind = |purpose: &String| matches!(self.consents.of(purpose, wall), Err(Lack::ClockBehind(_)));
                if !self.trust.holds(boot, wall) || known.held.keys().any(behind) {
                    reason::CLOCK_NOT_TRUSTED
                } else {
                    ""
                }
            }
        }
    }

    /// On whose word an attempt of this class would start now, for its receipt.
    pub fn consent_to(&self, class: &str, wall: jiff::Timestamp) -> Option<Consent> {
        let mut consent = self.consent.clone()?;
        consent.record = self.consents.of(class, wall).ok().map(|held| held.record.clone());
        Some(consent)
    }

    /// Calls `ask` with everything that the car's standing is decided by now.
    pub fn weigh<T>(&self, clock: &dyn Clock, ask: impl FnOnce(&Grounds<'_>) -> T) -> T {
        let document = self.document.as_deref();
        let zone = document.and_then(zone);
        ask(&Grounds {
            state: self.state,
            snapshot: &self.snapshot,
            terms: &self.terms,
            document,
            consents: &self.consents,
            command: self.command,
            zone: zone.as_ref(),
            boot: clock.boottime(),
            wall: clock.wall(),
            trust: self.trust,
            energy: self.energy,
            uplink: self.uplink,
        })
    }

    /// Whether an attempt of this class may start.
    pub fn admit(&self, class: &str, clock: &dyn Clock) -> Result<(), Refusal> {
        if self.forgetting {
            return Err(Refusal::new(reason::OWNER_CONSENT_MISSING, FORGETTING));
        }
        if self.unpaid {
            let message =
                "the cluster does not take the car's receipts, so the car takes no work; its owner can see why";
            return Err(Refusal::new(RECEIPTS_REFUSED, message));
        }
        self.weigh(clock, |grounds| grounds.admit(class))?;
        // The clock that nobody sets may have ended a consent that the one on the wall does not.
        if self.consented.contains(class) {
            return Ok(());
        }
        let message = "what the owner has consented to has no such work any more";
        Err(Refusal::new(reason::OWNER_CONSENT_MISSING, message))
    }

    /// Whether an attempt on these terms, which are the text of its `Run`, pays what the owner wants.
    pub fn pays(&self, terms: &str, draw: Option<Draw>, clock: &dyn Clock) -> Result<(), Refusal> {
        self.weigh(clock, |grounds| grounds.weigh(terms, draw))
    }
}

/// The time zone of the document's hours, if it names one that is known in the car. Read from the system's own files, and from memory for
/// some minutes after that.
pub fn zone(document: &Document) -> Option<jiff::tz::TimeZone> {
    let name = document.time_zone.as_deref()?;
    jiff::tz::TimeZone::get(name).ok()
}
