//! The owner's consents in the car: a chain of signed entries in one file, who writes it and who reads it.
//!
//! The owner's commands write ([`Book`]), one at a time, whether an agent runs or not; a running agent reads ([`Reader`]) and writes only what
//! time has done: that a consent has expired, and what the clock has shown. What is decided by it is `core::consent`'s. What must never
//! happen: a consent in force that the owner did not give with the notice at hand, or a word of the owner's that was told to be kept and is not.
//!
//! | | |
//! |---|---|
//! | `consents/consents.jsonl` | the chain: one envelope a line |
//! | `consents/consents.jsonl.broken-1` … | chains that could not be gone on with when the owner said something new |
//! | `consents/withdrawn.json` | what the owner took back while the chain could not be gone on with |
//! | `consents/sealed.jsonl` | of chains that were deleted: that there was one, how long, and its last hash |
//! | `consents/lock` | held while somebody writes |
//! | `receipts/consents.json` | how far the chain had come, kept apart from it |
//! | `receipts/keys/` | the certificates of every key that has signed; the receipts' too |
//! | `notice.yaml` | the fleet's or the maker's own notice; without it the one that ships with the agent |

mod book;
mod gathered;
mod reader;
mod seal;
#[cfg(test)]
mod tests;
mod withdrawn;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kerbside_core::consent::{Notice, Unusable};
use kerbside_link::identity::IdentityError;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

pub use self::book::{Book, Giving};
pub use self::gathered::{Gathered, named};
pub use self::reader::{News, Reader};
pub use self::seal::{Sealed, seal_all, sealed};
use crate::directory::Directory;
use crate::forget;
use crate::identity;

const CHAIN: &str = "consents.jsonl";
const BROKEN: &str = "consents.jsonl.broken";

/// So often one who waits asks for the lock, which is for five seconds: who writes has it for as long as a disk takes, and one that hangs may
/// have it for ever.
const TRIES: u32 = 50;
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// A word of the owner's that was not kept.
#[derive(Debug, thiserror::Error)]
pub enum ConsentError {
    /// The car is nobody yet: there is nothing to bind a consent to.
    #[error("failed to open the consents")]
    Identity(#[from] identity::ReadError),
    /// The files cannot be opened.
    #[error("failed to open the consents in {path}")]
    Open {
        /// Where they are.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else is writing.
    #[error("failed to open the consents: another command is writing them; try again")]
    Busy,
    /// Their notice or their files cannot be read.
    #[error("failed to read the consents: {0}")]
    Unusable(Unusable),
    /// The disk does not take it.
    #[error("failed to write the consents")]
    Write(#[source] io::Error),
    /// The key does not sign.
    #[error("failed to sign the consent")]
    Sign(#[from] IdentityError),
    /// There is nothing to agree to.
    #[error("failed to give a consent: say for which purposes, a job class each")]
    NoPurpose,
    /// No job can have this class.
    #[error(
        "failed to give a consent: '{0}' is not a job class: it has 1 to 63 characters of a-z, 0-9 and '-' and starts and ends with a letter or digit"
    )]
    Purpose(String),
    /// The car has not forgotten yet whose it was.
    #[error("failed to give a consent: {}", forget::MEANWHILE)]
    Forgetting,
    /// There is none to take back.
    #[error("failed to withdraw: there is no consent to '{0}'")]
    NotGiven(String),
}

/// An error with what caused it.
pub fn said(error: &ConsentError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// What the owner of a car in this directory is told before a consent counts.
pub fn notice(directory: &Directory) -> Result<Notice, Unusable> {
    let unusable = |why: String| Unusable::Notice(why);
    let text = match std::fs::read_to_string(directory.notice()) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Notice::built_in("the fleet that this car is enrolled with"));
        }
        Err(error) => return Err(unusable(error.to_string())),
    };
    let notice: Notice = serde_saphyr::from_str(&text).map_err(|error| unusable(error.to_string()))?;
    notice.check().map_err(|error| unusable(error.to_string()))
}

/// Whoever holds it is the only one who writes. It is asked for so often; who asks once has an answer at once. Blocks.
fn lock(root: &Path, tries: u32) -> Result<Flock<std::fs::File>, ConsentError> {
    let path = root.join("lock");
    let error = |source: io::Error| ConsentError::Open {
        path: path.clone(),
        source,
    };
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).open(&path);
    let mut file = file.map_err(error)?;
    for more in (0..tries).rev() {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((same, Errno::EWOULDBLOCK)) => file = same,
            Err((_, errno)) => return Err(error(errno.into())),
        }
        if more > 0 {
            std::thread::sleep(BETWEEN_TRIES);
        }
    }
    Err(ConsentError::Busy)
}
