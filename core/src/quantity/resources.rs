//! Amounts of several resources at once: what a car gives, what a Pod asks for.
//!
//! Called by the admission on a car, the offer and the pool's totals. A resource that is not named is there zero times.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Quantity, QuantityError};

/// Amounts by resource name: `cpu`, `memory`, `pods`, `kerbside.dev/npu`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Resources(pub BTreeMap<String, Quantity>);

/// A resource of which less is left than is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// The resource's name.
    pub resource: String,
    /// What is asked for.
    pub requested: Quantity,
    /// What is taken already.
    pub used: Quantity,
    /// What there is in all.
    pub capacity: Quantity,
}

impl Resources {
    /// The amount of `resource`; zero if it is not named.
    pub fn get(&self, resource: &str) -> Quantity {
        self.0.get(resource).copied().unwrap_or_default()
    }

    /// Whether every amount is zero.
    pub fn is_zero(&self) -> bool {
        self.0.values().all(|quantity| quantity.is_zero())
    }

    /// Whether `request` fits into what `used` leaves of these; if not, every shortage, by resource name.
    ///
    /// What is not asked for is never short, even where more is used than there is: an offer may shrink under running work.
    pub fn fits(&self, used: &Self, request: &Self) -> Result<(), Vec<Shortage>> {
        let short: Vec<_> = request
            .0
            .iter()
            .filter(|(_, requested)| **requested > Quantity::ZERO)
            .map(|(resource, requested)| Shortage {
                resource: resource.clone(),
                requested: *requested,
                used: used.get(resource),
                capacity: self.get(resource),
            })
            .filter(|s| s.requested > s.capacity.saturating_sub(s.used))
            .collect();
        if short.is_empty() { Ok(()) } else { Err(short) }
    }

    /// Both together. These stay as they were if a total is too large.
    pub fn add(&mut self, other: &Self) -> Result<(), QuantityError> {
        self.merge(other, Quantity::checked_add)
    }

    /// These without the other; an amount may fall below zero. These stay as they were if a difference is too large.
    pub fn sub(&mut self, other: &Self) -> Result<(), QuantityError> {
        self.merge(other, Quantity::checked_sub)
    }

    /// The larger amount of each resource.
    #[must_use]
    pub fn max(mut self, other: &Self) -> Self {
        for (resource, quantity) in &other.0 {
            let mine = self.0.entry(resource.clone()).or_default();
            if quantity > mine {
                *mine = *quantity;
            }
        }
        self
    }

    fn merge(
        &mut self,
        other: &Self,
        combine: fn(Quantity, Quantity) -> Option<Quantity>,
    ) -> Result<(), QuantityError> {
        let mut merged = self.0.clone();
        for (resource, quantity) in &other.0 {
            let total = combine(self.get(resource), *quantity).ok_or_else(|| QuantityError::Overflow {
                resource: resource.clone(),
            })?;
            merged.insert(resource.clone(), total);
        }
        self.0 = merged;
        Ok(())
    }
}

impl<const N: usize> From<[(&str, Quantity); N]> for Resources {
    fn from(amounts: [(&str, Quantity); N]) -> Self {
        Self(
            amounts
                .into_iter()
                .map(|(resource, quantity)| (resource.to_owned(), quantity))
                .collect(),
        )
    }
}
