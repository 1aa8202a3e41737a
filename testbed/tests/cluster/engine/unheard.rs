//! A Pod whose car is not heard lives on in it by the Pod's own rules: nobody outside is asked.

use anyhow::{Context, Result, ensure};
use kerbside_testbed::wait;
use kerbside_testbed::world::DEADLINE;
use kube::ResourceExt;
use serde_json::json;

use super::life::shared;
use super::{is_there, kind, offers, plan, restarts, running, until};
use crate::others::way;

#[tokio::test]
async fn container_is_probed_ended_and_started_again_while_its_car_is_not_heard() -> Result<()> {
    way::run("engine-unheard", async |world, way| {
        let kind = kind()?;
        if !is_there(world, kind)? {
            return Ok(());
        }
        let car = way.car_as(world, &plan(kind)).await?;
        world.node(&car, "a Node that offers containers", offers).await?;
        let mut pod = shared(world, "alone", &[("main", "append /work/runs x ; serve 8080")]);
        pod["spec"]["restartPolicy"] = "Always".into();
        pod["spec"]["terminationGracePeriodSeconds"] = 1.into();
        // Well until the test says otherwise, in the car.
        pod["spec"]["containers"][0]["livenessProbe"] =
            json!({"httpGet": {"port": 8080, "path": "/file/work/runs"}, "periodSeconds": 1, "failureThreshold": 1});
        // A program that runs need not listen yet, and on a busy machine it takes a while.
        pod["spec"]["containers"][0]["startupProbe"] =
            json!({"httpGet": {"port": 8080, "path": "/file/work/runs"}, "periodSeconds": 1, "failureThreshold": 60});
        world.apply(&pod).await?;
        let uid = running(world, "alone").await?.uid().context("a Pod has a UID")?;
        let runs = car.dir().join("attempts").join(uid).join("volumes/work/runs");
        until(world, "alone", "the program to have begun in earnest", |pod| {
            let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
            (status.started == Some(true)).then_some(())
        })
        .await?;
        way.hold();
        for _ in 0..2 {
            wait::until("the program to have begun", DEADLINE, async || {
                Ok(runs.exists().then_some(()))
            })
            .await?;
            // A program that is asked ends well, and finds no file when it begins again.
            std::fs::remove_file(&runs).context("it has begun")?;
            wait::until("the program to have begun again", DEADLINE, async || {
                Ok(runs.exists().then_some(()))
            })
            .await?;
        }
        let known = world.pods().get("alone").await?;
        ensure!(
            restarts(&known, "main") == 0,
            "nobody was told meanwhile: {:?}",
            known.status
        );
        way.free();
        until(world, "alone", "what has happened to be told", |pod| {
            (restarts(pod, "main") >= 2).then_some(())
        })
        .await
    })
    .await
}
