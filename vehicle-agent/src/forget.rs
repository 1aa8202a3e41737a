//! A car that forgets its owner: what the law asks to be deleted is deleted, and nobody loses what was earned before.
//!
//! A command begins it, with or without an agent: work ends, the consents are sealed, the owner's document goes, and a file says that the rest is to
//! follow. The rest goes when nothing lives in the car and every receipt is delivered, by the agent that runs or, if none does, by the command; after
//! that the car is nobody, and has to be enrolled anew. What must never happen: a receipt deleted before the cluster has it, unless its owner said
//! so, or a car that goes on working for an owner whom it is to forget.

use std::io;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use kerbside_core::owner::Word;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::consents::{Book, ConsentError};
use crate::control;
use crate::directory::{self, Directory};
use crate::journal::{Journal, JournalError};
use crate::receipts;

/// How often an agent looks whether it is to forget.
const LOOK: Duration = Duration::from_secs(1);

/// Why a car forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// Its owner wants it to.
    Forgotten,
    /// It has another owner now.
    OwnerChanged,
}

impl Reason {
    fn word(self) -> &'static str {
        match self {
            Self::Forgotten => "forgotten",
            Self::OwnerChanged => "ownerChanged",
        }
    }
}

/// What is to be done, as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forgetting {
    /// Why.
    pub reason: Reason,
    /// Since when, by the car's clock.
    pub since: Timestamp,
    /// What is not delivered goes, too.
    #[serde(default)]
    pub unpaid_too: bool,
}

/// A car that cannot forget.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// The consents cannot be sealed.
    #[error("failed to forget")]
    Consents(#[from] ConsentError),
    /// Nobody knows what ran.
    #[error("failed to forget")]
    Journal(#[from] JournalError),
    /// A file cannot be written, or not be deleted.
    #[error("failed to forget")]
    Files(#[from] io::Error),
}

/// What a car is to do about its owner; `None`: nothing. A file that cannot be read means that it is to forget, and to lose nothing.
pub fn pending(directory: &Directory) -> Option<Forgetting> {
    let text = match std::fs::read(directory.forgetting()) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(_) => Vec::new(),
    };
    let unreadable = Forgetting {
        reason: Reason::Forgotten,
        since: Timestamp::UNIX_EPOCH,
        unpaid_too: false,
    };
    Some(serde_json::from_slice(&text).unwrap_or(unreadable))
}

/// Begins: from here on nothing of the owner's allows work, whatever follows. Blocks.
pub fn begin(directory: &Directory, forgetting: Forgetting) -> Result<(), ForgetError> {
    let text = serde_json::to_vec(&forgetting).map_err(io::Error::from)?;
    directory::replace(&directory.forgetting(), &text)?;
    // Over a restart, too: an agent that starts before the rest is gone takes no work.
    let now = forgetting.since;
    let (withdrawn, _) = control::remembered(&directory.command(), now).after(Word::Withdraw, now);
    control::remember(&directory.command(), withdrawn)?;
    remove(&directory.owner())?;
    // A car that is nobody has given nothing.
    if crate::identity::exists(directory) {
        Book::open(directory, true)?.seal(forgetting.reason.word(), now)?;
    }
    Ok(())
}

/// How many receipts the cluster does not have yet.
pub fn undelivered(directory: &Directory) -> io::Result<u64> {
    receipts::undelivered(directory)
}

/// Goes to the end, if no agent runs and nothing is owed; whoever calls it holds the agent's lock. Says whether it did. Blocks.
pub fn finish_if_nothing_is_owed(directory: &Directory, forgetting: Forgetting) -> Result<bool, ForgetError> {
    let owed = undelivered(directory)? > 0 || {
        // Of what ran there may be no receipt yet: the next agent gives it.
        let (_journal, known) = Journal::open(&directory.journal())?;
        !known.is_empty()
    };
    if owed && !forgetting.unpaid_too {
        return Ok(false);
    }
    finish(directory)?;
    Ok(true)
}

/// How a running agent stands with what it owes.
#[derive(Debug, Clone)]
pub struct Owes {
    /// How many attempts have a process.
    pub live: watch::Receiver<usize>,
    /// The attempts in the car: one whose programs have ended may have a result, and a receipt, still to come.
    pub held: watch::Receiver<Vec<control::Held>>,
    /// How the receipts stand.
    pub standing: watch::Receiver<control::Receipts>,
}

impl Owes {
    /// Nothing to anybody: what ran is over, and the cluster has every receipt.
    fn nothing(&self) -> bool {
        let standing = self.standing.borrow();
        // An attempt is over once it has its receipt.
        let over =
            |held: &control::Held| matches!(held.state.as_str(), "Succeeded" | "Failed" | "Disrupted" | "Refused");
        self.held.borrow().iter().all(over) && standing.newest <= standing.delivered && standing.trouble.is_empty()
    }
}

/// Returns when the car is to forget and nothing is owed to anybody any more.
pub async fn due(directory: &Directory, owes: &Owes) {
    loop {
        sleep(LOOK).await;
        let Some(forgetting) = pending(directory) else { continue };
        if *owes.live.borrow() == 0 && (owes.nothing() || forgetting.unpaid_too) {
            return;
        }
    }
}

/// Deletes what is left of the owner, and who the car was. What the maker says of the car stays, and the line that says that there were
/// consents. Blocks.
pub fn finish(directory: &Directory) -> io::Result<()> {
    for name in directory.attempts_with_files()? {
        directory.remove_attempt(&name)?;
    }
    for path in directory.of_the_owner() {
        remove(&path)?;
    }
    // Last: what fails before is tried again.
    remove(&directory.forgetting())?;
    directory::sync_directory(directory.root())
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(file) if file.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
