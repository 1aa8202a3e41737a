//! Installs Kerbside into a cluster whose programs run outside of it: the CRDs, and from the chart everything but what would run
//! in the cluster.
//!
//! Called by `up` and `demo`. Roles, policies and RuntimeClasses are the chart's own, so that what the tests allow is what users
//! get.

pub mod footprint;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kerbside_k8s::apply::apply;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::control_plane::kubeconfig;
use crate::endpoints::SYSTEM_NAMESPACE;
use crate::kubectl::Tool;
use crate::layout::{Layout, write_atomically};
use crate::{tools, wait};
use footprint::{Footprint, Kinds, Object};

/// Kinds of the chart that run in the cluster, or are for what does.
const RUNNING: [&str; 7] = [
    "Deployment",
    "Service",
    "Job",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "HorizontalPodAutoscaler",
    "PersistentVolumeClaim",
];
/// A demo that is looked at for days still has its programs signed in.
const TOKEN_SECONDS: i64 = 7 * 24 * 3600;

/// The API server serves a new kind within a second or two.
const ESTABLISHED: Duration = Duration::from_secs(60);

/// Applies the CRDs of the checkout and waits until the API server serves them.
pub async fn crds(client: &Client, footprint: &mut Footprint) -> Result<()> {
    let dir = tools::checkout()?.join("crds");
    let mut definitions = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("failed to list {}", dir.display()))? {
        let path = entry
            .with_context(|| format!("failed to list {}", dir.display()))?
            .path();
        let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
        definitions.extend(documents(&text)?);
    }
    ensure!(
        !definitions.is_empty(),
        "{} holds no CRD; run `make crds`",
        dir.display()
    );
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let names: Vec<String> = definitions
        .iter()
        .filter_map(|d| d["metadata"]["name"].as_str())
        .map(str::to_owned)
        .collect();
    all(client, definitions, footprint).await?;
    for name in names {
        wait::object(&api, &name, &format!("{name} to be established"), ESTABLISHED, |crd| {
            let conditions = crd?.status.as_ref()?.conditions.as_ref()?;
            conditions
                .iter()
                .any(|c| c.type_ == "Established" && c.status == "True")
                .then_some(())
        })
        .await?;
    }
    Ok(())
}

/// Applies everything of the chart that does not run in the cluster, as it is rendered for the cluster's own version.
pub async fn chart(client: &Client, helm: &Tool, footprint: &mut Footprint) -> Result<()> {
    let chart = tools::checkout()?.join("charts/kerbside");
    let chart = chart.to_str().context("the path of the checkout is text")?;
    let version = client.apiserver_version().await;
    let version = version.context("failed to read the API server's version")?.git_version;
    let args = [
        "template",
        "kerbside",
        chart,
        "--namespace",
        SYSTEM_NAMESPACE,
        "--no-hooks",
        "--set",
        "telemetryGateway.enabled=true",
        "--kube-version",
        release(&version),
    ];
    let rendered = documents(&helm.run(&args, "").await?)?;
    let keep = |d: &Value| !RUNNING.contains(&d["kind"].as_str().unwrap_or_default());
    let home = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE}});
    all(
        client,
        std::iter::once(home).chain(rendered.into_iter().filter(keep)),
        footprint,
    )
    .await
}

/// The Kubernetes release in a `gitVersion`, without what vendors and builds add to it.
fn release(git_version: &str) -> &str {
    git_version.split(['-', '+']).next().unwrap_or(git_version)
}

/// Refuses a cluster in which Kerbside is installed: two operators and two adapters would fight over it.
pub async fn refuse_if_installed(client: &Client) -> Result<()> {
    use k8s_openapi::api::apps::v1::Deployment;
    let api: Api<Deployment> = Api::all(client.clone());
    let ours = ListParams::default().labels("app.kubernetes.io/part-of=kerbside");
    let found = api
        .list(&ours)
        .await
        .context("failed to look for an installation of Kerbside")?
        .items;
    if let Some(deployment) = found.first() {
        let (name, namespace) = (deployment.name_any(), deployment.namespace().unwrap_or_default());
        bail!("Kerbside is installed in this cluster already (Deployment {namespace}/{name}); use another cluster");
    }
    Ok(())
}

/// The documents of a YAML stream, without the empty ones.
pub fn documents(yaml: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).context("failed to parse YAML")?;
    Ok(documents.into_iter().filter(|d| !d.is_null()).collect())
}

/// Server-side applies objects of any kind, in their order; what was not there before goes into the footprint.
pub async fn all(client: &Client, objects: impl IntoIterator<Item = Value>, footprint: &mut Footprint) -> Result<()> {
    let kinds = Kinds::of(client).await?;
    for value in objects {
        let object = Object::of(&value)?;
        let api = kinds.api(&object)?;
        let before = api
            .get_opt(&object.name)
            .await
            .with_context(|| format!("failed to look for {object}"))?;
        if before.is_none() {
            // On record before it is there: a record too many does no harm when all is taken away.
            footprint.add(object.clone())?;
        }
        let applied = apply(&api, &object.name, "kerbside-testbed", &value).await;
        applied.with_context(|| format!("failed to apply {object}"))?;
    }
    Ok(())
}

/// Writes a kubeconfig that signs in as a ServiceAccount of Kerbside's namespace; gives its path.
pub async fn account(client: &Client, layout: &Layout, admin: &Path, name: &str) -> Result<std::path::PathBuf> {
    use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
    use k8s_openapi::api::core::v1::ServiceAccount;
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let answer = api
        .create_token_request(name, &PostParams::default(), &request)
        .await
        .with_context(|| format!("failed to get a token for the ServiceAccount {name}"))?;
    let token = answer
        .status
        .and_then(|s| s.token)
        .with_context(|| format!("no token came for {name}"))?;
    let path = layout.dir("kubeconfigs")?.join(format!("{name}.kubeconfig"));
    write_atomically(&path, kubeconfig::with_token(admin, &token)?.as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("v1.37.2", "v1.37.2")]
    #[case("v1.35.4-eks-3abbec1", "v1.35.4")]
    #[case("v1.36.0+k3s1", "v1.36.0")]
    #[case("v1.36.0-rc.1+dirty", "v1.36.0")]
    fn release_is_what_comes_before_suffixes(#[case] git_version: &str, #[case] want: &str) {
        assert_eq!(release(git_version), want);
    }

    #[test]
    fn yaml_stream_gives_its_documents_and_skips_comments() {
        let found = documents("# only a comment\n---\nkind: A\n---\n---\nkind: B\n").unwrap();
        assert_eq!(
            found.iter().map(|d| d["kind"].as_str().unwrap()).collect::<Vec<_>>(),
            ["A", "B"]
        );
    }
}
