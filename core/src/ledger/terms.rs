//! Terms: what a pool pays, fixed before an attempt starts.
//!
//! The operator writes the terms of every pool of a job onto a Pod, the adapter gives those of the car's pool to the car as a text, and the
//! car signs for the SHA-256 of that text. What must never happen: the same terms give two texts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Price;
use crate::receipt::digest;

/// What is paid of an attempt whose result is not that of its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unaccepted {
    /// The energy that it took.
    EnergyOnly,
    /// Nothing.
    Nothing,
}

/// What a pool pays. Its text is what a car signs for: a field may be added only if it is left out where it is not set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    /// The pool whose terms they are.
    pub pool: String,
    /// The currency, `EUR`.
    pub currency: String,
    /// For an hour of a core.
    #[serde(rename = "perCPUHour")]
    pub per_cpu_hour: Price,
    /// For a kilowatt-hour.
    #[serde(rename = "perKWh")]
    pub per_kwh: Price,
    /// What is paid of an attempt whose result is not that of its index.
    pub unaccepted: Unaccepted,
}

/// An annotation that is not the terms of an attempt.
#[derive(Debug, thiserror::Error)]
pub enum TermsError {
    /// It is no JSON of that form.
    #[error("failed to read terms")]
    Unreadable {
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// Under the name of a pool are the terms of another.
    #[error("failed to read terms: those of pool '{under}' say that they are of pool '{pool}'")]
    OtherPool {
        /// The name that they stand under.
        under: String,
        /// Whose they say they are.
        pool: String,
    },
}

impl Terms {
    /// The one text that says these terms: JSON without spaces, fields in their order, prices as short as they can be.
    pub fn text(&self) -> String {
        json!(self).to_string()
    }

    /// What a car signs for: the SHA-256 of [`Self::text`], in hex.
    pub fn digest(&self) -> String {
        digest(self.text().as_bytes())
    }
}

/// The content of the annotation [`crate::names::annotation::TERMS`]: by pool. `None` if there is none.
pub fn terms_annotation(terms: &[Terms]) -> Option<String> {
    let by_pool: BTreeMap<_, _> = terms.iter().map(|terms| (&terms.pool, terms)).collect();
    (!by_pool.is_empty()).then(|| json!(by_pool).to_string())
}

/// The terms of an attempt, by pool, as its annotation says them.
pub fn terms_of_annotation(text: &str) -> Result<BTreeMap<String, Terms>, TermsError> {
    let by_pool: BTreeMap<String, Terms> =
        serde_json::from_str(text).map_err(|source| TermsError::Unreadable { source })?;
    for (under, terms) in &by_pool {
        if *under != terms.pool {
            return Err(TermsError::OtherPool {
                under: under.clone(),
                pool: terms.pool.clone(),
            });
        }
    }
    Ok(by_pool)
}
