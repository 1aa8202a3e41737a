//! Pods that people delete: stopped for certain before they are gone, whatever comes next under their name.

use anyhow::{Context, Result, ensure};
use kerbside_core::names::condition;
use kerbside_testbed::{wait, world};
use kube::ResourceExt;

use crate::support;

#[tokio::test]
async fn pod_deleted_and_made_again_under_its_name_is_stopped_before_the_new_one_runs() -> Result<()> {
    world::run("again", async |world| {
        let car = world.cars(1).await?.remove(0);
        let seen = world.record();
        let pod = support::plain_pod(world, "deployment/deployment.yaml", "ticker")?;
        world.apply(&pod).await?;
        let old = world.running_on(&car).await?;
        let args = [
            "delete",
            "pod",
            "-n",
            &world.name,
            "ticker",
            "--cascade=foreground",
            "--wait=true",
        ];
        world.kubectl().run(&args, "").await?;
        world.apply(&pod).await?;
        let new = world.running_on(&car).await?;
        ensure!(new.uid() != old.uid(), "another Pod of the same name");
        let last = wait::until("the old Pod's end to be on record", world::DEADLINE, async || {
            let attempts = seen.attempts();
            let ended = |p: &k8s_openapi::api::core::v1::Pod| {
                p.uid() == old.uid() && world::condition(p, condition::STOPPED).is_some_and(|c| c.0 == "True")
            };
            Ok(attempts.into_iter().find(ended))
        })
        .await?;
        let ended_at = last
            .status
            .as_ref()
            .and_then(|s| {
                s.container_statuses
                    .as_ref()?
                    .first()?
                    .state
                    .as_ref()?
                    .terminated
                    .as_ref()
            })
            .and_then(|t| t.finished_at.as_ref())
            .with_context(|| format!("the old Pod's container ended: {last:?}"))?;
        let made_at = new.creation_timestamp().context("a Pod has a time of creation")?;
        ensure!(
            ended_at.0 <= made_at.0,
            "the old one ended at {ended_at:?}, the new one came at {made_at:?}"
        );
        ensure!(support::at_work(&car).await? == 1, "one of them runs");
        Ok(())
    })
    .await
}
