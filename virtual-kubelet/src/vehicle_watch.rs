//! What people and the operator say: Vehicles, VehiclePools, and the Namespaces that pools allow.
//!
//! Three watches for the whole adapter. The fleet is told which vehicles a change concerns; a revoked vehicle's actor ends its
//! connection at once. Pools are compiled once per change, not once per car.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Namespace;
use kerbside_api::v1alpha1::{Vehicle, VehiclePool};
use kerbside_core::ids::VehicleId;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};

use crate::mirror::{Mirror, follow};
use crate::terms::Pool;

/// Vehicles, pools and namespaces as the watches show them.
#[derive(Debug)]
pub(crate) struct Roster {
    pub(crate) vehicles: Mirror<Vehicle>,
    pub(crate) pools: Mirror<VehiclePool>,
    pub(crate) namespaces: Mirror<Namespace>,
    compiled: Mutex<HashMap<String, Compiled>>,
}

type Version = (Option<String>, Option<i64>);

fn version(pool: &VehiclePool) -> Version {
    (pool.metadata.uid.clone(), pool.metadata.generation)
}

/// A compiled pool, and from which one: its UID and generation, which its status does not change.
#[derive(Debug)]
struct Compiled {
    version: Version,
    pool: Arc<Pool>,
}

impl Roster {
    /// Empty, until [`Roster::run`] has listed everything.
    pub(crate) fn new() -> Self {
        Self {
            vehicles: Mirror::new(|v| v.metadata.name.clone()),
            pools: Mirror::new(|p| p.metadata.name.clone()),
            namespaces: Mirror::new(|n| n.metadata.name.clone()),
            compiled: Mutex::new(HashMap::new()),
        }
    }

    /// Follows the watches for ever; `changed` hears of each vehicle that a change concerns.
    pub(crate) async fn run(&self, client: Client, changed: impl Fn(&VehicleId)) {
        let all = |pool: Option<&str>| {
            for name in self.vehicles.groups() {
                let concerned = pool.is_none_or(|p| self.vehicle(&name).is_some_and(|v| v.spec.pool == p));
                if let (true, Ok(id)) = (concerned, name.parse()) {
                    changed(&id);
                }
            }
        };
        let one = |name: &str| {
            if let Ok(id) = name.parse() {
                changed(&id);
            }
        };
        let config = watcher::Config::default;
        let vehicles = follow(Api::all(client.clone()), config(), &self.vehicles, |_| {}, one);
        let pools = follow(
            Api::all(client.clone()),
            config(),
            &self.pools,
            |_| {},
            |name| {
                // The operator counts in a pool's status all the time; only its terms concern the vehicles.
                if !self.is_compiled(name) {
                    all(Some(name));
                }
            },
        );
        let namespaces = follow(
            Api::all(client),
            config(),
            &self.namespaces,
            |n| n.status = None,
            |_| all(None),
        );
        futures::join!(vehicles, pools, namespaces);
    }

    /// Waits until everything has been listed once.
    pub(crate) async fn synced(&self) {
        futures::join!(self.vehicles.synced(), self.pools.synced(), self.namespaces.synced());
    }

    /// Whether everything has been listed once.
    pub(crate) fn is_synced(&self) -> bool {
        self.vehicles.is_synced() && self.pools.is_synced() && self.namespaces.is_synced()
    }

    /// The Vehicle of this name.
    pub(crate) fn vehicle(&self, name: &str) -> Option<Arc<Vehicle>> {
        self.vehicles.by_name("", name)
    }

    /// Every vehicle's name.
    pub(crate) fn names(&self) -> Vec<String> {
        self.vehicles.groups()
    }

    /// Takes in a Vehicle from the answer to a write.
    pub(crate) fn observe(&self, vehicle: Vehicle) {
        self.vehicles.observe(vehicle);
    }

    /// The labels of a namespace; None: it is not known.
    pub(crate) fn namespace_labels(&self, name: &str) -> Option<BTreeMap<String, String>> {
        self.namespaces.by_name("", name).map(|n| n.labels().clone())
    }

    /// Whether the pool's terms, as they are now, have been compiled before.
    fn is_compiled(&self, name: &str) -> bool {
        let compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let known = compiled.get(name).map(|c| c.version.clone());
        known.is_some() && self.pools.by_name("", name).map(|p| version(&p)) == known
    }

    /// The pool of this name, its rules compiled.
    pub(crate) fn pool(&self, name: &str) -> Option<Arc<Pool>> {
        let object = self.pools.by_name("", name);
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(object) = object else {
            compiled.remove(name);
            return None;
        };
        let version = version(&object);
        if let Some(known) = compiled.get(name).filter(|c| c.version == version) {
            return Some(Arc::clone(&known.pool));
        }
        let pool = Arc::new(Pool::new(VehiclePool::clone(&object)));
        compiled.insert(
            name.to_owned(),
            Compiled {
                version,
                pool: Arc::clone(&pool),
            },
        );
        Some(pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::list;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    fn pool(generation: i64, version: &str) -> VehiclePool {
        serde_json::from_value(json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "VehiclePool",
            "metadata": {"name": "overnight", "uid": "p-1", "generation": generation, "resourceVersion": version},
            "spec": {"allowedNamespaces": {"from": "All"}},
        }))
        .unwrap()
    }

    #[test]
    fn pool_is_compiled_again_only_when_its_terms_change() {
        let roster = Roster::new();
        list(&roster.pools, vec![pool(1, "1")]);
        assert!(!roster.is_compiled("overnight"));
        let first = roster.pool("overnight").unwrap();
        roster.pools.fold(Event::Apply(pool(1, "2")));
        assert!(roster.is_compiled("overnight"));
        assert!(Arc::ptr_eq(&first, &roster.pool("overnight").unwrap()));
        roster.pools.fold(Event::Apply(pool(2, "3")));
        assert!(!roster.is_compiled("overnight"));
        assert!(!Arc::ptr_eq(&first, &roster.pool("overnight").unwrap()));
    }

    #[test]
    fn pool_that_is_deleted_is_gone() {
        let roster = Roster::new();
        list(&roster.pools, vec![pool(1, "1")]);
        assert!(roster.pool("overnight").is_some());
        list(&roster.pools, vec![]);
        assert!(!roster.is_compiled("overnight") && roster.pool("overnight").is_none());
    }
}
