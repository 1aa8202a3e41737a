//! The demo's watches: five kinds of objects in one stream of what was seen.
//!
//! Called once per demo. A watch mends itself after an error; the demo's deadline is what ends a silence.

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kerbside_api::v1alpha1::{FleetJob, Vehicle};
use kerbside_core::names::label;
use kube::api::Api;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Client, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;

use super::board::Seen;

/// Watches the job and its Pods, and the pool's Vehicles and Nodes, until the returned set is dropped.
pub(super) fn start(client: &Client, namespace: &str, job: &str, pool: &str, send: &Sender<Seen>) -> JoinSet<()> {
    let of_job = Config::default().labels(&format!("{}={job}", label::JOB_NAME));
    let named = Config::default().fields(&format!("metadata.name={job}"));
    let of_pool = Config::default().labels(&format!("{}={pool}", label::POOL));
    let mut set = JoinSet::new();
    set.spawn(watch(
        Api::<FleetJob>::namespaced(client.clone(), namespace),
        named,
        send.clone(),
        |j| Some(Seen::Job(Box::new(j))),
        |_| None,
    ));
    set.spawn(watch(
        Api::<Pod>::namespaced(client.clone(), namespace),
        of_job,
        send.clone(),
        |p| Some(Seen::Pod(Box::new(p))),
        |p: Pod| p.uid().map(Seen::PodGone),
    ));
    set.spawn(watch(
        Api::<Vehicle>::all(client.clone()),
        Config::default(),
        send.clone(),
        |v| Some(Seen::Vehicle(Box::new(v))),
        |_| None,
    ));
    set.spawn(watch(
        Api::<Node>::all(client.clone()),
        of_pool,
        send.clone(),
        |n| Some(Seen::Node(Box::new(n))),
        |n: Node| Some(Seen::NodeGone(n.name_any())),
    ));
    set
}

async fn watch<K>(
    api: Api<K>,
    config: Config,
    send: Sender<Seen>,
    there: impl Fn(K) -> Option<Seen> + Send,
    gone: impl Fn(K) -> Option<Seen> + Send,
) where
    K: kube::Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut stream = Box::pin(watcher(api, config));
    while let Some(event) = stream.next().await {
        let seen = match event {
            Ok(Event::Apply(k) | Event::InitApply(k)) => there(k),
            Ok(Event::Delete(k)) => gone(k),
            Ok(Event::Init | Event::InitDone) | Err(_) => None,
        };
        if let Some(seen) = seen
            && send.send(seen).await.is_err()
        {
            return;
        }
    }
}
