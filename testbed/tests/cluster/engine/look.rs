//! Containers that are added to a Pod in a car, to look at it: `kubectl debug`.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kerbside_testbed::programs;
use kerbside_testbed::world::World;

use super::{log, pod, run, running, status, until};

/// The status of a container that was added.
fn added<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let all = pod.status.as_ref()?.ephemeral_container_statuses.as_ref()?;
    all.iter().find(|status| status.name == name)
}

async fn debug(world: &World, name: &str, options: &[&str], acts: &str) -> Result<String> {
    let image = format!(
        "--image={}/{}:{}",
        world.bed.endpoints.registry,
        programs::ACTOR,
        programs::TAG
    );
    let container = format!("--container={name}");
    let mut words = vec!["debug", "-n", &world.name, "watched", &image, &container];
    words.extend(options);
    words.extend(["--", "/actor"]);
    words.extend(acts.split_whitespace());
    world.kubectl().run(&words, "").await
}

#[tokio::test]
async fn container_that_is_added_looks_at_its_target_and_the_pod_goes_on() -> Result<()> {
    run("engine-look", async |world, _| {
        let mut watched = pod(world, "watched", "say work ; wait");
        watched["spec"]["restartPolicy"] = "Always".into();
        world.apply(&watched).await?;
        let first = running(world, "watched").await?;
        debug(
            world,
            "look",
            &["--profile=baseline", "--target=main"],
            "ps ; say looked ; exit 4",
        )
        .await?;
        let how = until(world, "watched", "the look to end", |pod| {
            added(pod, "look")?.state.as_ref()?.terminated.clone()
        })
        .await?;
        ensure!(how.exit_code == 4, "{how:?}");
        let said = log(world, "watched", "look").await?;
        ensure!(
            said.contains("/actor say work ; wait"),
            "it sees the program of its target: {said}"
        );
        ensure!(said.ends_with("looked\n"), "{said}");
        // It is not started again, and the Pod did not notice.
        let now = until(world, "watched", "to go on", |pod| {
            let main = status(pod, "main")?;
            (main.ready && main.restart_count == 0).then(|| pod.clone())
        })
        .await?;
        ensure!(now.metadata.uid == first.metadata.uid, "the same attempt");
        let look = added(&now, "look").context("its status stays")?;
        ensure!(look.restart_count == 0 && !look.ready, "{look:?}");
        // Without a target it has its processes for itself.
        debug(world, "alone", &["--profile=baseline"], "ps").await?;
        until(world, "watched", "the second to end", |pod| {
            added(pod, "alone")?.state.as_ref()?.terminated.clone()
        })
        .await?;
        let said = log(world, "watched", "alone").await?;
        ensure!(!said.contains("say work"), "{said}");
        // What a vehicle does not give is told of this container alone.
        debug(world, "strong", &["--profile=sysadmin"], "ps").await?;
        let why = until(world, "watched", "the third to be refused", |pod| {
            added(pod, "strong")?
                .state
                .as_ref()?
                .waiting
                .clone()
                .filter(|w| w.message.is_some())
        })
        .await?;
        ensure!(why.reason.as_deref() == Some("CreateContainerConfigError"), "{why:?}");
        ensure!(
            why.message.as_deref().is_some_and(|m| m.contains("privileged")),
            "{why:?}"
        );
        until(world, "watched", "to go on still", |pod| {
            status(pod, "main")?.ready.then_some(())
        })
        .await
    })
    .await
}
