//! All cars of a large fleet lose their adapter at once and come back.
//!
//! The adapter is killed and started again. Counted is from the start of the new process to the moment at which the last car is connected.
//! Beside them is a small pool that has nothing to do with them: none of its Nodes may turn NotReady on the way.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::time::{Instant, sleep};

use super::cars::Cars;
use super::report::Figures;
use super::{BYSTANDERS, NAME, Options, idle, say};
use crate::bed::Bed;
use crate::fleet::name::ADAPTER;
use crate::{process, wait};

/// Enrolling and presenting thousands of Nodes on two processors, which also run the control plane.
const DEADLINE: Duration = Duration::from_mins(15);
/// Cars of the pool that has nothing to do with it.
const FEW: u32 = 20;
/// Their numbers, far above the others'.
const FROM: u32 = 100_000;
/// How long it took is the figure, and that differs with the machine; this is only for cars that never come back.
const BACK: Duration = Duration::from_mins(15);
/// The longest that kube-controller-manager waits for a Node that is not renewed, and some more.
const AFTERMATH: Duration = Duration::from_secs(60);

/// Measures it.
pub(super) async fn measure(bed: &Bed, options: &Options, cars: &mut Cars, figures: &mut Figures) -> Result<()> {
    let there = u32::try_from(cars.count())?;
    say(&format!(
        "enrolling {} more cars",
        options.reconnect.saturating_sub(there) + FEW
    ));
    cars.halt().await?;
    cars.more(bed, NAME, there..options.reconnect.max(there)).await?;
    cars.more(bed, BYSTANDERS, FROM..FROM + FEW).await?;
    cars.boot().await?;
    cars.rest().await?;
    cars.recount().await?;
    cars.connected(DEADLINE).await?;
    let count = cars.count();
    idle::available(bed, NAME, count - usize::try_from(FEW)?, DEADLINE).await?;
    idle::available(bed, BYSTANDERS, usize::try_from(FEW)?, DEADLINE).await?;

    say(&format!("{count} cars lose their adapter at once"));
    let unwell = Unwell::begin(bed);
    process::crash(&bed.layout, ADAPTER).await?;
    wait::until("every car to notice", BACK, || async {
        Ok((cars.unconnected() == count).then_some(()))
    })
    .await?;
    let began = Instant::now();
    bed.restart(ADAPTER).await?;
    cars.connected(BACK).await?;
    let took = began.elapsed();
    figures.reconnect_s = Some(took.as_secs_f64());
    say(&format!("all are back after {:.1} s", took.as_secs_f64()));
    sleep(AFTERMATH).await;
    let unwell = unwell.end();
    say(&format!(
        "Nodes of the other pool that turned NotReady meanwhile: {unwell:?}"
    ));
    figures.bystanders_not_ready = Some(unwell.len());
    Ok(())
}

/// Nodes of the pool beside that were not Ready at any time since it began.
struct Unwell {
    seen: Arc<Mutex<BTreeSet<String>>>,
    task: tokio::task::AbortHandle,
}

impl Unwell {
    fn begin(bed: &Bed) -> Self {
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let noted = Arc::clone(&seen);
        let nodes: Api<Node> = Api::all(bed.client.clone());
        let config = watcher::Config::default().labels(&format!("{}={BYSTANDERS}", kerbside_core::names::label::POOL));
        let task = tokio::spawn(async move {
            let mut stream = std::pin::pin!(watcher(nodes, config));
            while let Some(event) = stream.next().await {
                // The watch mends itself after an error.
                let Ok(Event::Apply(node) | Event::InitApply(node) | Event::Delete(node)) = event else {
                    continue;
                };
                if !ready(&node) {
                    noted
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(node.name_any());
                }
            }
        });
        Self {
            seen,
            task: task.abort_handle(),
        }
    }

    fn end(self) -> BTreeSet<String> {
        self.task.abort();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn node_that_nobody_vouches_for_is_not_ready() {
        let node = |status: &str| {
            serde_json::from_value::<Node>(json!({"status": {"conditions": [{"type": "Ready", "status": status}]}}))
                .unwrap()
        };
        assert!(ready(&node("True")) && !ready(&node("Unknown")) && !ready(&Node::default()));
    }
}
