//! What a kilowatt-hour costs the owner, and the least that work must pay beyond it.
//!
//! Read with the owner's document; asked before an attempt starts ([`weigh`]), and by whoever shows the owner what work has cost. Prices are
//! exact; what is divided is rounded against the work. What must never happen: work begins that pays less than the owner's floor, or that is
//! paid in another currency than the one that the owner reckons in.

use jiff::Timestamp;
use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer};

use super::hours::{Day, Hours, time_of_day};
use super::{Document, Refusal, document};
use crate::energy::JOULES_PER_KWH;
use crate::ledger::{Price, Terms};
use crate::names::reason;

/// Milliwatts that make a kilowatt.
const KILO: u64 = 1_000_000;
/// Billionths in one.
const NANO: u64 = 1_000_000_000;
const MINUTE_MS: i64 = 60_000;

/// What a kilowatt-hour costs the owner.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tariff {
    /// The currency, `EUR`.
    #[serde(deserialize_with = "currency")]
    pub currency: String,
    /// The price outside of all windows.
    #[serde(rename = "perKWh")]
    pub per_kwh: Price,
    /// Times of the week with another price, by the clock of `timeZone`. Of those that overlap the first counts.
    #[serde(default)]
    pub windows: Vec<Window>,
}

/// Times of the week, and their price.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Written")]
pub struct Window {
    /// When.
    pub hours: Hours,
    /// The price then.
    pub per_kwh: Price,
}

/// A window as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(deserialize_with = "time_of_day")]
    from: Time,
    #[serde(deserialize_with = "time_of_day")]
    to: Time,
    #[serde(default, deserialize_with = "document::said")]
    days: Option<Vec<Day>>,
    #[serde(rename = "perKWh")]
    per_kwh: Price,
}

impl From<Written> for Window {
    fn from(written: Written) -> Self {
        let Written {
            from,
            to,
            days,
            per_kwh,
        } = written;
        Self {
            hours: Hours { from, to, days },
            per_kwh,
        }
    }
}

impl Tariff {
    /// The price at this moment of the calendar; `None`: the clock is not known, and there are windows.
    pub fn at(&self, civil: Option<DateTime>) -> Option<Price> {
        if self.windows.is_empty() {
            return Some(self.per_kwh);
        }
        let at = civil?;
        let window = self.windows.iter().find(|window| window.hours.contain(at));
        Some(window.map_or(self.per_kwh, |window| window.per_kwh))
    }

    /// The highest price that it knows.
    pub fn highest(&self) -> Price {
        let windows = self.windows.iter().map(|window| window.per_kwh);
        windows.fold(self.per_kwh, Price::max)
    }

    /// What so many joules cost that were taken evenly from one moment to another, in 10^-6 of the currency's unit; a half is rounded up.
    /// `None`: the clock is not known, and there are windows; or there are no such moments.
    pub fn cost_micro(&self, joules: u64, from_ms: i64, to_ms: i64, zone: Option<&TimeZone>) -> Option<u64> {
        let price = self.mean_nanos(from_ms, to_ms, zone)?;
        let nanos = price * u128::from(joules);
        let per_micro = u128::from(JOULES_PER_KWH) * 1000;
        u64::try_from((nanos + per_micro / 2) / per_micro).ok()
    }

    /// The mean of the prices of every minute that is touched.
    fn mean_nanos(&self, from_ms: i64, to_ms: i64, zone: Option<&TimeZone>) -> Option<u128> {
        if self.windows.is_empty() {
            return Some(u128::from(self.per_kwh.nanos()));
        }
        let zone = zone?;
        let (first, last) = (from_ms.div_euclid(MINUTE_MS), to_ms.div_euclid(MINUTE_MS));
        // Longer than a month no attempt has been known to run: what is shown then is the first month's mean.
        let last = last.clamp(first, first.checked_add(31 * 24 * 60)?);
        let (mut sum, mut count) = (0_u128, 0_u128);
        for minute in first..=last {
            let moment = Timestamp::from_millisecond(minute.checked_mul(MINUTE_MS)?).ok()?;
            let price = self.at(Some(zone.to_datetime(moment)))?;
            sum += u128::from(price.nanos());
            count += 1;
        }
        sum.checked_div(count)
    }
}

/// What an attempt would take of the owner's energy, as it is known before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// For each core at work, its share of what the car takes to be awake included, in milliwatts.
    pub per_core_milliwatts: u64,
    /// How much of that the ledger believes, and so is paid for: a car that takes more than any known one is not paid for the rest.
    pub paid_milliwatts: u64,
}

/// What a core hour is worth to the owner, in billionths of the currency's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worth {
    /// What it pays if its result is accepted, the energy that it is paid for included.
    pub pays: u64,
    /// What the energy costs.
    pub costs: u64,
}

impl Worth {
    /// Of a core hour by these terms, at this price of a kilowatt-hour.
    pub fn new(terms: &Terms, price: Price, draw: Draw) -> Self {
        let energy = |price: Price, milliwatts: u64| u128::from(price.nanos()) * u128::from(milliwatts);
        let paid = energy(terms.per_kwh, draw.paid_milliwatts) / u128::from(KILO);
        let saturated = |nanos: u128| u64::try_from(nanos).unwrap_or(u64::MAX);
        Self {
            pays: terms.per_cpu_hour.nanos().saturating_add(saturated(paid)),
            costs: saturated(energy(price, draw.per_core_milliwatts).div_ceil(u128::from(KILO))),
        }
    }

    /// Whether it leaves so much.
    pub fn leaves(self, floor: Price) -> bool {
        self.costs
            .checked_add(floor.nanos())
            .is_some_and(|least| self.pays >= least)
    }
}

/// Whether an attempt on these terms pays what the owner wants, at this moment of the calendar. `terms` is the text of its `Run`, empty for
/// none; without a `draw` nothing measures energy in this car.
pub fn weigh(document: &Document, terms: &str, draw: Option<Draw>, civil: Option<DateTime>) -> Result<(), Refusal> {
    let (Some(floor), Some(tariff)) = (document.price_floor, &document.tariff) else {
        return Ok(());
    };
    let refuse = |reason: &str, message: String| Err(Refusal::new(reason, message));
    let currency = &tariff.currency;
    let wants = format!("the owner wants {floor} {currency} per core hour after the cost of energy");
    if terms.is_empty() {
        return refuse(
            reason::PAY_BELOW_FLOOR,
            format!("the attempt has no terms and pays nothing, and {wants}"),
        );
    }
    let Ok(terms) = serde_json::from_str::<Terms>(terms) else {
        return refuse(
            reason::PAY_BELOW_FLOOR,
            format!("the vehicle cannot read the terms of the attempt, and {wants}"),
        );
    };
    if terms.currency != *currency {
        return refuse(
            reason::CURRENCY_DIFFERS,
            format!(
                "the pool pays in {}, and the owner reckons in {currency}",
                terms.currency
            ),
        );
    }
    let Some(draw) = draw else {
        return refuse(
            reason::ENERGY_TERMS,
            format!("{wants}, and what energy work takes is not known in this vehicle"),
        );
    };
    let Some(price) = tariff.at(civil) else {
        return refuse(
            reason::ENERGY_TERMS,
            "the time zone of the owner's tariff is not known in the car".to_owned(),
        );
    };
    let worth = Worth::new(&terms, price, draw);
    if worth.leaves(floor) {
        return Ok(());
    }
    refuse(
        reason::PAY_BELOW_FLOOR,
        format!(
            "it pays {} {currency} per core hour, energy costs {} at the tariff of now, and {wants}",
            decimal(worth.pays),
            decimal(worth.costs)
        ),
    )
}

/// Billionths as a decimal number, as short as it can be, no finer than millionths; what is finer is cut off.
pub fn decimal(nanos: u64) -> String {
    let (whole, micro) = (nanos / NANO, nanos % NANO / 1000);
    if micro == 0 {
        return whole.to_string();
    }
    let fraction = format!("{micro:06}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

fn currency<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Ok(text);
    }
    Err(serde::de::Error::custom(format!(
        "'{text}' is not a currency: three capital letters such as EUR"
    )))
}

#[cfg(test)]
mod tests;
