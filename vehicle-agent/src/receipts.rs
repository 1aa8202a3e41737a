//! The car's receipts: what each attempt used, signed by the car, in one file that only grows.
//!
//! Actors of attempts ask for a receipt before they tell an end, and wait until it is durable; [`show`] reads for the owner. One owner of
//! the file, [`Ledger`], behind one lock. What must never happen: an attempt that had a process and whose end is told without a receipt,
//! two receipts for one attempt, a receipt signed by a key that is not kept beside it, or anything deleted but by [`crate::forget`].
//!
//! | in `receipts/` | |
//! |---|---|
//! | `usage.jsonl` | the ledger: one envelope a line |
//! | `usage.jsonl.broken-1` … | ledgers that did not verify when the agent started |
//! | `usage.jsonl.of-<vehicle>-1` … | ledgers of vehicles that this car was before it was enrolled anew |
//! | `keys/<keyid>.pem` | the certificates of every key that has signed, as they were then |
//! | `terms/<sha256>.json` | the terms that receipts name by their hash, as they came |
//! | `delivered.json` | up to which number the cluster has them |
//! | `consents.json` | the mark of [`crate::consents`] |

mod delivery;
mod keys;
mod ledger;
pub mod show;
pub mod terms;
#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kerbside_core::ids::VehicleId;
use kerbside_core::receipt::{Claim, Envelope, Usage, verify};
use kerbside_link::identity::{Identity, IdentityError, Signer};
use tokio::sync::watch;

pub use self::delivery::deliver;
pub(crate) use self::keys::{KnownKeys, keep as keep_key};
use self::ledger::{Ledger, Opened, Past};
use crate::control;
use crate::directory::{self, Directory};
use crate::journal::medium::Disk;

/// The file's name.
pub(crate) const LEDGER: &str = "usage.jsonl";
/// What the name of a file that does not verify goes on with, before its number.
const ASIDE: &str = "usage.jsonl.broken-";
/// That name without the dash.
const LEDGER_BROKEN: &str = "usage.jsonl.broken";

/// A receipt that is not there.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// The files cannot be opened.
    #[error("failed to open receipts in {path}")]
    Open {
        /// Where they are.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The disk does not take it: it is full, or broken. Trying again may help.
    #[error("failed to write receipt")]
    Write(#[source] io::Error),
    /// The key does not sign.
    #[error("failed to sign receipt")]
    Sign(#[from] IdentityError),
    /// Nobody writes any more.
    #[error("failed to reach the receipts")]
    Gone,
}

/// The way to the receipts.
#[derive(Clone)]
pub struct Receipts {
    inner: Arc<Inner>,
}

struct Inner {
    /// Where the keys are kept.
    root: PathBuf,
    /// Not under the ledger's lock: a renewal must not wait for a disk that hangs in an append.
    signer: Mutex<Arc<Signer>>,
    /// None: closed.
    ledger: Mutex<Option<Ledger>>,
    standing: watch::Sender<control::Receipts>,
}

impl Receipts {
    /// Opens what is there. A ledger that does not verify is kept aside, and a new chain begins behind it; so is one of the vehicle that this car
    /// was before it was enrolled anew, and the chain of the new one begins with its first. Blocks.
    pub fn open(directory: &Directory, identity: &Identity) -> Result<Self, ReceiptError> {
        let root = directory.receipts();
        let error = |source| ReceiptError::Open {
            path: root.clone(),
            source,
        };
        directory::make_private(&root).map_err(error)?;
        let signer = Signer::new(identity)?;
        let known = KnownKeys::read(&root).map_err(error)?;
        let open = || match Self::open_at(&root, &known, signer.vehicle())? {
            Some(ledger) => Ok(ledger),
            // What could not be gone on with is out of the way now.
            None => Self::open_at(&root, &known, signer.vehicle())?
                .ok_or_else(|| io::Error::other("a new ledger is not empty")),
        };
        let ledger = open().map_err(error)?;
        let aside = files_aside(&root).map_err(error)?;
        let aside = aside.into_iter().filter_map(|path| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            Some(name)
        });
        Ok(Self::new(&root, signer, ledger, aside.collect()))
    }

    /// The ledger, if it can be gone on with; otherwise it is put aside.
    fn open_at(root: &Path, known: &KnownKeys, vehicle: &VehicleId) -> io::Result<Option<Ledger>> {
        let path = root.join(LEDGER);
        let past = past(root, known, vehicle)?;
        let disk = Box::new(Disk::open(&path)?);
        let report = match Ledger::open(disk, past, known, vehicle)? {
            Opened::Sound(ledger) => return Ok(Some(ledger)),
            Opened::OfAnother(before) => {
                let aside = put_aside(&path, &format!("{LEDGER}.of-{before}"))?;
                tracing::info!(file = %aside.display(), "the receipts of the vehicle that this car was before are kept");
                return Ok(None);
            }
            Opened::Broken(report) => report,
        };
        let aside = put_aside(&path, LEDGER_BROKEN)?;
        for finding in &report.findings {
            tracing::error!(%finding, file = %aside.display(), "a receipt does not verify");
        }
        tracing::error!(
            file = %aside.display(),
            "the car's receipts do not verify; they are kept, and a new chain begins"
        );
        Ok(None)
    }

    /// On this medium, with the keys in `root`: for tests that tear a write.
    #[cfg(test)]
    pub(crate) fn on(medium: Box<dyn crate::journal::medium::Medium>, root: &Path, identity: &Identity) -> Self {
        let signer = Signer::new(identity).expect("an identity can sign");
        let known = KnownKeys::read(root).expect("keys can be read");
        let opened = Ledger::open(medium, Past::default(), &known, signer.vehicle());
        match opened.expect("a ledger can be opened") {
            Opened::Sound(ledger) => Self::new(root, signer, ledger, Vec::new()),
            Opened::Broken(report) => unreachable!("a ledger that the agent wrote: {report:?}"),
            Opened::OfAnother(before) => unreachable!("a ledger that this agent wrote, and not {before}"),
        }
    }

    fn new(root: &Path, signer: Signer, ledger: Ledger, aside: Vec<String>) -> Self {
        let (count, newest) = ledger.newest();
        let standing = control::Receipts {
            count,
            newest,
            aside,
            ..control::Receipts::default()
        };
        Self {
            inner: Arc::new(Inner {
                root: root.to_owned(),
                signer: Mutex::new(Arc::new(signer)),
                ledger: Mutex::new(Some(ledger)),
                standing: watch::Sender::new(standing),
            }),
        }
    }

    /// How they stand, for the owner.
    pub fn standing(&self) -> watch::Receiver<control::Receipts> {
        self.inner.standing.subscribe()
    }

    /// The cluster has them up to this number.
    fn delivered(&self, sequence: u64) {
        self.inner.standing.send_if_modified(|standing| {
            let changed = standing.delivered != sequence;
            standing.delivered = sequence;
            changed
        });
    }

    /// The cluster will never take one, for this reason.
    fn refused(&self, why: String) {
        self.inner.standing.send_modify(|standing| standing.refused = why);
    }

    /// Keeps the terms of an attempt, which its receipt names by their hash only. Without them nothing is lost but what the owner is shown.
    pub async fn keep_terms(&self, text: &str) {
        if text.is_empty() {
            return;
        }
        let (receipts, text) = (self.clone(), text.to_owned());
        // Nothing in it fails but the disk, and that is told.
        let _ = tokio::task::spawn_blocking(move || receipts.keep_terms_now(&text)).await;
    }

    /// The same, at once. Blocks.
    pub fn keep_terms_now(&self, text: &str) {
        if let Err(error) = terms::keep(&self.inner.root, text) {
            tracing::warn!(%error, "the terms of an attempt are not kept: its owner is not shown what it may earn");
        }
    }

    fn signer(&self) -> Arc<Signer> {
        Arc::clone(&self.inner.signer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on nothing is written, whoever still asks: for a car that has lost its power in a process that goes on.
    pub fn close(&self) {
        *self.inner.ledger.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// From now on this identity signs.
    pub fn renew(&self, identity: &Identity) -> Result<(), IdentityError> {
        let signer = Signer::new(identity)?;
        *self.inner.signer.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(signer);
        Ok(())
    }

    /// Makes a receipt durable. For an attempt that has one there is nothing to do.
    pub async fn give(&self, claim: Claim) -> Result<(), ReceiptError> {
        let receipts = self.clone();
        match tokio::task::spawn_blocking(move || receipts.give_now(claim)).await {
            Ok(given) => given,
            Err(_) => Err(ReceiptError::Gone),
        }
    }

    /// The same for who may block.
    pub fn give_now(&self, claim: Claim) -> Result<(), ReceiptError> {
        let signer = self.signer();
        let mut ledger = self.inner.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let ledger = ledger.as_mut().ok_or(ReceiptError::Gone)?;
        if ledger.holds(&claim.pod_uid) {
            return Ok(());
        }
        // The key first: a receipt that nobody can check is none.
        let kept = keys::keep(&self.inner.root, &signer).map_err(ReceiptError::Write);
        let given = kept.and_then(|()| ledger.give(claim, &signer));
        let (count, newest) = ledger.newest();
        self.inner.standing.send_modify(|standing| {
            standing.count = count;
            standing.newest = newest;
            standing.trouble = given.as_ref().err().map(said).unwrap_or_default();
        });
        given
    }
}

/// How many receipts of this car the cluster does not have yet. Where there is no ledger, or nobody that it could be of, none.
pub fn undelivered(directory: &Directory) -> io::Result<u64> {
    let root = directory.receipts();
    let lines = match std::fs::read(root.join(LEDGER)) {
        Ok(lines) => lines,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    // A torn line was told to nobody.
    let whole = lines
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| line.ends_with(b"\n"));
    let Some(newest) = whole.filter_map(usage_of).next_back() else {
        return Ok(0);
    };
    Ok(newest
        .sequence
        .saturating_sub(delivery::delivered(&root, &newest.vehicle)))
}

/// What a line of the ledger says, whoever signed it.
pub(crate) fn usage_of(line: &[u8]) -> Option<Usage> {
    let payload = Envelope::parse(line).ok()?.payload().ok()?;
    serde_json::from_slice(&payload).ok()
}

/// An error with its cause.
pub fn said(error: &ReceiptError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// The files that are kept aside, the oldest first.
fn files_aside(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix(ASIDE).and_then(|number| number.parse::<u32>().ok());
        files.extend(number.map(|number| (number, entry.path())));
    }
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// What is certain of this vehicle's ledgers that are kept aside, and of what the cluster has.
fn past(root: &Path, known: &KnownKeys, vehicle: &VehicleId) -> io::Result<Past> {
    let mut past = Past::delivered(delivery::delivered(root, vehicle));
    for file in files_aside(root)? {
        past.add(&verify(&std::fs::read(file)?, known), vehicle);
    }
    Ok(past)
}

/// Gives the file a name that no other has: this one, and a number.
pub(crate) fn put_aside(path: &Path, name: &str) -> io::Result<PathBuf> {
    let root = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let place = |number: u32| root.join(format!("{name}-{number}"));
    let number = (1..=u32::MAX).find(|number| !place(*number).exists());
    let aside = place(number.ok_or(io::ErrorKind::StorageFull)?);
    std::fs::rename(path, &aside)?;
    directory::sync_directory(root)?;
    Ok(aside)
}
