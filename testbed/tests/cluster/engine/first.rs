//! The thinnest line: one container, from its image to its last word.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kerbside_testbed::engine::Kind;
use kerbside_testbed::{wait, world};
use kube::ResourceExt;
use kube::api::Api;
use serde_json::json;

use super::{end, kind, log, played, pod, run, run_on, status};

#[tokio::test]
async fn container_runs_from_its_image_prints_leaves_a_message_and_ends() -> Result<()> {
    to_its_end(kind()?).await
}

pub(super) async fn to_its_end(kind: Kind) -> Result<()> {
    run_on(kind, "engine-first", async |world, _| {
        let pod = pod(
            world,
            "one",
            "say hello ; complain trouble ; write /dev/termination-log good bye ; exit 3",
        );
        let ended = played(world, &pod).await?;
        ensure!(world::phase(&ended) == "Failed", "it ended with code 3");
        let how = end(&ended, "main").context("the container has ended")?;
        ensure!((how.exit_code, how.reason.as_deref()) == (3, Some("Error")), "{how:?}");
        ensure!(how.message.as_deref() == Some("good bye"), "{how:?}");
        let id = status(&ended, "main")
            .map(|status| status.image_id.clone())
            .unwrap_or_default();
        ensure!(id.contains("/actor@sha256:"), "the image is known by its digest: {id}");
        let printed = log(world, "one", "main").await?;
        ensure!(
            printed.contains("hello\n") && printed.contains("trouble\n"),
            "{printed}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pod_without_a_runtime_class_is_one_of_containers() -> Result<()> {
    run("engine-default", async |world, _| {
        let mut pod = pod(world, "plain", "say hello");
        let spec = pod["spec"].as_object_mut().context("a Pod has a spec")?;
        spec.remove("runtimeClassName");
        spec.insert(
            "tolerations".to_owned(),
            json!([{"key": "kerbside.dev/vehicle", "operator": "Exists", "effect": "NoSchedule"}]),
        );
        let ended = played(world, &pod).await?;
        ensure!(world::phase(&ended) == "Succeeded", "{:?}", ended.status);
        ensure!(log(world, "plain", "main").await? == "hello\n", "it ran");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn service_of_the_examples_runs_with_its_config_probes_hooks_and_init_container() -> Result<()> {
    run("service", async |world, _| {
        super::config::bind(world).await?;
        for object in world.example_objects("service/deployment.yaml")? {
            world.apply(&object).await?;
        }
        let deployments: Api<Deployment> = Api::namespaced(world.client(), &world.name);
        wait::object(
            &deployments,
            "service",
            "the service to be ready",
            world::DEADLINE,
            |deployment| (deployment?.status.as_ref()?.ready_replicas? == 1).then_some(()),
        )
        .await?;
        let pod = world.wait_pods("its Pod", |pods| pods.first().cloned()).await?;
        let name = pod.name_any();
        let follow = world
            .kubectl()
            .stream(&["logs", "-n", &world.name, "-f", &name, "-c", "server"])?;
        let mut changed = world.example_objects("service/deployment.yaml")?.swap_remove(0);
        changed["data"]["motd"] = "roads are wet".into();
        world.apply(&changed).await?;
        wait::until_ok("the changed file", world::DEADLINE, async || {
            let said = log(world, &name, "server").await?;
            ensure!(said.contains("motd: roads are wet\n"), "{said}");
            Ok(())
        })
        .await?;
        world
            .kubectl()
            .run(&["delete", "deployment", "-n", &world.name, "service"], "")
            .await?;
        let said = follow.wait_with_output().await.context("kubectl ends with the log")?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let first = format!("serves as {name}: hello from a parked car; motd: drive safely\n");
        ensure!(said.starts_with(&first), "{said}");
        ensure!(said.ends_with("takes leave; notes: started ending\n"), "{said}");
        Ok(())
    })
    .await
}
