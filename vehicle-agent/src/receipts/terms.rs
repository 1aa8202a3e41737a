//! The terms that the car has signed for, by their hash, so that its owner can see what its receipts may earn.
//!
//! Written before a receipt that names them, read for the owner's page, the list of receipts and the export. They are the cluster's words and not
//! the car's: what counts is the hash in the receipt, and a file whose text has another one is none.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use kerbside_core::attempt::Kind;
use kerbside_core::ledger::{Standing, Terms, amount};
use kerbside_core::owner::tariff::Tariff;
use kerbside_core::receipt::{Usage, digest};
use serde::Serialize;

use crate::directory;

/// Where they are, beside the ledger.
pub(crate) const FOLDER: &str = "terms";
/// No terms are longer.
const LONGEST: usize = 4 << 10;

fn file(root: &Path, hash: &str) -> PathBuf {
    root.join(FOLDER).join(format!("{hash}.json"))
}

/// Keeps a text of terms, if it is one that is not there. Blocks.
pub(super) fn keep(root: &Path, text: &str) -> io::Result<()> {
    let path = file(root, &digest(text.as_bytes()));
    if text.is_empty() || text.len() > LONGEST || path.exists() {
        return Ok(());
    }
    directory::replace(&path, text.as_bytes())
}

/// The terms of a car's receipts, read as they are asked for.
#[derive(Debug)]
pub struct Kept {
    root: PathBuf,
    read: BTreeMap<String, Option<Terms>>,
}

/// An amount: what an attempt earns by its terms, if the cluster says the same of its end as the car does, or what its energy cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Worth {
    /// The currency, `EUR`.
    pub currency: String,
    /// In 10^-6 of its unit.
    pub micro: u64,
}

impl Kept {
    /// Those beside the ledger in `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            read: BTreeMap::new(),
        }
    }

    /// The terms that a receipt names, as they came.
    pub fn text(&self, usage: &Usage) -> Option<String> {
        text(&self.root, usage.claim.terms_sha256.as_deref()?)
    }

    /// What a receipt may be worth. `None`: its attempt ran on no terms, or they are not known here any more.
    pub fn worth(&mut self, usage: &Usage) -> Option<Worth> {
        let hash = usage.claim.terms_sha256.as_deref()?;
        let root = &self.root;
        let terms = self.read.entry(hash.to_owned()).or_insert_with(|| read(root, hash));
        let terms = terms.as_ref()?;
        let claim = &usage.claim;
        let standing = match claim.outcome.kind {
            Kind::Succeeded => Standing::Accepted,
            Kind::Failed => Standing::Failed,
            Kind::Disrupted | Kind::Refused => Standing::Disrupted,
        };
        let joules = claim.energy.as_ref().map_or(0, |energy| energy.joules);
        Some(Worth {
            currency: terms.currency.clone(),
            micro: amount(terms, standing, claim.cpu_ms, joules),
        })
    }
}

/// What an attempt's energy cost its owner by this tariff, in 10^-6 of its currency; `None`: it was not measured, or the tariff cannot tell.
pub(crate) fn cost_micro(usage: &Usage, tariff: &Tariff, zone: Option<&TimeZone>) -> Option<u64> {
    let claim = &usage.claim;
    let joules = claim.energy.as_ref()?.joules;
    tariff.cost_micro(joules, claim.started_at_ms, claim.ended_at_ms, zone)
}

/// The terms of this hash, if they are there and have it.
fn read(root: &Path, hash: &str) -> Option<Terms> {
    serde_json::from_str(&text(root, hash)?).ok()
}

/// The same as they came.
fn text(root: &Path, hash: &str) -> Option<String> {
    let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    let text = is_hash
        .then(|| std::fs::read_to_string(file(root, hash)).ok())
        .flatten()?;
    (digest(text.as_bytes()) == hash).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipts::tests::{TERMS, usage};

    #[test]
    fn receipt_is_worth_what_its_own_terms_say_and_nothing_without_them() {
        let temp = tempfile::tempdir().unwrap();
        keep(temp.path(), TERMS).unwrap();
        keep(temp.path(), "").unwrap();
        let mut kept = Kept::new(temp.path());
        let hour = 3_600_000;
        let worth = |micro| {
            Some(Worth {
                currency: "EUR".to_owned(),
                micro,
            })
        };
        assert_eq!(kept.worth(&usage(1, Kind::Succeeded, hour, Some(TERMS))), worth(20_000));
        assert_eq!(kept.worth(&usage(2, Kind::Disrupted, hour, Some(TERMS))), worth(0));
        assert_eq!(kept.worth(&usage(3, Kind::Succeeded, hour, None)), None);
        assert_eq!(kept.worth(&usage(4, Kind::Succeeded, hour, Some("others"))), None);
        let text = |terms| kept.text(&usage(5, Kind::Succeeded, hour, terms));
        assert_eq!(
            (text(Some(TERMS)).as_deref(), text(Some("others"))),
            (Some(TERMS), None)
        );
        let folder = std::fs::read_dir(temp.path().join(FOLDER)).unwrap();
        assert_eq!(folder.count(), 1, "no terms are no file");
    }

    #[test]
    fn file_that_was_changed_is_no_terms() {
        let temp = tempfile::tempdir().unwrap();
        keep(temp.path(), TERMS).unwrap();
        let path = file(temp.path(), &digest(TERMS.as_bytes()));
        std::fs::write(&path, TERMS.replace("0.02", "9.99")).unwrap();
        let mut kept = Kept::new(temp.path());
        assert_eq!(kept.worth(&usage(1, Kind::Succeeded, 1, Some(TERMS))), None);
    }
}
