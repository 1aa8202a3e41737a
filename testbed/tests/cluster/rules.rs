//! The cases of `api/testdata` put to the real API server: what the unit tests' imitation of one answers, it answers too.

use anyhow::{Context, Result, bail, ensure};
use kerbside_core::ids::VehicleId;
use kerbside_testbed::tools;
use kerbside_testbed::world::{self, World};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    kind: String,
    before: Option<Value>,
    change: Value,
    says: Option<String>,
}

fn read<T: serde::de::DeserializeOwned>(file: &str) -> Result<T> {
    let path = tools::checkout()?.join("api/testdata").join(format!("{file}.yaml"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("failed to parse {}", path.display()))
}

/// JSON merge patch, RFC 7386.
fn patched(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut fields = match target {
        Value::Object(fields) => fields,
        _ => serde_json::Map::new(),
    };
    for (name, change) in patch {
        let old = fields.remove(name).unwrap_or_default();
        if !change.is_null() {
            fields.insert(name.clone(), patched(old, change));
        }
    }
    Value::Object(fields)
}

/// One request; the words of a refusal are the inner error.
async fn ask(
    world: &World,
    method: &str,
    path: &str,
    type_: &str,
    body: &Value,
) -> Result<std::result::Result<(), String>> {
    let body = serde_json::to_vec(body).context("failed to render JSON")?;
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, type_)
        .body(body)
        .context("failed to build a request")?;
    match world.client().request::<Value>(request).await {
        Ok(_) => Ok(Ok(())),
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => Ok(Err(status.message.clone())),
        Err(e) => Err(e).with_context(|| format!("{method} {path} failed, but not by a refusal")),
    }
}

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const DRY: &str = "dryRun=All&fieldValidation=Strict";

/// Where objects of a kind are.
fn collection(world: &World, kind: &str) -> Result<String> {
    let base = "/apis/kerbside.dev/v1alpha1";
    Ok(match kind {
        "FleetJob" => format!("{base}/namespaces/{}/fleetjobs", world.name),
        "VehiclePool" => format!("{base}/vehiclepools"),
        "Vehicle" => format!("{base}/vehicles"),
        other => bail!("no case can be of kind {other}"),
    })
}

/// What the API server says to a case.
async fn answer(world: &World, case: &Case) -> Result<std::result::Result<(), String>> {
    let all = collection(world, &case.kind)?;
    let mut example: Value = read(&case.kind.to_lowercase())?;
    if case.kind == "FleetJob" {
        example["metadata"]["namespace"] = world.name.as_str().into();
    }
    let Some(before) = &case.before else {
        let new = patched(example, &case.change);
        return ask(world, "POST", &format!("{all}?{DRY}"), JSON, &new).await;
    };
    let name = match case.kind.as_str() {
        "Vehicle" => VehicleId::from_random(rand::random()).to_string(),
        "FleetJob" => {
            // Nobody's: the operator must not write to what is being looked at.
            example["spec"]["managedBy"] = "example.com/nobody".into();
            "stored".to_owned()
        }
        _ => format!("{}-stored", world.name),
    };
    example["metadata"]["name"] = name.as_str().into();
    let old = patched(example, before);
    let made = ask(world, "POST", &format!("{all}?fieldValidation=Strict"), JSON, &old).await?;
    made.map_err(|e| anyhow::anyhow!("the object before the change was refused: {e}"))?;
    let one = format!("{all}/{name}");
    let answered = change(world, &one, &old, &case.change).await;
    ask(world, "DELETE", &one, JSON, &json!({}))
        .await?
        .map_err(anyhow::Error::msg)?;
    answered
}

/// What it says to the change of a stored object, whose status is still to be written.
async fn change(world: &World, one: &str, old: &Value, change: &Value) -> Result<std::result::Result<(), String>> {
    let status = format!("{one}/status");
    if let Some(stored) = old.get("status") {
        let written = ask(world, "PATCH", &status, MERGE, &json!({ "status": stored })).await?;
        written.map_err(|e| anyhow::anyhow!("the status before the change was refused: {e}"))?;
    }
    let place = if change.get("status").is_some() { &status } else { one };
    ask(world, "PATCH", &format!("{place}?{DRY}"), MERGE, change).await
}

/// All cases of a file, and all that were answered otherwise than it says.
async fn check(world: &World, file: &str) -> Result<()> {
    let cases: Vec<Case> = read(file)?;
    ensure!(!cases.is_empty(), "{file}.yaml has no cases");
    let mut wrong = Vec::new();
    for case in &cases {
        let answered = answer(world, case).await.with_context(|| format!("{case:?}"))?;
        match (&case.says, answered) {
            (None, Ok(())) => {}
            (Some(says), Err(said)) if said.contains(says.as_str()) => {}
            (_, answered) => wrong.push(format!("{case:?}: {answered:?}")),
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    Ok(())
}

#[tokio::test]
async fn cases_to_be_refused_are_refused_in_these_words() -> Result<()> {
    world::run("rulesno", async |world| check(world, "refused").await).await
}

#[tokio::test]
async fn cases_to_be_accepted_are_accepted() -> Result<()> {
    world::run("rulesyes", async |world| check(world, "accepted").await).await
}
