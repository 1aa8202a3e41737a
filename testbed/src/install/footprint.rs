//! What was put into a cluster that is not the testbed's own, so that it can be taken away again, and nothing else.
//!
//! Written by `install` and by the demo, read by `down`. An object that was there before is not in it: what somebody else made
//! stays. In the testbed's own cluster it is written too and never needed: that cluster goes as a whole.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::discovery::Scope;
use kube::{Client, Discovery, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::control_plane::kubeconfig;
use crate::endpoints::{Endpoints, SYSTEM_NAMESPACE};
use crate::layout::{Layout, read_json, write_json};
use crate::wait;

/// For an object to go, finalizers and all.
const GONE: Duration = Duration::from_secs(90);

/// One object by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Of a namespaced object.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

impl Object {
    /// The name of a manifest.
    pub fn of(manifest: &Value) -> Result<Self> {
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let kind = text(&manifest["kind"]).context("an object has no kind")?;
        Ok(Self {
            api_version: text(&manifest["apiVersion"]).with_context(|| format!("a {kind} has no apiVersion"))?,
            name: text(&manifest["metadata"]["name"]).with_context(|| format!("a {kind} has no name"))?,
            namespace: text(&manifest["metadata"]["namespace"]),
            kind,
        })
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// The kinds that a cluster serves.
pub struct Kinds {
    client: Client,
    discovery: Discovery,
}

impl Kinds {
    /// Asks the cluster.
    pub async fn of(client: &Client) -> Result<Self> {
        let discovery = Discovery::new(client.clone()).run_aggregated().await;
        Ok(Self {
            client: client.clone(),
            discovery: discovery.context("failed to ask for the API's kinds")?,
        })
    }

    /// The API of an object's kind.
    pub fn api(&self, object: &Object) -> Result<Api<DynamicObject>> {
        let (group, version) = object.api_version.rsplit_once('/').unwrap_or(("", &object.api_version));
        let kind = GroupVersionKind::gvk(group, version, &object.kind);
        let found = self.discovery.resolve_gvk(&kind);
        let (resource, capabilities) =
            found.with_context(|| format!("the cluster has no kind {} in {}", object.kind, object.api_version))?;
        let namespace = object.namespace.as_deref().unwrap_or(SYSTEM_NAMESPACE);
        Ok(match capabilities.scope {
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
            Scope::Namespaced => Api::namespaced_with(self.client.clone(), namespace, &resource),
        })
    }
}

/// The objects that were made, in the order of their making.
pub struct Footprint {
    path: PathBuf,
    objects: Vec<Object>,
}

impl Footprint {
    /// The footprint of a testbed; empty if it has none yet.
    pub fn open(layout: &Layout) -> Result<Self> {
        let path = layout.path("footprint.json");
        let objects = if path.exists() { read_json(&path)? } else { Vec::new() };
        Ok(Self { path, objects })
    }

    /// Refuses to go on if one of these manifests' objects is there and not in the footprint: it would be changed now and deleted
    /// in the end.
    pub async fn refuse_others(&self, client: &Client, manifests: &[Value]) -> Result<()> {
        let kinds = Kinds::of(client).await?;
        for manifest in manifests {
            let object = Object::of(manifest)?;
            // A kind that is not served has no objects.
            let Ok(api) = kinds.api(&object) else { continue };
            let there = api.get_metadata_opt(&object.name).await;
            let there = there.with_context(|| format!("failed to look for {object}"))?.is_some();
            self.refuse_other(&object, there)?;
        }
        Ok(())
    }

    fn refuse_other(&self, object: &Object, there: bool) -> Result<()> {
        ensure!(
            !there || self.objects.contains(object),
            "there is a {object} in this cluster already, and the testbed did not make it; delete it, or use another cluster"
        );
        Ok(())
    }

    /// Adds an object that is about to be made.
    pub fn add(&mut self, object: Object) -> Result<()> {
        if self.objects.contains(&object) {
            return Ok(());
        }
        self.objects.push(object);
        write_json(&self.path, &self.objects)
    }
}

/// Deletes what the testbed put into a cluster that is not its own, the latest first, each when the one before is gone.
pub async fn remove(layout: &Layout) -> Result<()> {
    let Ok(endpoints) = Endpoints::read(layout) else {
        return Ok(());
    };
    let footprint = Footprint::open(layout)?;
    if endpoints.kubeconfig == layout.kubeconfig() || footprint.objects.is_empty() {
        return Ok(());
    }
    let client = kubeconfig::client(&endpoints.kubeconfig).await?;
    let kinds = Kinds::of(&client).await?;
    for object in footprint.objects.iter().rev() {
        // A kind that is not served any more has no objects.
        let Ok(api) = kinds.api(object) else { continue };
        delete(&api, object).await?;
    }
    std::fs::remove_file(&footprint.path).context("failed to remove the footprint")
}

async fn delete(api: &Api<DynamicObject>, object: &Object) -> Result<()> {
    match api.delete(&object.name, &DeleteParams::foreground()).await {
        Ok(_) => {}
        Err(kube::Error::Api(s)) if s.is_not_found() => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("failed to delete {object}")),
    }
    wait::until(&format!("{object} to be gone"), GONE, || async {
        let selector = ListParams::default().fields(&format!("metadata.name={}", object.name));
        match api.list_metadata(&selector).await {
            Ok(list) => Ok(list.items.iter().all(|o| o.name_any() != object.name).then_some(())),
            // The last CRD's going takes the kind itself away.
            Err(kube::Error::Api(s)) if s.is_not_found() => Ok(Some(())),
            Err(e) => Err(e).with_context(|| format!("failed to look for {object}")),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn footprint_keeps_the_order_and_no_object_twice() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let object = |name: &str| {
            Object::of(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).unwrap()
        };
        let mut footprint = Footprint::open(&layout).unwrap();
        for name in ["a", "b", "a"] {
            footprint.add(object(name)).unwrap();
        }
        assert_eq!(Footprint::open(&layout).unwrap().objects, [object("a"), object("b")]);
    }

    #[test]
    fn object_of_somebody_else_is_refused_and_an_own_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let pool = json!({"apiVersion": "kerbside.dev/v1alpha1", "kind": "VehiclePool", "metadata": {"name": "demo"}});
        let pool = Object::of(&pool).unwrap();
        let mut footprint = Footprint::open(&layout).unwrap();
        footprint.refuse_other(&pool, false).unwrap();
        let error = footprint.refuse_other(&pool, true).unwrap_err();
        assert!(error.to_string().contains("VehiclePool demo"), "{error}");
        footprint.add(pool.clone()).unwrap();
        footprint.refuse_other(&pool, true).unwrap();
    }

    #[test]
    fn object_without_a_name_is_an_error_that_tells_its_kind() {
        let error = Object::of(&json!({"apiVersion": "v1", "kind": "Secret"})).unwrap_err();
        assert!(error.to_string().contains("Secret"), "{error}");
    }
}
