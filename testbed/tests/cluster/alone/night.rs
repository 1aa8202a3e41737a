//! Outages as long as they are: what other tests do in less time. `make nightly` runs these, and nobody waits for them.

use super::*;

#[tokio::test]
async fn ten_minutes_without_any_adapter_end_no_attempt_and_every_car_is_adopted() -> Result<()> {
    outage::all_adapters_away("tenmin", Duration::from_mins(10)).await
}
