//! What an attempt took of the owner's energy, what that cost, and what the attempt pays: for the owner alone, by what is in the car.
//!
//! Called for the list of receipts and for the owner's export. A receipt names its terms by their hash and says nothing of what energy costs its owner,
//! so both are looked up: the terms where the agent has kept them, the tariff in the owner's document as it is now.

use std::fmt::Write as _;
use std::path::PathBuf;

use jiff::tz::TimeZone;
use kerbside_core::owner::Tariff;
use kerbside_core::owner::tariff::decimal;
use kerbside_core::receipt::Usage;

use crate::config;
use crate::directory::Directory;
use crate::outlook;
use crate::receipts::terms::{self, Kept, Worth};

/// Billionths in a millionth.
const NANOS: u64 = 1000;

/// What receipts are reckoned by.
#[derive(Debug, Default)]
pub(super) struct Reckoning {
    tariff: Option<Tariff>,
    zone: Option<TimeZone>,
    /// Where the receipts are.
    root: PathBuf,
}

impl Reckoning {
    /// Reads what there is. What cannot be read is not reckoned with: the receipts are as good.
    pub(super) fn read(directory: &Directory) -> Self {
        let document = config::owner(&directory.owner())
            .ok()
            .flatten()
            .map(|owner| owner.document);
        Self {
            zone: document.as_ref().and_then(outlook::zone),
            tariff: document.and_then(|document| document.tariff),
            root: directory.receipts(),
        }
    }

    /// The terms that receipts name.
    pub(super) fn kept(&self) -> Kept {
        Kept::new(&self.root)
    }

    /// What an attempt's energy cost its owner, by the tariff of today; `None`: it was not measured, or nobody knows.
    pub(super) fn cost(&self, usage: &Usage) -> Option<Worth> {
        let tariff = self.tariff.as_ref()?;
        Some(Worth {
            currency: tariff.currency.clone(),
            micro: terms::cost_micro(usage, tariff, self.zone.as_ref())?,
        })
    }

    /// What there is to say of one receipt, behind everything else; nothing, if its energy was not measured.
    pub(super) fn in_words(&self, usage: &Usage, kept: &mut Kept) -> String {
        let Some(energy) = &usage.claim.energy else {
            return String::new();
        };
        let mut text = format!("  {} J ({}", energy.joules, energy.method);
        if let Some(permille) = energy.error_permille {
            write!(text, ", ±{}.{} %", permille / 10, permille % 10).expect("writing to a String cannot fail");
        }
        text.push(')');
        let cost = self.cost(usage);
        if let Some(cost) = &cost {
            write!(text, "  costs {}", money(cost.micro, &cost.currency)).expect("writing to a String cannot fail");
        }
        let Some(pays) = kept.worth(usage) else {
            return text;
        };
        write!(text, "  pays {} if the fleet agrees", money(pays.micro, &pays.currency))
            .expect("writing to a String cannot fail");
        // What is in two currencies has no difference.
        if let Some(cost) = cost.filter(|cost| cost.currency == pays.currency) {
            let sign = if cost.micro > pays.micro { "-" } else { "" };
            let left = money(pays.micro.abs_diff(cost.micro), &pays.currency);
            write!(text, ", {sign}{left} after the cost of energy").expect("writing to a String cannot fail");
        }
        text
    }
}

fn money(micro: u64, currency: &str) -> String {
    format!("{} {currency}", decimal(micro.saturating_mul(NANOS)))
}

#[cfg(test)]
mod tests {
    use kerbside_core::attempt::Kind;
    use kerbside_core::receipt::Energy;

    use super::*;
    use crate::receipts::terms::keep;
    use crate::receipts::tests::{TERMS, usage};

    #[expect(clippy::unnecessary_wraps, reason = "as it is asked for")]
    fn tariff(yaml: &str) -> Option<Tariff> {
        Some(serde_saphyr::from_str(yaml).unwrap())
    }

    /// An hour of a core.
    fn hour(kind: Kind, energy: Option<Energy>) -> Usage {
        let mut usage = usage(1, kind, 3_600_000, Some(TERMS));
        usage.claim.energy = energy;
        usage
    }

    /// A tenth of a kilowatt-hour.
    #[expect(clippy::unnecessary_wraps, reason = "as it is asked for")]
    fn energy() -> Option<Energy> {
        Some(Energy {
            joules: 360_000,
            method: "rapl+model".to_owned(),
            error_permille: Some(125),
        })
    }

    #[test]
    fn owner_sees_what_work_took_cost_and_leaves() {
        let temp = tempfile::tempdir().unwrap();
        let mut reckoning = Reckoning {
            tariff: tariff("{currency: EUR, perKWh: '0.34'}"),
            zone: None,
            root: temp.path().to_owned(),
        };
        let says = |reckoning: &Reckoning, usage: &Usage| reckoning.in_words(usage, &mut reckoning.kept());
        let done = hour(Kind::Succeeded, energy());
        let took = "  360000 J (rapl+model, ±12.5 %)";
        assert_eq!(
            says(&reckoning, &done),
            format!("{took}  costs 0.034 EUR"),
            "its terms are not there"
        );
        keep(temp.path(), TERMS).unwrap();
        assert_eq!(
            says(&reckoning, &done),
            format!("{took}  costs 0.034 EUR  pays 0.05 EUR if the fleet agrees, 0.016 EUR after the cost of energy")
        );
        assert_eq!(
            says(&reckoning, &hour(Kind::Failed, energy())),
            format!("{took}  costs 0.034 EUR  pays 0.03 EUR if the fleet agrees, -0.004 EUR after the cost of energy"),
            "what failed is paid its energy only"
        );
        reckoning.tariff = tariff("{currency: EUR, perKWh: '0.6'}");
        assert_eq!(
            says(&reckoning, &done),
            format!("{took}  costs 0.06 EUR  pays 0.05 EUR if the fleet agrees, -0.01 EUR after the cost of energy")
        );
        reckoning.tariff = tariff("{currency: USD, perKWh: '0.34'}");
        assert_eq!(
            says(&reckoning, &done),
            format!("{took}  costs 0.034 USD  pays 0.05 EUR if the fleet agrees")
        );
        assert_eq!(says(&reckoning, &hour(Kind::Succeeded, None)), "");
        reckoning.tariff = None;
        assert_eq!(
            says(&reckoning, &done),
            format!("{took}  pays 0.05 EUR if the fleet agrees")
        );
    }
}
