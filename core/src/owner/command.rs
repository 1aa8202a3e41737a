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
}

impl Remembered {
    /// What holds after `word`, and what to say. Resuming does not take back a withdrawal.
    #[must_use]
    pub fn after(self, word: Word, now: Timestamp) -> (Self, &'static str) {
        let new = |command| Self { command, at: now };
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
            (_, Word::Resume) => (new(Command::None), "resumed"),
        }
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
        };
        let (withdrawn, _) = paused.after(Word::Withdraw, now);
        for word in [Word::Resume, Word::Pause] {
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
}
