//! A car that forgets its owner: what the law asks to be deleted is deleted, and nobody loses what was earned before.
//!
//! A command begins it, with or without an agent: work ends, the consents are sealed, the owner's document goes, and a file says that the rest is to
//! follow. The rest goes when nothing lives in the car and every receipt is delivered, by the agent that runs or, if none does, by the command; after
//! that the car is nobody, and has to be enrolled anew. Until then it works for nobody, takes no consent and is not enrolled. What must never happen: a
//! receipt deleted before the cluster has it, unless its owner said so; a car that works, for this owner or the next, before it has forgotten;
//! something of the owner's that stays because something else was broken; or anything deleted because a file could not be read.

use std::io;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use kerbside_core::ids::VehicleId;
use kerbside_core::owner::Word;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::config::Car;
use crate::consents::{self, ConsentError};
use crate::control;
use crate::directory::{self, Directory};
use crate::identity;
use crate::journal::{Journal, JournalError};
use crate::outlook::Outlook;
use crate::receipts;

/// How often an agent looks whether it is to forget.
const LOOK: Duration = Duration::from_secs(1);

/// What is told to who wants something of a car that has not forgotten yet.
pub const MEANWHILE: &str = "the car is to forget its owner, and is nobody's until it has: an agent that runs delivers what was earned first; \
                             `kerbside-agent forget --yes` goes on with it, and with --unpaid-too waits for nothing";

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forgetting {
    /// Who the car was when it was told; `None`: that is not known, or nobody. Who it has become since then it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vehicle: Option<VehicleId>,
    /// Why.
    pub reason: Reason,
    /// Since when, by the car's clock.
    pub since: Timestamp,
    /// What is not delivered goes, too.
    #[serde(default)]
    pub unpaid_too: bool,
}

impl Forgetting {
    /// The car as it is now is to forget.
    pub fn new(directory: &Directory, reason: Reason, since: Timestamp, unpaid_too: bool) -> Self {
        Self {
            vehicle: identity::read(directory).ok().map(|now| now.vehicle().clone()),
            reason,
            since,
            unpaid_too,
        }
    }
}

/// A car that cannot forget.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// Nobody knows what ran.
    #[error("failed to forget")]
    Journal(#[from] JournalError),
    /// A file cannot be written, or not be deleted.
    #[error("failed to forget")]
    Files(#[from] io::Error),
}

/// What a car is to do about its owner; `None`: nothing. A file that says nothing that is understood means that it is to forget, and to lose nothing.
/// One that the disk does not give, which is an error, means nothing: a moment in which files cannot be read deletes none.
pub fn pending(directory: &Directory) -> io::Result<Option<Forgetting>> {
    let text = match std::fs::read(directory.forgetting()) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let unreadable = Forgetting {
        vehicle: None,
        reason: Reason::Forgotten,
        since: Timestamp::UNIX_EPOCH,
        unpaid_too: false,
    };
    Ok(Some(serde_json::from_slice(&text).unwrap_or(unreadable)))
}

/// Whether it is to do anything, or may be: asked often, and enough to take no work, never to delete anything.
pub fn is_pending(directory: &Directory) -> bool {
    match std::fs::symlink_metadata(directory.forgetting()) {
        Ok(_) => true,
        // What cannot be looked at may be there.
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Begins: from here on nothing of the owner's allows work, whatever follows. Says why the consents lie there still, if they do: they are sealed
/// at the end, then, or deleted without that. Blocks.
pub fn begin(directory: &Directory, forgetting: &Forgetting) -> Result<Option<ConsentError>, ForgetError> {
    let text = serde_json::to_vec(forgetting).map_err(io::Error::from)?;
    // An empty file takes no room on a disk that is full, and one that cannot be read says the same: but for what is lost, and of whom it is.
    directory::replace(&directory.forgetting(), &text).or_else(|_| empty(&directory.forgetting()))?;
    // Over a restart, too: an agent that starts before the rest is gone takes no work.
    let now = forgetting.since;
    let (withdrawn, _) = control::remembered(&directory.command(), now).after(Word::Withdraw, now);
    control::remember(&directory.command(), withdrawn).or_else(|_| empty(&directory.command()))?;
    remove(&directory.owner())?;
    // Of somebody who was just writing it.
    remove(&directory::new_of(&directory.owner()))?;
    Ok(seal(directory, forgetting).err())
}

/// Seals the consents. A car that is nobody has given none.
fn seal(directory: &Directory, forgetting: &Forgetting) -> Result<(), ConsentError> {
    if !identity::exists(directory) || !directory.consents().exists() {
        return Ok(());
    }
    consents::seal_all(directory, forgetting.reason.word(), forgetting.since)
}

/// How many receipts the cluster does not have yet.
pub fn undelivered(directory: &Directory) -> io::Result<u64> {
    receipts::undelivered(directory)
}

/// Goes to the end, if no agent runs and nothing is owed; whoever calls it holds the agent's lock. Says whether it did. Blocks.
pub fn finish_if_nothing_is_owed(directory: &Directory, forgetting: &Forgetting) -> Result<bool, ForgetError> {
    if !forgetting.unpaid_too && owes(directory)? {
        return Ok(false);
    }
    Ok(finish(directory)?)
}

/// Whether a car in which no agent runs has something to deliver.
fn owes(directory: &Directory) -> Result<bool, ForgetError> {
    if undelivered(directory)? > 0 {
        return Ok(true);
    }
    // Of what ran there may be no receipt yet: the next agent gives it.
    let (_journal, known) = Journal::open(&directory.journal())?;
    Ok(!known.is_empty())
}

/// How a running agent stands with what it owes.
#[derive(Debug, Clone)]
pub struct Owes {
    /// Whether the car is to forget at all, as the policy loop knows it.
    pub outlook: watch::Receiver<Outlook>,
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
        // The loop's thread for the disk has looked: a disk that hangs holds up nothing of the agent's here, nor an idle car a disk.
        if !owes.outlook.borrow().forgetting {
            continue;
        }
        let place = directory.clone();
        // What cannot be read now may say something later, or never have been there.
        let Ok(Ok(Some(forgetting))) = spawn_blocking(move || pending(&place)).await else {
            continue;
        };
        if *owes.live.borrow() == 0 && (owes.nothing() || forgetting.unpaid_too) {
            return;
        }
    }
}

/// Deletes everything in the directory, whoever put it there, but what the maker says of the car and the line that says that there were consents;
/// and who the car was, unless it has become somebody else since it was told. Says whether it did: not without the file that tells it to. Blocks.
pub fn finish(directory: &Directory) -> io::Result<bool> {
    let Some(forgetting) = pending(directory)? else {
        return Ok(false);
    };
    for name in directory.attempts_with_files()? {
        directory.remove_attempt(&name)?;
    }
    // What takes the most room first: a line about the consents takes some.
    remove(&directory.cache())?;
    if let Err(error) = seal(directory, &forgetting) {
        let error = consents::said(&error);
        tracing::warn!(error, "the consents are deleted, and no line says that there were any");
    }
    let car = Car::read(&directory.car()).unwrap_or_default();
    for path in directory.of_the_owner(&car.files())? {
        remove(&path)?;
    }
    // It goes if nothing was ever sealed.
    let _ = std::fs::remove_dir(directory.consents());
    // All of the above is delivered and signed by who the car was.
    if is_still(directory, &forgetting) {
        remove(&directory.identity())?;
    }
    // Last: what fails before is tried again.
    remove(&directory.forgetting())?;
    directory::sync_directory(directory.root())?;
    Ok(true)
}

/// Whether the car is who it was when it was told to forget, as far as anybody knows.
fn is_still(directory: &Directory, forgetting: &Forgetting) -> bool {
    let now = identity::read(directory).ok();
    let known = now.zip(forgetting.vehicle.as_ref());
    known.is_none_or(|(now, was)| now.vehicle() == was)
}

fn empty(path: &Path) -> io::Result<()> {
    std::fs::File::create(path).map(|_| ())
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
