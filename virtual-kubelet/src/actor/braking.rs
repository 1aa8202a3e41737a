//! The actor and its pool's brake: how the car stands is told at every turn, and what the brake says is a fact like others.
//!
//! A brake counts a car by the pool under which it was told of it, so that a Vehicle which changes pools, or ends, leaves nothing behind.

use kerbside_core::clock::Boottime;
use kerbside_core::vehicle::Event;
use kerbside_core::vehicle::brake::Verdict;

use super::Actor;

impl Actor {
    /// Tells the pool's brake how the car stands, and folds in what it says; until when nothing is to be concluded at all. Silence
    /// for which this adapter itself stood still is no news.
    pub(super) fn ask_the_brake(&mut self, now: Boottime, stalled: bool) -> Option<Boottime> {
        // Of a vehicle that is another replica's, its own brake is told.
        let quiet = self.facts.quiet(now).filter(|_| self.is_ours());
        if stalled && quiet.is_some() {
            self.ask_at = self.stalled_until;
            return None;
        }
        self.ask_at = None;
        let asks = quiet.zip(self.pool.as_ref().map(|p| p.brake()));
        let pool = self.pool_name();
        if asks.is_none() || self.quiet_in.as_ref().is_some_and(|known| *known != pool) {
            self.heard_by_the_brake();
        }
        let verdict = asks.map(|(quiet, terms)| {
            let verdict = self.context.brakes.quiet(&pool, &self.id, quiet, terms, now);
            self.quiet_in = Some(pool);
            verdict
        });
        self.step(Event::Braked(matches!(verdict, Some(Verdict::Hold(_)))));
        match verdict {
            Some(Verdict::Wait(until)) => return Some(until),
            Some(Verdict::Hold(again)) => self.ask_at = Some(again),
            Some(Verdict::Believe) | None => {}
        }
        None
    }

    /// The brake that knew of this car's silence counts it no more.
    pub(super) fn heard_by_the_brake(&mut self) {
        if let Some(pool) = self.quiet_in.take() {
            self.context.brakes.heard(&pool, &self.id);
        }
    }
}
