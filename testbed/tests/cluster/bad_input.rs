//! Every refusal is told where a Kubernetes user looks, in words that say what to do, and harms nothing else.

use anyhow::{Context, Result, ensure};
use kerbside_api::v1alpha1::VehiclePool;
use kerbside_testbed::registry::artifact::Artifact;
use kerbside_testbed::registry::push::push;
use kerbside_testbed::wait;
use kerbside_testbed::world::{self, World};
use kube::api::Api;
use rstest::rstest;
use serde_json::{Value, json};

#[rstest]
#[case::zero_completions("/spec", "completions", json!(0), "completions")]
#[case::unknown_field("/spec", "paralelism", json!(3), "paralelism")]
#[case::no_pool("/spec", "pools", json!([]), "pools")]
#[case::restart_policy("/spec/template/spec", "restartPolicy", json!("Always"), "restartPolicy")]
#[case::no_containers("/spec/template/spec", "containers", json!([]), "containers")]
#[tokio::test]
async fn job_that_is_wrong_in_itself_is_refused_by_the_api_server(
    #[case] place: &str,
    #[case] field: &str,
    #[case] value: Value,
    #[case] says: &str,
) -> Result<()> {
    world::run("badjob", async |world| {
        let mut job = world.example("hello/fleetjob.yaml")?;
        job.pointer_mut(place).context("the example has this place")?[field] = value;
        let words = world.refused(&job).await?;
        ensure!(words.contains(says), "the refusal does not name '{says}': {words}");
        Ok(())
    })
    .await
}

/// Waits for a condition of the job and gives reason and message.
async fn condition(world: &World, job: &str, type_: &str) -> Result<(String, String)> {
    world
        .job(job, &format!("condition {type_} on {job}"), |_, s| {
            let found = s.conditions.iter().find(|c| c.type_ == type_ && c.status == "True")?;
            Some((found.reason.clone(), found.message.clone()))
        })
        .await
}

#[tokio::test]
async fn job_that_names_no_such_pool_says_so() -> Result<()> {
    world::run("nopool", async |world| {
        let mut job = world.example("hello/fleetjob.yaml")?;
        job["spec"]["pools"] = json!(["no-such-pool"]);
        world.apply(&job).await?;
        let (_, message) = condition(world, "hello", "PoolNotFound").await?;
        ensure!(message.contains("no-such-pool"), "{message}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn job_in_a_namespace_that_the_pool_does_not_allow_says_so() -> Result<()> {
    world::run("nsdenied", async |world| {
        world
            .pool(|p| {
                p["spec"]["allowedNamespaces"] =
                    json!({"from": "Selector", "selector": {"matchLabels": {"team": "other"}}});
            })
            .await?;
        world.apply(&world.example("hello/fleetjob.yaml")?).await?;
        let (_, message) = condition(world, "hello", "NamespaceNotAllowed").await?;
        ensure!(message.contains(&world.name), "{message}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn job_whose_template_is_impossible_says_what_the_api_server_said() -> Result<()> {
    world::run("template", async |world| {
        let mut job = world.example("hello/fleetjob.yaml")?;
        job["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "nothing", "mountPath": "/x"}]);
        world.apply(&job).await?;
        let (_, message) = condition(world, "hello", "TemplateInvalid").await?;
        ensure!(message.contains("nothing"), "{message}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pool_with_a_broken_expression_says_which() -> Result<()> {
    world::run("badcel", async |world| {
        world
            .pool(|p| {
                p["spec"]["eligibility"] = json!([{"name": "broken", "expression": "offer.freeFor.", "message": "m"}]);
            })
            .await?;
        let api: Api<VehiclePool> = Api::all(world.client());
        let message = wait::object(
            &api,
            &world.name,
            "the pool to say that it is broken",
            world::DEADLINE,
            |p| {
                let conditions = &p?.status.as_ref()?.conditions;
                conditions
                    .iter()
                    .find(|c| c.type_ == "ExpressionsValid" && c.status == "False")
                    .map(|c| c.message.clone())
            },
        );
        let message = message.await?;
        ensure!(
            message.contains("broken"),
            "the message does not name the rule: {message}"
        );
        Ok(())
    })
    .await
}

/// Runs the hello job with another image and gives how its container waits or ended: reason and message.
async fn container_reason(world: &mut World, image: &str, wanted: &str) -> Result<String> {
    world.cars(1).await?;
    let mut job = world.example("hello/fleetjob.yaml")?;
    job["spec"]["completions"] = 1.into();
    job["spec"]["backoffLimitPerIndex"] = 0.into();
    job["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
    world.apply(&job).await?;
    world
        .wait_pods(&format!("a container with reason {wanted}"), |pods| {
            let states = pods
                .iter()
                .filter_map(|p| p.status.as_ref()?.container_statuses.as_ref())
                .flatten();
            states.filter_map(|s| s.state.as_ref()).find_map(|s| {
                let waiting = s.waiting.as_ref().map(|w| (w.reason.clone(), w.message.clone()));
                let ended = s.terminated.as_ref().map(|t| (t.reason.clone(), t.message.clone()));
                let (reason, message) = waiting.or(ended)?;
                (reason.as_deref() == Some(wanted)).then(|| message.unwrap_or_default())
            })
        })
        .await
}

#[tokio::test]
async fn image_that_does_not_exist_is_an_image_pull_back_off() -> Result<()> {
    world::run("noimage", async |world| {
        let image = format!("{}/no-such-program:1", world.bed.endpoints.registry);
        let message = container_reason(world, &image, "ImagePullBackOff").await?;
        ensure!(message.contains("no-such-program"), "{message}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn digest_that_the_registry_does_not_have_is_an_image_pull_back_off() -> Result<()> {
    world::run("nodigest", async |world| {
        let image = format!("{}/hello@sha256:{}", world.bed.endpoints.registry, "0".repeat(64));
        container_reason(world, &image, "ImagePullBackOff").await.map(drop)
    })
    .await
}

#[tokio::test]
async fn artefact_whose_bytes_changed_in_the_registry_is_an_image_pull_back_off() -> Result<()> {
    world::run("baddigest", async |world| {
        // Nobody else's bytes, so that nobody else's image is spoilt.
        let module = [b"\0asm\x01\0\0\0".as_slice(), world.name.as_bytes()].concat();
        let artifact = Artifact::wasm(module)?;
        let image = push(&world.bed.endpoints.registry, "spoilt", "1", &artifact).await?;
        let layer = artifact.blobs.last().context("an artefact has a layer")?;
        let digest = kerbside_testbed::registry::artifact::digest(&layer.bytes);
        let hex = digest.trim_start_matches("sha256:");
        let place = hex.get(..2).context("a digest has more than two digits")?;
        let file = world
            .bed
            .layout
            .path("registry/data/docker/registry/v2/blobs/sha256")
            .join(place)
            .join(hex)
            .join("data");
        let mut bytes = std::fs::read(&file).with_context(|| format!("no blob in {}", file.display()))?;
        bytes.reverse();
        std::fs::write(&file, bytes).with_context(|| format!("failed to write {}", file.display()))?;
        let message = container_reason(world, &image, "ImagePullBackOff").await?;
        ensure!(
            message.contains(hex),
            "the message names the digest {digest}: {message}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn registry_that_is_down_is_an_image_pull_back_off() -> Result<()> {
    world::run("noregistry", async |world| {
        // A port that nobody listens on. The car may use plain HTTP only for the testbed's own registry.
        let image = format!("127.0.0.1:{}/hello:1", kerbside_testbed::ports::free()?);
        let message = container_reason(world, &image, "ImagePullBackOff").await?;
        ensure!(!message.is_empty(), "the message says what went wrong");
        Ok(())
    })
    .await
}
