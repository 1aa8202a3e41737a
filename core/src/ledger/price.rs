//! Prices: what a core hour or a kilowatt-hour is worth, exactly.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Billionths in one.
const NANO: u64 = 1_000_000_000;
/// The most digits before the point, and the most behind it.
const DIGITS: usize = 9;
/// How much of a text that is no price is repeated.
const SHOWN: usize = 60;

/// A price of a core hour or a kilowatt-hour, in billionths of the currency's unit: `0.02`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Price(u64);

/// A text that is no price.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a price: write 1 to 9 digits, and perhaps a point and 1 to 9 more, such as 0.02")]
pub struct PriceError(String);

impl Price {
    /// In billionths of the currency's unit; below 10^18.
    pub fn nanos(self) -> u64 {
        self.0
    }
}

impl FromStr for Price {
    type Err = PriceError;

    fn from_str(text: &str) -> Result<Self, PriceError> {
        let (whole, fraction) = text
            .split_once('.')
            .map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
        let nanos = || {
            let whole = number(whole)?;
            let fraction = fraction.map_or(Some(0), billionths)?;
            whole.checked_mul(NANO)?.checked_add(fraction)
        };
        nanos()
            .map(Self)
            .ok_or_else(|| PriceError(text.chars().take(SHOWN).collect()))
    }
}

/// 1 to 9 digits, and nothing else.
fn number(digits: &str) -> Option<u64> {
    let well = (1..=DIGITS).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| well)
}

/// The digits behind a point.
fn billionths(digits: &str) -> Option<u64> {
    number(digits)?;
    number(&format!("{digits:0<DIGITS$}"))
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / NANO, self.0 % NANO);
        if fraction == 0 {
            return write!(f, "{whole}");
        }
        let fraction = format!("{fraction:0DIGITS$}");
        write!(f, "{whole}.{}", fraction.trim_end_matches('0'))
    }
}

impl TryFrom<String> for Price {
    type Error = PriceError;

    fn try_from(text: String) -> Result<Self, PriceError> {
        text.parse()
    }
}

impl From<Price> for String {
    fn from(price: Price) -> Self {
        price.to_string()
    }
}
