//! A model is an artefact of its own: another one is another reference in the job, and the program stays as it is.

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::api::core::v1::Pod;
use kerbside_core::names::label;
use kerbside_testbed::layout::read_json;
use kerbside_testbed::registry::artifact::Artifact;
use kerbside_testbed::registry::push::push;
use kerbside_testbed::world::{self, World, jobs};
use kerbside_testbed::{digits, tools, wait};
use kube::ResourceExt;
use serde_json::Value;

use crate::support;

/// Into how many shares the example cuts the images.
const SHARES: usize = 60;
/// The job with the other model.
const OTHER: &str = "other";

/// The example's model, but with the outputs moved on by one: what it took for a 0 it takes for a 1, and so on round to 0.
fn other_model() -> Result<Vec<u8>> {
    let mut model: Value = read_json(&tools::checkout()?.join("examples/digits/model/model.json"))?;
    let layers = model["layers"].as_array_mut().context("the model has layers")?;
    let last = layers.last_mut().context("the model has a last layer")?;
    for part in ["weights", "bias"] {
        let outputs = last[part].as_array_mut();
        outputs
            .with_context(|| format!("the last layer has no {part}"))?
            .rotate_right(1);
    }
    serde_json::to_vec(&model).context("failed to render JSON")
}

/// Pushes the other model under a tag of the test's own; gives the job with it in place of the example's.
async fn with_other_model(world: &World, job: &Value) -> Result<Value> {
    let registry = &world.bed.endpoints.registry;
    let model = other_model()?;
    let artifact = Artifact::files(&[("model.json", model.as_slice())])?;
    push(registry, "digits-model", &world.name, &artifact).await?;
    let mut job = job.clone();
    job["metadata"]["name"] = OTHER.into();
    let volumes = job["spec"]["template"]["spec"]["volumes"].as_array_mut();
    let volume = volumes.and_then(|all| all.iter_mut().find(|v| v["name"] == "model"));
    let volume = volume.context("the example has a volume for the model")?;
    volume["image"]["reference"] = format!("{registry}/digits-model:{}", world.name).into();
    Ok(job)
}

/// The program that an attempt of `job` ran, by digest.
async fn program(seen: &jobs::Record, job: &str) -> Result<String> {
    let of_job = |p: &Pod| p.labels().get(label::JOB_NAME).is_some_and(|name| name == job);
    let image = |p: Pod| {
        let statuses = p.status?.container_statuses?;
        let id = statuses.into_iter().next()?.image_id;
        (!id.is_empty()).then_some(id)
    };
    let what = format!("the program of {job} to be on record");
    wait::until(&what, world::DEADLINE, async || {
        Ok(seen.attempts().into_iter().filter(of_job).find_map(image))
    })
    .await
}

/// The lines that the job's one index left: image, prediction, margin, truth.
async fn predictions(world: &World, job: &str) -> Result<Vec<[u64; 4]>> {
    let file = world.results(job).await?.join("0/predictions.csv");
    let text = std::fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
    text.lines().map(prediction).collect()
}

fn prediction(line: &str) -> Result<[u64; 4]> {
    let fields: Vec<u64> = line
        .split(',')
        .map(str::parse::<u64>)
        .collect::<Result<_, _>>()
        .with_context(|| format!("'{line}' is not all numbers"))?;
    fields
        .try_into()
        .map_err(|_| anyhow!("'{line}' does not have four fields"))
}

fn right(all: &[[u64; 4]]) -> usize {
    all.iter().filter(|[_, digit, _, truth]| digit == truth).count()
}

#[tokio::test]
async fn other_model_gives_other_results_with_the_same_program() -> Result<()> {
    world::run("model", async |world| {
        world.cars(1).await?;
        let seen = world.record();
        let job = support::first_share(world, SHARES)?;
        world.apply(&job).await?;
        world.apply(&with_other_model(world, &job).await?).await?;
        world.complete("digits", world::DEADLINE).await?;
        world.complete(OTHER, world::DEADLINE).await?;
        let verdict = digits::compare_first(&tools::checkout()?, &world.results("digits").await?, 1)?;
        ensure!(verdict.exact(), "{:?}", verdict.differences);
        let (real, other) = (predictions(world, "digits").await?, predictions(world, OTHER).await?);
        let moved_on: Vec<_> = real
            .iter()
            .map(|&[image, digit, margin, truth]| [image, (digit + 1) % 10, margin, truth])
            .collect();
        ensure!(other == moved_on, "expected {moved_on:?}, got {other:?}");
        ensure!(
            right(&other) < right(&real),
            "{} are right with the other model, {} with the real one",
            right(&other),
            right(&real)
        );
        let (first, second) = (program(&seen, "digits").await?, program(&seen, OTHER).await?);
        ensure!(
            first == second && first.contains("@sha256:"),
            "one program for both models: {first} and {second}"
        );
        Ok(())
    })
    .await
}
