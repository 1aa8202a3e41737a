//! Publishers whose signatures count: by the real registry, with signatures where cosign puts them.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use kerbside_core::names::reason;
use kerbside_testbed::fleet::car::Car;
use kerbside_testbed::registry::artifact::Artifact;
use kerbside_testbed::registry::push::push;
use kerbside_testbed::registry::sign::{Signer, tag};
use kerbside_testbed::tools;
use kerbside_testbed::world::{self, World};
use rstest::rstest;
use serde_json::{Value, json};

use crate::engine::amend;
use crate::refusals::nobody_accepts;
use crate::support;

/// A program that ends well at once; `what` makes it another one.
fn program(what: &str) -> Result<Artifact> {
    let text =
        format!(r#"(module (memory (export "memory") 1) (data (i32.const 0) "{what}") (func (export "_start")))"#);
    Artifact::wasm(wat::parse_str(text).context("the program is WebAssembly")?)
}

/// A job of one index with this image, and nothing to be kept of it.
fn job(world: &World, image: &str) -> Result<Value> {
    let mut job = world.example("hello/fleetjob.yaml")?;
    job["spec"]["completions"] = 1.into();
    job["spec"]["backoffLimitPerIndex"] = 0.into();
    let spec = job["spec"].as_object_mut().context("a job has a spec")?;
    spec.remove("output");
    let container = &mut job["spec"]["template"]["spec"]["containers"][0];
    container["image"] = image.into();
    container["imagePullPolicy"] = "Always".into();
    container["args"] = json!([]);
    Ok(job)
}

/// Has the owners of cars trust somebody and nobody else.
async fn trust(world: &World, cars: &[Car], signer: &Signer) -> Result<()> {
    for car in cars {
        let publishers = json!([{"name": "our render farm", "publicKey": signer.public_key()}]);
        amend(world, car, |document| document["publishers"] = publishers).await?;
    }
    Ok(())
}

/// Pushes a program under a tag of this test's own; gives that as a reference, and the digest.
async fn pushed(world: &World, what: &str) -> Result<(String, String)> {
    let (host, artifact) = (&world.bed.endpoints.registry, program(what)?);
    push(host, "signed", &world.name, &artifact).await?;
    Ok((format!("{host}/signed:{}", world.name), artifact.digest()))
}

#[tokio::test]
async fn image_that_a_publisher_has_signed_runs_and_one_that_nobody_has_is_refused_and_no_failure() -> Result<()> {
    world::run("signed", async |world| {
        let cars = world.cars(2).await?;
        let render_farm = Signer::new()?;
        trust(world, &cars, &render_farm).await?;
        let (image, digest) = pushed(world, &format!("{} one", world.name)).await?;
        push(
            &world.bed.endpoints.registry,
            "signed",
            &tag(&digest),
            &render_farm.sign(&digest)?,
        )
        .await?;
        let mut signed = job(world, &image)?;
        signed["metadata"]["name"] = "signed".into();
        world.apply(&signed).await?;
        world.complete("signed", world::DEADLINE).await?;
        // The same tag, moved to what nobody has signed; beside it lies the signature of the first.
        let (image, moved) = pushed(world, &format!("{} two", world.name)).await?;
        push(
            &world.bed.endpoints.registry,
            "signed",
            &tag(&moved),
            &render_farm.sign(&digest)?,
        )
        .await?;
        let seen = world.record();
        world.apply(&job(world, &image)?).await?;
        let (message, status) = nobody_accepts(world, "hello").await?;
        ensure!(message.contains(reason::SIGNATURE_VALIDATION_FAILED), "{message}");
        ensure!(status.failed == 0, "a refusal is no failure of the job: {status:?}");
        let waits = seen
            .attempts()
            .iter()
            .find_map(waits_for)
            .context("no Pod says why it waits")?;
        for part in [&image, &moved, &"our render farm".to_owned()] {
            ensure!(waits.contains(part.as_str()), "it does not name {part}: {waits}");
        }
        Ok(())
    })
    .await
}

/// What the container of a Pod says that waits for a signature.
fn waits_for(pod: &k8s_openapi::api::core::v1::Pod) -> Option<String> {
    let states = pod.status.as_ref()?.container_statuses.iter().flatten();
    let mut waiting = states.filter_map(|s| s.state.as_ref()?.waiting.as_ref());
    let found = waiting.find(|w| w.reason.as_deref() == Some(reason::SIGNATURE_VALIDATION_FAILED))?;
    found.message.clone()
}

#[tokio::test]
async fn pod_whose_image_somebody_else_has_signed_says_so_and_is_told_as_an_event() -> Result<()> {
    world::run("othersigned", async |world| {
        let cars = world.cars(1).await?;
        trust(world, &cars, &Signer::new()?).await?;
        let (image, digest) = pushed(world, &world.name).await?;
        let other = Signer::new()?.sign(&digest)?;
        push(&world.bed.endpoints.registry, "signed", &tag(&digest), &other).await?;
        let mut pod = support::plain_pod(world, "deployment/deployment.yaml", "byhand")?;
        pod["spec"]["nodeName"] = cars.first().context("there is a car")?.id.as_str().into();
        pod["spec"]["containers"][0]["image"] = image.into();
        world.apply(&pod).await?;
        let said = world.event("byhand", "Failed", "has no signature that counts").await?;
        ensure!(said.contains(&digest) && said.contains("none of their keys"), "{said}");
        world.event("byhand", "Refused", &digest).await.map(drop)
    })
    .await
}

/// Calls the real program that signs, in a directory with its keys, and without a way to Rekor or Fulcio.
async fn cosign(directory: &Path, args: &[&str]) -> Result<()> {
    let program = tools::pinned("cosign", "cosign").context("`hack/tools/build.sh cosign` builds it")?;
    let mut command = tokio::process::Command::new(program);
    command.current_dir(directory).args(args);
    // Its keys are those of this test, and it must find no others.
    command
        .env("HOME", directory)
        .env("COSIGN_PASSWORD", "")
        .stdin(Stdio::null());
    let output = command.output().await.context("failed to run cosign")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "cosign {} failed: {said}", args.join(" "));
    Ok(())
}

#[rstest]
#[case::payload("cosignold", "--new-bundle-format=false")]
#[case::bundle("cosignnew", "--new-bundle-format=true")]
#[tokio::test]
#[ignore = "needs cosign itself, which `hack/tools/build.sh cosign` builds for the night"]
async fn image_that_the_real_cosign_has_signed_runs(#[case] name: &str, #[case] form: &str) -> Result<()> {
    world::run(name, async |world| {
        let cars = world.cars(1).await?;
        let directory = tempfile::tempdir()?;
        cosign(directory.path(), &["generate-key-pair"]).await?;
        let publishers = std::fs::read_to_string(directory.path().join("cosign.pub"))?;
        let publishers = json!([{"name": "cosign", "publicKey": publishers}]);
        let car = cars.first().context("there is a car")?;
        amend(world, car, |document| document["publishers"] = publishers).await?;
        let (image, digest) = pushed(world, &world.name).await?;
        let by_digest = format!("{}/signed@{digest}", world.bed.endpoints.registry);
        let sign = [
            "sign",
            "--yes",
            "--key=cosign.key",
            "--use-signing-config=false",
            "--tlog-upload=false",
            "--allow-http-registry",
            "--allow-insecure-registry",
            form,
            by_digest.as_str(),
        ];
        cosign(directory.path(), &sign).await?;
        world.apply(&job(world, &image)?).await?;
        world.complete("hello", world::DEADLINE).await.map(drop)
    })
    .await
}
