//! What a parked fleet without work costs: writes to the API server, bytes on the link.
//!
//! Measured when the cluster has come to rest: every car is connected and Available, and for a while nobody writes anything but renewals.

use std::time::Duration;

use anyhow::{Context, Result};
use kerbside_api::v1alpha1::{Vehicle, VehiclePhase};
use kube::api::Api;
use kube::runtime::watcher;
use tokio::time::{Instant, sleep_until};

use super::cars::Cars;
use super::report::Figures;
use super::{NAME, Options, say, sockets};
use crate::audit::Audit;
use crate::bed::Bed;
use crate::wait;

/// All cars of a thousand are connected, Available and quiet within that.
const DEADLINE: Duration = Duration::from_mins(5);
/// Nothing but renewals was written for so long: the cluster is at rest.
const QUIET: Duration = Duration::from_secs(10);

/// Waits until all cars that were started are there.
pub(super) async fn there(bed: &Bed, cars: &Cars) -> Result<()> {
    say(&format!("{} cars connect", cars.count()));
    cars.connected(DEADLINE).await?;
    available(bed, NAME, cars.count(), DEADLINE).await
}

/// Measures it.
pub(super) async fn measure(bed: &Bed, options: &Options, cars: &Cars, figures: &mut Figures) -> Result<()> {
    let Some(mut audit) = Audit::now(&bed.layout) else {
        say("this API server keeps no audit log: its writes are not counted");
        return Ok(());
    };
    rest(&mut audit).await?;
    say(&format!("an idle fleet is watched for {} s", options.idle.as_secs()));
    let port = link_port(bed)?;
    audit.writes()?;
    let (before, began) = (sockets::to_port(port).await?, Instant::now());
    sleep_until(began + options.idle).await;
    let (writes, after, took) = (audit.writes()?, sockets::to_port(port).await?, began.elapsed());

    let cars = figure(cars.count());
    let minutes = took.as_secs_f64() / 60.0;
    let leases = writes.iter().filter(|write| write.is_node_lease()).count();
    let others: Vec<_> = writes
        .iter()
        .filter(|write| !write.is_node_lease() && !write.is_housekeeping())
        .collect();
    for write in others.iter().take(5) {
        say(&format!("a write of an idle fleet: {write:?}"));
    }
    figures.idle_lease_writes_per_vehicle_minute = Some(figure(leases) / cars / minutes);
    figures.idle_other_writes_per_vehicle_minute = Some(figure(others.len()) / cars / minutes);
    let connections = figure(usize::try_from(after.connections).context("a count of connections")?);
    let bytes = figure(usize::try_from(after.bytes.saturating_sub(before.bytes)).context("a count of bytes")?);
    figures.idle_link_bytes_per_vehicle_hour = Some(bytes / connections * 60.0 / minutes);
    Ok(())
}

/// Waits until so many vehicles of the pool are Available.
pub(super) async fn available(bed: &Bed, pool: &str, count: usize, deadline: Duration) -> Result<()> {
    let vehicles: Api<Vehicle> = Api::all(bed.client.clone());
    let config = watcher::Config::default().labels(&format!("{}={pool}", kerbside_core::names::label::POOL));
    let what = format!("{count} vehicles of pool {pool} to be Available");
    wait::objects(&vehicles, config, &what, deadline, |all| {
        let ready = |vehicle: &&Vehicle| {
            vehicle
                .status
                .as_ref()
                .is_some_and(|status| status.phase == VehiclePhase::Available)
        };
        (all.iter().filter(ready).count() >= count).then_some(())
    })
    .await
}

async fn rest(audit: &mut Audit) -> Result<()> {
    let mut quiet_since = Instant::now();
    wait::until("the cluster to come to rest", DEADLINE, || {
        let writes = audit.writes();
        let busy = writes.as_ref().is_ok_and(|writes| {
            writes
                .iter()
                .any(|write| !write.is_node_lease() && !write.is_housekeeping())
        });
        if busy {
            quiet_since = Instant::now();
        }
        let quiet = quiet_since.elapsed() >= QUIET;
        async move { writes.map(|_| quiet.then_some(())) }
    })
    .await
}

/// The port at which cars reach the adapter.
pub(super) fn link_port(bed: &Bed) -> Result<u16> {
    let port = bed.endpoints.link.rsplit(':').next().and_then(|port| port.parse().ok());
    port.context("the link has a port")
}

#[expect(clippy::cast_precision_loss, reason = "counts of one run are far below 2^53")]
pub(super) fn figure(count: usize) -> f64 {
    count as f64
}
