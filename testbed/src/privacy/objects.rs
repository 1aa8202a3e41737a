//! Every version of every object that an API server has while somebody looks, of all kinds that can be watched.
//!
//! Used by the test of what a cluster holds of a car. What must never happen: a kind is left out and nobody hears of it; so whoever looks names the
//! kinds that must be among them.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use futures::StreamExt as _;
use kube::api::{Api, DynamicObject};
use kube::discovery::verbs;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Discovery};
use tokio::task::JoinSet;

use super::scan::Recordings;

/// The text of every version that was seen, by kind.
type Seen = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// Looks on until it is dropped.
#[derive(Debug)]
pub struct Watching {
    kinds: usize,
    seen: Seen,
    /// Ended when this is dropped.
    _tasks: JoinSet<()>,
}

impl Watching {
    /// Looks at everything that there is, and at everything that comes.
    pub async fn start(client: &Client) -> Result<Self> {
        let discovery = Discovery::new(client.clone()).run_aggregated().await;
        let discovery = discovery.context("failed to ask for the API's kinds")?;
        let (seen, mut tasks) = (Seen::default(), JoinSet::new());
        for group in discovery.groups() {
            for (resource, capabilities) in group.recommended_resources() {
                if capabilities.supports_operation(verbs::WATCH) {
                    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
                    tasks.spawn(watch(api, resource.kind.clone(), Arc::clone(&seen)));
                }
            }
        }
        Ok(Self {
            kinds: tasks.len(),
            seen,
            _tasks: tasks,
        })
    }

    /// Of how many kinds there are objects or could be.
    pub fn kinds(&self) -> usize {
        self.kinds
    }

    /// All versions of all objects so far.
    pub fn recorded(&self) -> Recordings {
        let mut all = Recordings::default();
        for (kind, text) in self.seen.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            all.add(format!("objects: {kind}"), text);
        }
        all
    }
}

async fn watch(api: Api<DynamicObject>, kind: String, seen: Seen) {
    let mut events = pin!(watcher(api, watcher::Config::default()));
    while let Some(event) = events.next().await {
        // The watch mends itself after an error.
        let Ok(Event::Apply(object) | Event::InitApply(object) | Event::Delete(object)) = event else {
            continue;
        };
        // What was read from JSON can be written as JSON.
        if let Ok(text) = serde_json::to_vec(&object) {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let of = seen.entry(kind.clone()).or_default();
            of.extend_from_slice(&text);
            of.push(b'\n');
        }
    }
}
