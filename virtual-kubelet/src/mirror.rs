//! A copy of the objects that one watch shows, keyed by UID, and grouped by what they belong to.
//!
//! One per watched kind; the watch folds events in, actors read. Two objects of one name are two objects. After every relist what was not
//! listed is gone, so a missed delete cannot leave anything behind. The lock is private to this file and never held across an
//! await.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// A copy of the objects of one kind.
#[derive(Debug)]
pub(crate) struct Mirror<K> {
    group: fn(&K) -> Option<String>,
    state: Mutex<State<K>>,
    synced: watch::Sender<bool>,
}

#[derive(Debug)]
struct State<K> {
    objects: HashMap<String, (String, Arc<K>)>,
    groups: HashMap<String, HashSet<String>>,
    names: HashMap<(String, String), String>,
    listed: Option<HashSet<String>>,
}

impl<K: Resource> Mirror<K> {
    /// `group` says what an object belongs to; one that belongs to nothing is not kept.
    pub(crate) fn new(group: fn(&K) -> Option<String>) -> Self {
        let state = State {
            objects: HashMap::new(),
            groups: HashMap::new(),
            names: HashMap::new(),
            listed: None,
        };
        Self {
            group,
            state: Mutex::new(state),
            synced: watch::Sender::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Folds in one event of the watch; the groups in which something changed.
    pub(crate) fn fold(&self, event: Event<K>) -> Vec<String> {
        let mut state = self.state();
        match event {
            Event::Init => {
                state.listed = Some(HashSet::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                let uid = object.uid();
                let changed = state.put(self.group, object, true);
                if let (Some(listed), Some(uid)) = (&mut state.listed, uid) {
                    listed.insert(uid);
                }
                changed
            }
            Event::Apply(object) => state.put(self.group, object, true),
            Event::Delete(object) => {
                let gone = object.uid().and_then(|uid| state.remove(&uid));
                gone.into_iter().collect()
            }
            Event::InitDone => {
                let listed = state.listed.take().unwrap_or_default();
                let missed: Vec<_> = state
                    .objects
                    .keys()
                    .filter(|uid| !listed.contains(*uid))
                    .cloned()
                    .collect();
                let gone = missed.iter().filter_map(|uid| state.remove(uid)).collect();
                drop(state);
                self.synced.send_replace(true);
                gone
            }
        }
    }

    /// Takes in an object from the answer to a write, so that nobody waits for the watch to show it. One that the watch has
    /// not shown, or shows no more, is not taken.
    pub(crate) fn observe(&self, object: K) {
        self.state().put(self.group, object, false);
    }

    /// Every object of a group.
    pub(crate) fn of(&self, group: &str) -> Vec<Arc<K>> {
        let state = self.state();
        let uids = state.groups.get(group).into_iter().flatten();
        uids.filter_map(|uid| state.objects.get(uid))
            .map(|(_, o)| Arc::clone(o))
            .collect()
    }

    /// The object of this UID.
    pub(crate) fn by_uid(&self, uid: &str) -> Option<Arc<K>> {
        self.state().objects.get(uid).map(|(_, o)| Arc::clone(o))
    }

    /// The newest object of this name; the namespace of a cluster-scoped one is empty.
    pub(crate) fn by_name(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let state = self.state();
        let uid = state.names.get(&(namespace.to_owned(), name.to_owned()))?;
        state.objects.get(uid).map(|(_, o)| Arc::clone(o))
    }

    /// All groups that have an object.
    pub(crate) fn groups(&self) -> Vec<String> {
        self.state().groups.keys().cloned().collect()
    }

    /// Whether every object has been listed once.
    pub(crate) fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits until every object has been listed once.
    pub(crate) async fn synced(&self) {
        // The sender lives as long as self, so this cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }
}

impl<K: Resource> State<K> {
    /// The groups that changed: the object's, and the one that it was in before.
    fn put(&mut self, group: fn(&K) -> Option<String>, object: K, insert: bool) -> Vec<String> {
        let Some(uid) = object.uid() else { return Vec::new() };
        let Some(group) = group(&object) else {
            return self.remove(&uid).into_iter().collect();
        };
        let before = self.objects.get(&uid);
        match before {
            None if !insert => return Vec::new(),
            Some((_, old)) if !newer(&object, old) => return Vec::new(),
            _ => {}
        }
        let moved = before.map(|(g, _)| g.clone()).filter(|g| *g != group);
        if let Some(old) = &moved {
            self.leave(old, &uid);
        }
        let name = (object.namespace().unwrap_or_default(), object.name_any());
        self.names.insert(name, uid.clone());
        self.groups.entry(group.clone()).or_default().insert(uid.clone());
        self.objects.insert(uid, (group.clone(), Arc::new(object)));
        moved.into_iter().chain([group]).collect()
    }

    fn remove(&mut self, uid: &str) -> Option<String> {
        let (group, object) = self.objects.remove(uid)?;
        self.leave(&group, uid);
        let name = (object.namespace().unwrap_or_default(), object.name_any());
        if self.names.get(&name).is_some_and(|u| u == uid) {
            self.names.remove(&name);
        }
        Some(group)
    }

    fn leave(&mut self, group: &str, uid: &str) {
        if let Some(members) = self.groups.get_mut(group) {
            members.remove(uid);
            if members.is_empty() {
                self.groups.remove(group);
            }
        }
    }
}

/// Whether `new` is a later version than `old` of the same object. Versions that are not numbers cannot be compared; then what
/// came last counts.
fn newer<K: Resource>(new: &K, old: &K) -> bool {
    let version = |o: &K| o.meta().resource_version.as_ref().and_then(|v| v.parse::<u64>().ok());
    match (version(new), version(old)) {
        (Some(new), Some(old)) => new > old,
        _ => true,
    }
}

/// Follows a watch for ever: folds each event into `mirror` and tells `changed` the groups that it touched. `trim` takes off what
/// nobody reads. An object that cannot be read is logged and left out; it never holds up the others.
pub(crate) async fn follow<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    mirror: &Mirror<K>,
    trim: fn(&mut K),
    changed: impl Fn(&str),
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let kind = K::kind(&());
    let mut stream = std::pin::pin!(watcher::watcher(api, config).default_backoff());
    while let Some(event) = stream.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%kind, %error, "a watch was interrupted and is resumed");
                continue;
            }
        };
        for group in read(event, trim, &kind).map(|e| mirror.fold(e)).unwrap_or_default() {
            changed(&group);
        }
    }
}

fn read<K>(event: Event<DeserializeGuard<K>>, trim: fn(&mut K), kind: &str) -> Option<Event<K>>
where
    K: Resource,
{
    let object = |guard: DeserializeGuard<K>| match guard.0 {
        Ok(mut object) => {
            object.meta_mut().managed_fields = None;
            trim(&mut object);
            Some(object)
        }
        Err(invalid) => {
            let name = invalid.metadata.name.as_deref();
            tracing::warn!(kind, name, error = %invalid.error, "an object cannot be read and is left out");
            None
        }
    };
    Some(match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::Apply(o) => Event::Apply(object(o)?),
        Event::InitApply(o) => Event::InitApply(object(o)?),
        Event::Delete(o) => Event::Delete(object(o)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn pod(name: &str, uid: &str, version: &str, node: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": version},
            "spec": {"containers": [], "nodeName": node},
        }))
        .unwrap()
    }

    fn mirror() -> Mirror<Pod> {
        let mirror = Mirror::new(|p: &Pod| p.spec.as_ref()?.node_name.clone().filter(|n| n.starts_with("car")));
        mirror.fold(Event::Init);
        mirror.fold(Event::InitDone);
        mirror
    }

    fn uids(mirror: &Mirror<Pod>, group: &str) -> Vec<String> {
        let mut uids: Vec<_> = mirror.of(group).iter().filter_map(|p| p.uid()).collect();
        uids.sort();
        uids
    }

    #[test]
    fn object_of_no_group_is_not_kept() {
        let mirror = mirror();
        assert!(mirror.fold(Event::Apply(pod("a", "1", "1", "worker"))).is_empty());
        assert!(mirror.by_uid("1").is_none());
        assert_eq!(mirror.fold(Event::Apply(pod("b", "2", "1", "car-1"))), ["car-1"]);
    }

    #[test]
    fn object_made_again_under_the_same_name_is_another_one() {
        let mirror = mirror();
        mirror.fold(Event::Apply(pod("a", "1", "1", "car-1")));
        mirror.fold(Event::Apply(pod("a", "2", "5", "car-1")));
        assert_eq!(uids(&mirror, "car-1"), ["1", "2"]);
        assert_eq!(mirror.by_name("ns", "a").unwrap().uid().unwrap(), "2");
        mirror.fold(Event::Delete(pod("a", "1", "4", "car-1")));
        assert_eq!(
            mirror.by_name("ns", "a").unwrap().uid().unwrap(),
            "2",
            "the late delete is the old one's"
        );
    }

    #[test]
    fn delete_that_was_missed_is_noticed_by_the_next_list() {
        let mirror = mirror();
        mirror.fold(Event::Apply(pod("a", "1", "1", "car-1")));
        mirror.fold(Event::Apply(pod("b", "2", "2", "car-2")));
        mirror.fold(Event::Init);
        mirror.fold(Event::InitApply(pod("b", "2", "2", "car-2")));
        assert_eq!(mirror.fold(Event::InitDone), ["car-1"]);
        assert_eq!((uids(&mirror, "car-1").len(), uids(&mirror, "car-2").len()), (0, 1));
    }

    #[test]
    fn answer_to_a_write_is_not_undone_by_an_older_event() {
        let mirror = mirror();
        mirror.fold(Event::Apply(pod("a", "1", "1", "car-1")));
        mirror.observe(pod("a", "1", "9", "car-1"));
        assert!(mirror.fold(Event::Apply(pod("a", "1", "5", "car-1"))).is_empty());
        assert_eq!(mirror.by_uid("1").unwrap().resource_version().unwrap(), "9");
    }

    #[test]
    fn answer_to_a_write_of_a_deleted_object_does_not_bring_it_back() {
        let mirror = mirror();
        mirror.fold(Event::Apply(pod("a", "1", "1", "car-1")));
        mirror.fold(Event::Delete(pod("a", "1", "3", "car-1")));
        mirror.observe(pod("a", "1", "2", "car-1"));
        assert!(mirror.by_uid("1").is_none());
    }

    #[test]
    fn object_that_moves_changes_both_groups() {
        let mirror = mirror();
        mirror.fold(Event::Apply(pod("a", "1", "1", "car-1")));
        assert_eq!(
            mirror.fold(Event::Apply(pod("a", "1", "2", "car-2"))),
            ["car-1", "car-2"]
        );
        assert!(mirror.of("car-1").is_empty());
    }
}
