//! What the journal holds of one attempt, as far as its actor can know: what an agent that starts anew would say of it.
//!
//! Asked by the actor before it tells an end. What must never happen: an end is told, and a restarted agent tells another one.

use kerbside_core::attempt::{Kind, Record};

use crate::journal::JournalError;

/// What the journal holds of an attempt.
#[derive(Debug, Default)]
pub(in crate::attempts) struct Kept {
    begun: bool,
    /// For each write that may be the last one there: the end that a restarted agent would say at once. Empty: the attempt is not known.
    ends: Vec<Option<Kind>>,
}

impl Kept {
    /// The journal has this from a former run of the agent.
    pub(in crate::attempts) fn recovered(record: &Record) -> Self {
        Self {
            begun: true,
            ends: vec![record.end()],
        }
    }

    /// A write of the attempt has succeeded.
    pub(super) fn begun(&self) -> bool {
        self.begun
    }

    /// Takes note of a write, of a record with this end.
    pub(super) fn note(&mut self, end: Option<Kind>, written: &Result<(), JournalError>) {
        match written {
            Ok(()) => {
                *self = Self {
                    begun: true,
                    ends: vec![end],
                };
            }
            Err(JournalError::Write(_)) => {}
            // Of all others nobody knows how much is there.
            Err(_) => self.ends.push(end),
        }
    }

    /// Whether a restarted agent could say nothing else of the attempt than this end, or nothing at all: what was refused because the
    /// journal cannot be written is known to nobody, and was never begun.
    pub(super) fn agrees(&self, end: Kind) -> bool {
        self.ends.iter().all(|known| *known == Some(end))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn failed() -> Result<(), JournalError> {
        Err(JournalError::Write(io::Error::other("full")))
    }

    fn torn() -> Result<(), JournalError> {
        Err(JournalError::Torn(io::Error::other("full")))
    }

    #[test]
    fn end_is_told_when_it_is_held_or_a_restarted_agent_would_say_the_same() {
        let mut kept = Kept::default();
        kept.note(Some(Kind::Disrupted), &Ok(()));
        assert!(kept.begun() && kept.agrees(Kind::Disrupted) && !kept.agrees(Kind::Succeeded));
        kept.note(None, &Ok(()));
        assert!(!kept.agrees(Kind::Succeeded), "its output may be refused yet");
        kept.note(Some(Kind::Succeeded), &failed());
        assert!(!kept.agrees(Kind::Succeeded));
        kept.note(Some(Kind::Succeeded), &torn());
        assert!(!kept.agrees(Kind::Succeeded), "both may be the last");
        kept.note(Some(Kind::Succeeded), &Ok(()));
        assert!(kept.agrees(Kind::Succeeded));
    }

    #[test]
    fn refusal_of_what_the_journal_does_not_know_is_told_but_not_if_a_beginning_may_be_there() {
        let mut kept = Kept::default();
        kept.note(Some(Kind::Disrupted), &failed());
        assert!(!kept.begun() && kept.agrees(Kind::Refused));
        kept.note(Some(Kind::Disrupted), &torn());
        assert!(!kept.begun() && !kept.agrees(Kind::Refused));
        kept.note(Some(Kind::Refused), &Ok(()));
        assert!(kept.begun() && kept.agrees(Kind::Refused));
    }
}
