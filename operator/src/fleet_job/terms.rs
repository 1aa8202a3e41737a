//! A pool's price list as the ledger reckons with it. Pure.

use kerbside_api::v1alpha1;
use kerbside_core::ids::PoolName;
use kerbside_core::ledger::{PriceError, Terms, Unaccepted};

/// The terms of a pool, if its prices are numbers.
pub(super) fn read(pool: &PoolName, given: &v1alpha1::Terms) -> Result<Terms, PriceError> {
    Ok(Terms {
        pool: pool.to_string(),
        currency: given.currency.clone(),
        per_cpu_hour: given.per_cpu_hour.parse()?,
        per_kwh: given.per_kwh.parse()?,
        unaccepted: match given.unaccepted {
            v1alpha1::Unaccepted::EnergyOnly => Unaccepted::EnergyOnly,
            v1alpha1::Unaccepted::Nothing => Unaccepted::Nothing,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn given(price: &str) -> v1alpha1::Terms {
        serde_json::from_value(json!({ "currency": "EUR", "perCPUHour": price, "unaccepted": "Nothing" })).unwrap()
    }

    #[test]
    fn terms_of_a_pool_are_read_whole() {
        let terms = read(&"overnight".parse().unwrap(), &given("0.02")).unwrap();
        assert_eq!((terms.pool.as_str(), terms.currency.as_str()), ("overnight", "EUR"));
        assert_eq!(
            (terms.per_cpu_hour.to_string(), terms.per_kwh.to_string()),
            ("0.02".to_owned(), "0".to_owned())
        );
        assert_eq!(terms.unaccepted, Unaccepted::Nothing);
    }

    #[test]
    fn price_that_is_no_number_is_refused() {
        assert!(read(&"overnight".parse().unwrap(), &given("cheap")).is_err());
    }
}
