//! What the car did and what that may earn: from its signed receipts, for the owner.
//!
//! Called by [`super::api`]. Only receipts that verify count. What the fleet accepts, only the fleet knows, so a sum is the most that there
//! can be. What must never happen: a number for what nothing has measured.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kerbside_core::attempt::Kind;
use kerbside_core::owner::{Document, Tariff};
use kerbside_core::receipt::{Energy, Usage};
use serde::Serialize;

use crate::outlook;
use crate::receipts::terms::{self, Kept};

/// How many entries of the history are told at a time.
const AT_ONCE: usize = 50;
/// What "lately" is.
const LATELY: SignedDuration = SignedDuration::from_hours(30 * 24);

/// One attempt, as its receipt has it.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Done {
    /// Its receipt's number.
    sequence: u64,
    class: String,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    cpu_ms: u64,
    output_bytes: u64,
    outcome: Kind,
    reason: String,
    /// Nothing: it was not measured.
    energy: Option<Energy>,
    /// Nothing: its terms are not known.
    worth: Option<Amount>,
}

/// Money.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Amount {
    currency: String,
    /// In 10^-6 of the currency's unit.
    micro: u64,
}

/// The newest entries before a number.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct History {
    done: Vec<Done>,
    /// Older ones are before this number; nothing: these are all.
    before: Option<u64>,
    /// Whether every receipt is signed and in its place.
    well: bool,
}

/// What a kilowatt-hour costs the owner today; what work took before is reckoned by it, too.
pub(super) struct Costs<'a> {
    tariff: Option<&'a Tariff>,
    zone: Option<TimeZone>,
}

impl<'a> Costs<'a> {
    /// As the document says; without one, or without a tariff in it, nobody knows.
    pub(super) fn new(document: Option<&'a Document>) -> Self {
        Self {
            tariff: document.and_then(|document| document.tariff.as_ref()),
            zone: document.and_then(outlook::zone),
        }
    }

    /// What an attempt's energy cost, in 10^-6 of the tariff's currency; `None`: it was not measured, or nobody knows.
    fn of(&self, usage: &Usage) -> Option<u64> {
        terms::cost_micro(usage, self.tariff?, self.zone.as_ref())
    }
}

/// Money that may be missing.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Left {
    currency: String,
    /// In 10^-6 of the currency's unit.
    micro: i64,
}

/// Sums over a time.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sums {
    count: u64,
    cpu_ms: u64,
    /// By currency, if the fleet accepts everything that the car says of itself.
    most: Vec<Amount>,
    /// How many ran on terms that are not known, and are in no sum.
    unpriced: u64,
    /// Nothing: nothing measured it.
    joules: Option<u64>,
    /// Of how many receipts.
    measured: u64,
    /// What that cost; nothing: nothing of it was measured, or no tariff is known.
    cost: Option<Amount>,
    /// What is left of the earnings in the same currency after that cost.
    left: Option<Left>,
}

/// Sums of the last 30 days, and of all time.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Earnings {
    lately: Sums,
    ever: Sums,
    well: bool,
}

/// What was done, the newest first.
pub(super) fn history(usages: &[&Usage], before: Option<u64>, well: bool, kept: &mut Kept) -> History {
    let older = usages.iter().rev();
    let mut older = older.filter(|usage| before.is_none_or(|before| usage.sequence < before));
    let done: Vec<_> = older.by_ref().take(AT_ONCE).map(|usage| entry(usage, kept)).collect();
    let more = older.next().is_some();
    History {
        before: done.last().filter(|_| more).map(|last| last.sequence),
        done,
        well,
    }
}

fn entry(usage: &Usage, kept: &mut Kept) -> Done {
    let claim = &usage.claim;
    let at = |ms: i64| Timestamp::from_millisecond(ms).ok();
    Done {
        sequence: usage.sequence,
        class: claim.class.clone(),
        started_at: at(claim.started_at_ms),
        ended_at: at(claim.ended_at_ms),
        cpu_ms: claim.cpu_ms,
        output_bytes: claim.output_bytes,
        outcome: claim.outcome.kind,
        reason: claim.outcome.reason.clone(),
        energy: claim.energy.clone(),
        worth: kept.worth(usage).map(|worth| Amount {
            currency: worth.currency,
            micro: worth.micro,
        }),
    }
}

/// What all of it may earn, and what it took.
pub(super) fn earnings(usages: &[&Usage], now: Timestamp, well: bool, kept: &mut Kept, costs: &Costs<'_>) -> Earnings {
    let from = now.saturating_sub(LATELY).unwrap_or(Timestamp::MIN).as_millisecond();
    let lately: Vec<_> = usages
        .iter()
        .filter(|usage| usage.claim.ended_at_ms >= from)
        .copied()
        .collect();
    Earnings {
        lately: sums(&lately, kept, costs),
        ever: sums(usages, kept, costs),
        well,
    }
}

fn sums(usages: &[&Usage], kept: &mut Kept, costs: &Costs<'_>) -> Sums {
    let mut sums = Sums::default();
    let mut most: BTreeMap<String, u64> = BTreeMap::new();
    let mut spent: Option<u64> = None;
    for usage in usages {
        if let Some(more) = costs.of(usage) {
            spent = Some(spent.unwrap_or(0).saturating_add(more));
        }
        let claim = &usage.claim;
        sums.count += 1;
        sums.cpu_ms = sums.cpu_ms.saturating_add(claim.cpu_ms);
        if let Some(energy) = &claim.energy {
            sums.measured += 1;
            sums.joules = Some(sums.joules.unwrap_or(0).saturating_add(energy.joules));
        }
        match kept.worth(usage) {
            Some(worth) => {
                let sum = most.entry(worth.currency).or_default();
                *sum = sum.saturating_add(worth.micro);
            }
            None => sums.unpriced += 1,
        }
    }
    if let (Some(micro), Some(tariff)) = (spent, costs.tariff) {
        let signed = |micro: u64| i64::try_from(micro).unwrap_or(i64::MAX);
        let earned = most.get(&tariff.currency).copied().unwrap_or(0);
        sums.left = Some(Left {
            currency: tariff.currency.clone(),
            micro: signed(earned) - signed(micro),
        });
        sums.cost = Some(Amount {
            currency: tariff.currency.clone(),
            micro,
        });
    }
    sums.most = most
        .into_iter()
        .map(|(currency, micro)| Amount { currency, micro })
        .collect();
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipts::tests::{TERMS, usage};
    use crate::testing::OWNER;

    const HOUR: u64 = 3_600_000;

    fn kept() -> (tempfile::TempDir, Kept) {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("terms");
        std::fs::create_dir(&folder).unwrap();
        let hash = kerbside_core::receipt::digest(TERMS.as_bytes());
        std::fs::write(folder.join(format!("{hash}.json")), TERMS).unwrap();
        let kept = Kept::new(temp.path());
        (temp, kept)
    }

    fn now() -> Timestamp {
        "2026-11-22T10:00:00Z".parse().unwrap()
    }

    #[test]
    fn earnings_are_the_most_that_there_can_be_and_energy_that_was_not_measured_is_no_number() {
        let (_temp, mut kept) = kept();
        let mut recent = usage(2, Kind::Succeeded, HOUR, Some(TERMS));
        recent.claim.ended_at_ms = now().as_millisecond() - 1;
        let all = [
            usage(1, Kind::Succeeded, HOUR, Some(TERMS)),
            recent,
            usage(3, Kind::Failed, HOUR, Some(TERMS)),
            usage(4, Kind::Succeeded, HOUR, None),
        ];
        let all: Vec<_> = all.iter().collect();
        let told = earnings(&all, now(), true, &mut kept, &Costs::new(None));
        let euro = |micro| {
            vec![Amount {
                currency: "EUR".to_owned(),
                micro,
            }]
        };
        assert_eq!(
            (told.ever.count, told.ever.cpu_ms, told.ever.unpriced),
            (4, 4 * HOUR, 1)
        );
        assert_eq!(told.ever.most, euro(40_000));
        assert_eq!((told.ever.joules, told.ever.measured), (None, 0));
        assert_eq!((&told.ever.cost, &told.ever.left), (&None, &None));
        assert_eq!((told.lately.count, &told.lately.most), (1, &euro(20_000)));
    }

    #[test]
    fn energy_that_was_measured_is_summed_and_its_cost_taken_off() {
        let (_temp, mut kept) = kept();
        let mut one = usage(1, Kind::Failed, 0, Some(TERMS));
        one.claim.energy = Some(Energy {
            joules: 3_600_000,
            method: "test".to_owned(),
            error_permille: None,
        });
        let two = usage(2, Kind::Failed, 0, Some(TERMS));
        let document = |tariff: &str| serde_saphyr::from_str::<Document>(&format!("{OWNER}{tariff}")).unwrap();
        let told = |document: &Document, kept: &mut Kept| {
            let costs = Costs::new(Some(document));
            earnings(&[&one, &two], now(), true, kept, &costs).ever
        };
        let ever = told(&document(""), &mut kept);
        assert_eq!((ever.joules, ever.measured), (Some(3_600_000), 1));
        assert_eq!(ever.most[0].micro, 300_000);
        assert_eq!((ever.cost, ever.left), (None, None), "nobody said what it costs");
        let ever = told(&document("tariff: {currency: EUR, perKWh: \"0.35\"}\n"), &mut kept);
        assert_eq!(ever.cost.unwrap().micro, 350_000);
        assert_eq!(ever.left.unwrap().micro, -50_000, "and what is lost is said, too");
    }

    #[test]
    fn history_goes_back_page_by_page_and_misses_nothing() {
        let (_temp, mut kept) = kept();
        let all: Vec<_> = (1..=120).map(|n| usage(n, Kind::Succeeded, 1, None)).collect();
        let all: Vec<_> = all.iter().collect();
        let (mut seen, mut before) = (Vec::new(), None);
        loop {
            let page = history(&all, before, true, &mut kept);
            assert!(page.done.len() <= AT_ONCE);
            seen.extend(page.done.iter().map(|done| done.sequence));
            before = page.before;
            if before.is_none() {
                break;
            }
        }
        assert_eq!(seen, (1..=120).rev().collect::<Vec<u64>>());
        assert_eq!(history(&[], None, true, &mut kept).done, Vec::new());
    }
}
