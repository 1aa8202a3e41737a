//! Benchmarks with one car on a testbed of their own: `make bench-pods`, `make bench-return`; and one of traces alone, `make bench-privacy`.
//! The last line of each is one JSON object.

pub mod pods;
pub mod privacy;
pub mod returns;
mod saved;

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use serde_json::{Value, json};

use crate::bed::Bed;
use crate::engine::Kind;
use crate::fleet::car::Car;
use crate::layout::Layout;
use crate::up::{self, Request, Scope};
use crate::{control_plane, store, wait};

/// The namespace of the Pods, and the pool of the car.
const NAME: &str = "bench";
const DEADLINE: Duration = Duration::from_mins(1);

/// Brings a testbed up, runs the benchmark, takes the testbed down whatever came of it, and prints the figures.
async fn on_a_testbed(layout: &Layout, benchmark: impl Future<Output = Result<Value>>) -> Result<()> {
    let request = Request {
        scope: Scope::Kerbside,
        control_plane: control_plane::Options::default(),
        store: store::Kind::default(),
        engines: &[Kind::Pinned],
        compiled: true,
        cluster: None,
    };
    up::up(layout, &request, &mut |text| println!("{text}")).await?;
    let result = benchmark.await;
    up::end(layout).await?;
    let figures = result?;
    println!("{figures}");
    Ok(())
}

/// Makes the namespace and the pool.
async fn begin(bed: &Bed) -> Result<()> {
    apply(
        bed,
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAME}}),
    )
    .await?;
    apply(
        bed,
        &json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "VehiclePool", "metadata": {"name": NAME},
            "spec": {"allowedNamespaces": {"from": "All"}},
        }),
    )
    .await
}

async fn apply(bed: &Bed, object: &Value) -> Result<()> {
    bed.kubectl
        .run(&["apply", "-f", "-"], &object.to_string())
        .await
        .map(drop)
}

/// Waits until the car's Node says that it runs containers.
async fn offers_containers(bed: &Bed, car: &Car) -> Result<()> {
    let nodes: Api<Node> = Api::all(bed.client.clone());
    let what = "a Node that offers containers";
    wait::object(&nodes, car.id.as_str(), what, DEADLINE, |node| {
        let labels = node?.metadata.labels.as_ref()?;
        (labels.get("kerbside.dev/runtime-container")? == "true").then_some(())
    })
    .await
    .context("the car does not come")
}

/// In milliseconds, with one digit behind the point.
fn percentile(durations: &[Duration], percent: usize) -> f64 {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let index = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    let value = sorted.get(index).copied().unwrap_or_default();
    (value.as_secs_f64() * 10_000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_is_a_value_that_was_measured() {
        let all: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert!((percentile(&all, 50) - 50.0).abs() < f64::EPSILON);
        assert!((percentile(&all, 99) - 99.0).abs() < f64::EPSILON);
        assert!((percentile(&all[..1], 99) - 1.0).abs() < f64::EPSILON);
    }
}
