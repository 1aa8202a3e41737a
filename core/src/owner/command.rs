//! What the owner says in the car with one word, and what of it holds.
//!
//! Called by the agent's policy loop, by the command line where no agent runs, and by [`super::replay`]. What must never happen: a
//! withdrawal that is ended by anything but a newer consent.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Document;

/// What the owner last said in the car. It holds over a restart and needs no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Command {
    /// Nothing but the document.
    #[default]
    None,
    /// Not now.
    Pause,
    /// The consent is taken back; only a new document gives it again.
    Withdraw,
}

/// What the owner says in the car.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Word {
    /// Not now.
    Pause,
    /// Not before this moment.
    PauseUntil(Timestamp),
    /// Go on.
    Resume,
    /// Never again.
    Withdraw,
}

/// The owner's last command, as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remembered {
    /// What it was.
    pub command: Command,
    /// When it was given.
    pub at: Timestamp,
    /// When a pause ends by itself; without it, when the owner resumes. An agent that does not know it goes on pausing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl Remembered {
    /// What holds after `word`, and what to say. Resuming does not take back a withdrawal.
    #[must_use]
    pub fn after(self, word: Word, now: Timestamp) -> (Self, &'static str) {
        let new = |command| Self {
            command,
            at: now,
            until: None,
        };
        match (self.command, word) {
            (_, Word::Withdraw) => (
                new(Command::Withdraw),
                "withdrawn: all work ends, and none is accepted until a new consent is given in owner.yaml",
            ),
            (Command::Withdraw, _) => (
                self,
                "the consent is withdrawn: give a new one (consent.givenAt) in owner.yaml",
            ),
            (_, Word::Pause) => (new(Command::Pause), "paused: work stands still until you resume"),
            (_, Word::PauseUntil(until)) => (
                Self {
                    until: Some(until),
                    ..new(Command::Pause)
                },
                "paused: work stands still until the moment that you named, or until you resume",
            ),
            (_, Word::Resume) => (new(Command::None), "resumed"),
        }
    }

    /// What holds once a pause that has an end is over; `None` as long as nothing has changed. Call it only with a wall clock that can be
    /// believed: one that was set must not end a pause.
    #[must_use]
    pub fn elapsed(self, now: Timestamp) -> Option<Self> {
        let over = self.command == Command::Pause && self.until.is_some_and(|until| now >= until);
        over.then_some(Self {
            command: Command::None,
            at: now,
            until: None,
        })
    }

    /// What the command means beside this document: a newer consent ends a withdrawal.
    pub fn command(self, document: Option<&Document>) -> Command {
        match self.command {
            Command::Withdraw if document.is_some_and(|document| document.consent.given_at > self.at) => Command::None,
            command => command,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn withdrawal_is_ended_by_a_new_consent_and_by_nothing_else() {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let paused = Remembered {
            command: Command::Pause,
            at: now,
            until: None,
        };
        let (withdrawn, _) = paused.after(Word::Withdraw, now);
        for word in [Word::Resume, Word::Pause, Word::PauseUntil(Timestamp::MAX)] {
            let (still, says) = withdrawn.after(word, now);
            assert!(still == withdrawn && says.contains("owner.yaml"));
        }
        let given = |at: &str| {
            let yaml =
                format!("{{consent: {{givenAt: {at}, classes: []}}, requirePluggedIn: false, chargeFloorPercent: 0}}");
            serde_saphyr::from_str::<Document>(&yaml).unwrap()
        };
        assert_eq!(
            withdrawn.command(Some(&given("2026-11-22T10:00:00Z"))),
            Command::Withdraw
        );
        assert_eq!(withdrawn.command(None), Command::Withdraw);
        assert_eq!(withdrawn.command(Some(&given("2026-11-22T10:00:01Z"))), Command::None);
    }

    #[test]
    fn pause_with_an_end_is_over_then_and_one_without_is_not() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (now, end) = (at("2026-11-22T10:00:00Z"), at("2026-11-22T11:00:00Z"));
        let nothing = Remembered {
            command: Command::None,
            at: now,
            until: None,
        };
        let (paused, says) = nothing.after(Word::PauseUntil(end), now);
        assert_eq!((paused.command(None), paused.until), (Command::Pause, Some(end)));
        assert!(says.starts_with("paused"), "{says}");
        assert_eq!(paused.elapsed(at("2026-11-22T10:59:59Z")), None);
        let over = paused.elapsed(end).unwrap();
        assert_eq!((over.command(None), over.until), (Command::None, None));
        let (for_ever, _) = paused.after(Word::Pause, now);
        assert_eq!(for_ever.elapsed(Timestamp::MAX), None);
        let (withdrawn, _) = paused.after(Word::Withdraw, now);
        assert_eq!(withdrawn.elapsed(Timestamp::MAX), None);
        assert_eq!(nothing.elapsed(Timestamp::MAX), None);
    }

    /// Files that older agents wrote, and what newer ones write.
    #[test]
    fn command_without_an_end_is_kept_as_it_always_was() {
        let old = r#"{"command":"pause","at":"2026-11-22T10:00:00Z"}"#;
        let read: Remembered = serde_json::from_str(old).unwrap();
        assert_eq!((read.command, read.until), (Command::Pause, None));
        assert_eq!(serde_json::to_string(&read).unwrap(), old);
    }
}
