//! What an attempt uses is counted here, and its receipt is asked for before its end is told.
//!
//! The order at an end: the journal, the receipt, the cluster. So a receipt never tells another end than a restarted agent would, and an
//! agent that is killed between the two finds the end in its journal and no receipt, and makes it then ([`settle`](super::super::settle)).
//! What must never happen: an end of an attempt that had a process is told, or its record dropped, before its receipt is durable.

use std::sync::atomic::Ordering;

use kerbside_core::attempt::{Container, Kind, Outcome, Record};
use tokio::time::Instant;

use super::{Actor, Slot};
use crate::cluster::Cluster;
use crate::receipts::{ReceiptError, said};
use crate::runtime::Usage;

/// The word for an attempt that the cluster forgot while it ran.
const FORGOTTEN: &str = "Forgotten";

impl<C: Cluster> Actor<C> {
    /// Whether something of it may be alive.
    pub(super) fn lives(&self) -> bool {
        self.seed.attempt.containers.iter().any(Container::is_alive)
    }

    /// After each step: for how long programs stood still.
    pub(super) fn count_frozen(&mut self) {
        let now = self.context.clock.boottime();
        if let Some(since) = self.frozen_since.take() {
            self.frozen += now.since(since);
        }
        let lives = self.lives();
        self.frozen_since = (self.seed.attempt.frozen && lives).then_some(now);
        if self.metered.unwrap_or(false) != lives {
            self.meter(lives);
        }
    }

    /// Tells the meter what processor time the attempt has had.
    pub(super) fn meter(&mut self, lives: bool) {
        if self.metered.is_none() && !lives {
            return;
        }
        self.metered = Some(lives);
        self.heard = Instant::now();
        let used = self.used();
        self.context.energy.hear(&self.seed.uid, used.cpu_ms, lives);
    }

    fn used(&self) -> Usage {
        self.slots.iter().map(Slot::usage).fold(Usage::default(), Usage::then)
    }

    /// Brings the tally up to what this record says, and to what programs have used so far.
    pub(super) fn tally(&mut self, record: &Record) {
        self.count_frozen();
        let now_ms = self.now().wall_ms;
        let used = self.used();
        // Of an attempt that has not lived here there is nothing but what its journal knew.
        let had = self.metered.and_then(|_| self.context.energy.of(&self.seed.uid));
        let tally = &mut self.seed.tally;
        tally.energy = had.or_else(|| tally.energy.take());
        tally.see(record, now_ms);
        // In an attempt of a former run of the agent nothing runs any more, and what its journal knew stays.
        tally.cpu_ms = tally.cpu_ms.max(used.cpu_ms);
        tally.frozen_ms = tally
            .frozen_ms
            .max(u64::try_from(self.frozen.as_millis()).unwrap_or(u64::MAX));
        tally.output_bytes = tally.output_bytes.max(self.stored.load(Ordering::Relaxed));
    }

    /// Makes the receipt of an attempt that has ended, once the journal holds the end.
    pub(super) async fn settle(&mut self) {
        let outcome = self.seed.attempt.outcome().cloned();
        if let Some(outcome) = outcome.filter(|outcome| self.seed.kept.agrees(outcome.kind)) {
            self.give_receipt(&outcome).await;
        }
    }

    /// Makes the receipt of an attempt that nobody wants any more. Returns whether its record may be dropped.
    pub(super) async fn settle_forgotten(&mut self) -> bool {
        let outcome = self.seed.attempt.outcome().cloned();
        let outcome = outcome.unwrap_or_else(|| Outcome::new(Kind::Disrupted, FORGOTTEN, ""));
        self.give_receipt(&outcome).await;
        self.receipted
    }

    async fn give_receipt(&mut self, outcome: &Outcome) {
        if self.receipted {
            return;
        }
        let seed = &self.seed;
        let record = seed.attempt.record(&seed.plan);
        let terms = seed.run.terms.clone();
        let claim = seed
            .tally
            .claim(seed.uid.clone(), &seed.run.class, &terms, &record, outcome);
        let given = match claim {
            Some(claim) => {
                self.context.receipts.keep_terms(&terms).await;
                self.context.receipts.give(claim).await
            }
            // It never had a process.
            None => Ok(()),
        };
        self.receipted = match given {
            Ok(()) => true,
            Err(error) => {
                // Once, and not with every try.
                if self.untold.is_none() {
                    tracing::error!(attempt = %self.seed.uid, error = said(&error), "receipt not written");
                }
                // A disk that is full is waited for, as the journal's is. A key that does not sign will not do so a second later, and an
                // attempt that never ends helps nobody; its receipt is made by the next agent, if that can.
                matches!(error, ReceiptError::Sign(_))
            }
        };
    }
}
