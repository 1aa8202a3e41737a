//! Images that only those may have who show who they are: the pull secret stays in the cluster, a token for one repository goes to the car.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use data_encoding::BASE64;
use kerbside_testbed::audit::Audit;
use kerbside_testbed::programs;
use kerbside_testbed::registry::guarded::{Giver, Guarded};
use kerbside_testbed::world::{World, phase};
use serde_json::{Value, json};

use super::{config, log, pod, run, status, until};

fn guarded(world: &World) -> Result<Guarded> {
    world
        .bed
        .endpoints
        .guarded
        .clone()
        .context("the guarded registry is up where containers run")
}

fn private(world: &World, name: &str, secret: &str) -> Result<Value> {
    let mut pod = pod(world, name, "say hello");
    let registry = guarded(world)?.registry;
    let container = &mut pod["spec"]["containers"][0];
    container["image"] = format!("{registry}/{}:{}", programs::ACTOR, programs::TAG).into();
    container["imagePullPolicy"] = "Always".into();
    pod["spec"]["imagePullSecrets"] = json!([{"name": secret}]);
    Ok(pod)
}

fn secret(world: &World, name: &str, password: &str) -> Result<Value> {
    let auth = BASE64.encode(format!("ann:{password}").as_bytes());
    let text = json!({"auths": {(guarded(world)?.registry): {"auth": auth}}}).to_string();
    Ok(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": name, "namespace": world.name},
        "stringData": {".dockerconfigjson": text},
    }))
}

/// What a Pod waits for, once it says something of this.
async fn told(world: &World, name: &str, says: &str) -> Result<()> {
    until(world, name, &format!("to say that {says}"), |pod| {
        let waiting = status(pod, "main")?.state.as_ref()?.waiting.as_ref()?;
        let pulls = matches!(waiting.reason.as_deref()?, "ErrImagePull" | "ImagePullBackOff");
        (pulls && waiting.message.as_deref()?.contains(says)).then_some(())
    })
    .await
}

/// Whether a file below a directory has this in it.
fn holds(directory: &Path, what: &str) -> Result<bool> {
    for entry in std::fs::read_dir(directory).with_context(|| format!("failed to read {}", directory.display()))? {
        let path = entry?.path();
        let kind = std::fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() && holds(&path, what)? {
            return Ok(true);
        }
        // What has gone meanwhile holds nothing.
        if kind.is_file() && std::fs::read(&path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(what)) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[tokio::test]
async fn pull_secret_stays_in_the_cluster_and_a_token_for_one_repository_goes_to_the_car() -> Result<()> {
    run("engine-pull", async |world, car| {
        config::bind(world).await?;
        let password = format!("password-of-{}", world.name);
        // Before there is a secret, and with one that is wrong.
        world.apply(&private(world, "early", "pull")?).await?;
        told(world, "early", "secret \"pull\" not found").await?;
        let giver = Giver::start(&world.bed.layout, &guarded(world)?, "ann", &password).await?;
        world.apply(&secret(world, "wrong", "another-password")?).await?;
        world.apply(&private(world, "refused", "wrong")?).await?;
        told(world, "refused", "does not accept the pull secret").await?;
        ensure!(
            giver.asked().iter().all(|asked| asked.token.is_empty()),
            "{:?}",
            giver.asked()
        );
        // Now it is there: for the next Pod at once, and for the first one when it is looked for again.
        world.apply(&secret(world, "pull", &password)?).await?;
        let late = private(world, "late", "pull")?;
        world.apply(&late).await?;
        // It waits for its token instead of failing first.
        until(world, "late", "to run without a failed pull", |pod| {
            let state = status(pod, "main")?.state.as_ref()?;
            let failed = state
                .waiting
                .as_ref()
                .is_some_and(|waiting| waiting.reason.as_deref() == Some("ErrImagePull"));
            (failed || state.terminated.is_some()).then_some(!failed)
        })
        .await?
        .then_some(())
        .context("its image was asked for before its token was there")?;
        for name in ["late", "early"] {
            until(world, name, "to run to its end", |pod| {
                (phase(pod) == "Succeeded").then_some(())
            })
            .await?;
            ensure!(log(world, name, "main").await? == "hello\n");
        }
        let granted: Vec<_> = giver
            .asked()
            .into_iter()
            .filter(|asked| !asked.token.is_empty())
            .collect();
        let scope = format!("repository:{}:pull", programs::ACTOR);
        ensure!(
            !granted.is_empty() && granted.iter().all(|asked| asked.scope == scope),
            "{granted:?}"
        );
        // Neither is on the car's disk, nor in what car and adapter say of themselves. A token is in the car's memory, and is good for no
        // other repository.
        let mut hidden = vec![password.clone(), BASE64.encode(format!("ann:{password}").as_bytes())];
        hidden.extend(granted.into_iter().map(|asked| asked.token));
        let logs = ["adapter".to_owned(), format!("car-{}", car.name)];
        for (number, what) in hidden.iter().enumerate() {
            ensure!(
                !holds(&car.dir(), what)?,
                "number {number} of what is hidden is in the car"
            );
            for log in &logs {
                let path = world.bed.layout.path(&format!("logs/{log}.log"));
                let text =
                    std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
                ensure!(
                    !text.contains(what),
                    "number {number} of what is hidden is in the log of {log}"
                );
            }
        }
        let seen = Audit::whole(&world.bed.layout).requests()?;
        let reads = seen
            .iter()
            .filter(|r| r.agent.starts_with("kerbside-kubelet/") && r.resource == "secrets");
        let reads: Vec<_> = reads
            .filter(|r| r.namespace == world.name || r.namespace.is_empty())
            .collect();
        ensure!(
            !reads.is_empty()
                && reads
                    .iter()
                    .all(|r| r.verb == "get" && ["pull", "wrong"].contains(&r.name.as_str())),
            "{reads:?}"
        );
        Ok(())
    })
    .await
}
