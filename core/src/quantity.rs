//! Kubernetes quantities: `500m`, `1536Mi`, `12e6`, `0.5`.
//!
//! Owns reading, canonical printing, ordering and arithmetic. Called by the offer, the admission on a car and the printing of
//! Nodes. A quantity is an exact count of billionths; nothing is ever rounded down and no sum wraps around.
//!
//! Reading and printing agree with the API server's: what is finer than a billionth is rounded away from zero, binary suffixes
//! stop at 2^63-1, and the canonical text has no fraction and the largest suffix that keeps it so.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

mod decimal;
mod resources;

pub use resources::{Resources, Shortage};

use decimal::Decimal;

/// Billionths in one.
const NANO: i128 = 1_000_000_000;
/// Where Kubernetes caps a quantity with a binary suffix.
const BINARY_CAP: i128 = i64::MAX as i128 * NANO;

const DECIMAL: [(&str, i64); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// An amount of a resource. Two are equal if they are the same amount, however they are written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// The family of suffixes in which a quantity is printed; it is kept from the text that was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// `n`, `u`, `m`, none, `k`, `M`, `G`, `T`, `P`, `E`.
    #[default]
    DecimalSi,
    /// `Ki`, `Mi`, `Gi`, `Ti`, `Pi`, `Ei`.
    BinarySi,
    /// `e3`, `E-3`.
    DecimalExponent,
}

/// A text that is not a quantity, or an amount that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The text has no number, or something that is no suffix.
    #[error("'{0}' is not a quantity: write a number and perhaps a suffix, such as 500m, 2, 1.5Gi or 12e6")]
    Malformed(String),
    /// The amount exceeds 128 bits of billionths.
    #[error("'{0}' is too large for a quantity")]
    TooLarge(String),
    /// A sum or a difference exceeds 128 bits of billionths.
    #[error("failed to compute the total of {resource}: it is too large for a quantity")]
    Overflow {
        /// The resource whose amounts were added.
        resource: String,
    },
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self {
        nano: 0,
        format: Format::DecimalSi,
    };

    /// So many wholes, printed with decimal suffixes: Pods, devices, cores.
    pub fn from_units(units: i64) -> Self {
        Self {
            nano: i128::from(units) * NANO,
            format: Format::DecimalSi,
        }
    }

    /// So many thousandths, printed with decimal suffixes: CPU.
    pub fn from_millis(millis: i64) -> Self {
        Self {
            nano: i128::from(millis) * (NANO / 1000),
            format: Format::DecimalSi,
        }
    }

    /// So many wholes, printed with binary suffixes: memory, storage.
    pub fn from_bytes(bytes: i64) -> Self {
        Self {
            nano: i128::from(bytes) * NANO,
            format: Format::BinarySi,
        }
    }

    /// So many billionths.
    pub fn from_nanos(nano: i128, format: Format) -> Self {
        Self { nano, format }
    }

    /// The amount in billionths.
    pub fn nanos(self) -> i128 {
        self.nano
    }

    /// The amount in thousandths, rounded up; the largest `i64` if it is more.
    pub fn millis(self) -> i64 {
        ceil(self.nano, NANO / 1000)
    }

    /// The amount in wholes, rounded up; the largest `i64` if it is more.
    pub fn units(self) -> i64 {
        ceil(self.nano, NANO)
    }

    /// Whether this is nothing.
    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    /// The sum, or nothing if it exceeds what a quantity can hold.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.combine(other, self.nano.checked_add(other.nano)?)
    }

    /// The difference, which may be below zero, or nothing if it exceeds what a quantity can hold.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.combine(other, self.nano.checked_sub(other.nano)?)
    }

    /// The sum, held at the largest or smallest quantity if it would exceed it.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self {
            nano: self.nano.saturating_add(other.nano),
            format: self.format_with(other),
        }
    }

    /// The difference, held at the largest or smallest quantity if it would exceed it.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self {
            nano: self.nano.saturating_sub(other.nano),
            format: self.format_with(other),
        }
    }

    #[expect(
        clippy::unnecessary_wraps,
        reason = "keeps the two checked operations in one line each"
    )]
    fn combine(self, other: Self, nano: i128) -> Option<Self> {
        Some(Self {
            nano,
            format: self.format_with(other),
        })
    }

    /// As Kubernetes does: the first operand's format, unless that one is zero.
    fn format_with(self, other: Self) -> Format {
        if self.is_zero() { other.format } else { self.format }
    }
}

fn ceil(nano: i128, unit: i128) -> i64 {
    let up = i128::from(nano.rem_euclid(unit) > 0);
    i64::try_from(nano.div_euclid(unit) + up).unwrap_or(if nano < 0 { i64::MIN } else { i64::MAX })
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl std::hash::Hash for Quantity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.nano.hash(state);
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.nano % NANO == 0;
        // As Kubernetes prints: small and fractional amounts in decimal, whatever they were written in.
        let binary = self.format == Format::BinarySi
            && whole
            && (1024 * NANO..=BINARY_CAP).contains(&self.nano.saturating_abs());
        if binary {
            let mut mantissa = self.nano / NANO;
            let mut power = 0;
            while mantissa % 1024 == 0 && power + 1 < BINARY.len() {
                mantissa /= 1024;
                power += 1;
            }
            return write!(f, "{mantissa}{}", BINARY[power]);
        }
        let (mut mantissa, mut power) = (self.nano, 0);
        while mantissa != 0 && mantissa % 1000 == 0 && power < 9 {
            mantissa /= 1000;
            power += 1;
        }
        let (suffix, exponent) = if mantissa == 0 { ("", 0) } else { DECIMAL[power] };
        match self.format {
            Format::DecimalExponent if exponent != 0 => write!(f, "{mantissa}e{exponent}"),
            Format::DecimalExponent => write!(f, "{mantissa}"),
            _ => write!(f, "{mantissa}{suffix}"),
        }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let shown = || text.chars().take(60).collect::<String>();
        let malformed = || QuantityError::Malformed(shown());
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, rest) = digits(unsigned);
        let (fraction, suffix) = rest.strip_prefix('.').map_or(("", rest), digits);
        if whole.is_empty() && fraction.is_empty() {
            return Err(malformed());
        }
        let (format, scale) = scale(suffix).ok_or_else(malformed)?;
        let mut number = Decimal::new(whole, fraction);
        match scale {
            Scale::Ten(exponent) => number.point += exponent,
            Scale::Kibi(times) => number.multiply_by_1024(times),
        }
        let nano = match (number.nanos(), format) {
            (Some(nano), Format::BinarySi) => nano.min(BINARY_CAP),
            (Some(nano), _) => nano,
            (None, Format::BinarySi) => BINARY_CAP,
            (None, _) => return Err(QuantityError::TooLarge(shown())),
        };
        // As Kubernetes does: a part of one byte has no binary form.
        let format = if format == Format::BinarySi && (1..NANO).contains(&nano) {
            Format::DecimalSi
        } else {
            format
        };
        Ok(Self {
            nano: if negative { -nano } else { nano },
            format,
        })
    }
}

/// The digits at the start of `text`, and what follows them.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

enum Scale {
    Ten(i64),
    Kibi(usize),
}

fn scale(suffix: &str) -> Option<(Format, Scale)> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((Format::DecimalSi, Scale::Ten(*exponent)));
    }
    if let Some(times) = BINARY.iter().position(|name| *name == suffix) {
        return Some((Format::BinarySi, Scale::Kibi(times)));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    Some((Format::DecimalExponent, Scale::Ten(exponent.into())))
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(QuantityVisitor)
    }
}

/// Kubernetes takes a quantity as text or as a bare number.
struct QuantityVisitor;

impl de::Visitor<'_> for QuantityVisitor {
    type Value = Quantity;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a quantity such as 500m or 1.5Gi")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Quantity, E> {
        Ok(Quantity::from_units(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Quantity, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Quantity, E> {
        number.to_string().parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests;
