//! Every manifest in `examples/` runs, and gives exactly what it says.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Node;
use kerbside_testbed::fleet::car::Plan;
use kerbside_testbed::world::{self, on, phase};
use kerbside_testbed::{digits, tools, wait};
use kube::ResourceExt;
use kube::api::Api;

#[tokio::test]
async fn hello_on_one_car_gives_one_line_and_one_file_per_index() -> Result<()> {
    world::run("hello", async |world| {
        let fresh = Plan {
            fresh: true,
            ..Plan::default()
        };
        let car = world.car(&fresh).await?;
        let seen = world.record();
        world.apply(&world.example("hello/fleetjob.yaml")?).await?;
        let status = world.complete("hello", world::DEADLINE).await?;
        ensure!(
            status.completed_indexes == "0-2",
            "completed: {}",
            status.completed_indexes
        );
        ensure!(
            status.succeeded == 3 && status.failed == 0 && status.refused == 0,
            "{status:?}"
        );
        let attempts = seen.attempts();
        ensure!(
            attempts.len() == 3,
            "three indexes on one car take three attempts, not {}",
            attempts.len()
        );
        ensure!(
            attempts.iter().all(|p| on(p, car.id.as_str())),
            "every attempt ran on the one car"
        );
        let results = world.results("hello").await?;
        for index in 0..3 {
            let file = results.join(index.to_string()).join("hello.txt");
            let text = std::fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
            ensure!(
                text == format!("hello from index {index}\n"),
                "index {index} left '{text}'"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn work_that_prefers_cars_that_stay_goes_to_the_one_that_says_it_does() -> Result<()> {
    world::run("long-stay", async |world| {
        let soon = Plan {
            free_for: [60, 15],
            ..Plan::default()
        };
        let late = Plan {
            free_for: [480, 240],
            ..Plan::default()
        };
        world.car(&soon).await?;
        let stays = world.car(&late).await?;
        // kube-controller-manager takes its own taint off a new Node a moment after that is Ready, and until then nothing may prefer it.
        let nodes: Api<Node> = Api::all(world.client());
        wait::object(
            &nodes,
            stays.id.as_str(),
            "the scheduler to see the car",
            world::DEADLINE,
            |node| {
                let taints = node?.spec.as_ref()?.taints.as_deref().unwrap_or_default();
                taints
                    .iter()
                    .all(|taint| !taint.key.starts_with("node.kubernetes.io/"))
                    .then_some(())
            },
        )
        .await?;
        let seen = world.record();
        world.apply(&world.example("long-stay/fleetjob.yaml")?).await?;
        let status = world.complete("long-stay", world::DEADLINE).await?;
        ensure!(status.succeeded == 3, "{status:?}");
        let attempts = seen.attempts();
        ensure!(
            attempts.len() == 3 && attempts.iter().all(|p| on(p, stays.id.as_str())),
            "every attempt ran on the car that stays"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn digits_on_three_cars_equals_the_independent_result_line_by_line() -> Result<()> {
    world::run("digits", async |world| {
        let cars = world.cars(3).await?;
        let seen = world.record();
        world.apply(&world.example("digits/fleetjob.yaml")?).await?;
        let status = world.complete("digits", Duration::from_mins(10)).await?;
        ensure!(
            status.succeeded == 60 && status.completed_indexes == "0-59",
            "{status:?}"
        );
        let verdict = digits::compare(&tools::checkout()?, &world.results("digits").await?)?;
        ensure!(verdict.exact(), "{:?}", verdict.differences);
        ensure!(verdict.held_back == 599 && verdict.accuracy > 0.95, "{verdict:?}");
        let attempts = seen.attempts();
        let used: BTreeSet<_> = attempts
            .iter()
            .filter_map(|p| p.spec.as_ref()?.node_name.clone())
            .collect();
        ensure!(
            used.len() == cars.len(),
            "all {} cars took part, not {}",
            cars.len(),
            used.len()
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn plain_indexed_job_runs_on_vehicles_by_a_toleration() -> Result<()> {
    world::run("batch", async |world| {
        world.cars(1).await?;
        let manifest = world.example("batch-job/job.yaml")?;
        world.apply(&manifest).await?;
        let api: Api<Job> = Api::namespaced(world.client(), &world.name);
        let name = manifest["metadata"]["name"]
            .as_str()
            .context("the example has a name")?;
        wait::object(&api, name, "the plain Job to be complete", world::DEADLINE, |job| {
            let status = job?.status.as_ref()?;
            (status.succeeded == Some(3) && status.completed_indexes.as_deref() == Some("0-2")).then_some(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn deployment_runs_on_vehicles_and_follows_when_one_leaves() -> Result<()> {
    world::run("deploy", async |world| {
        let cars = world.cars(2).await?;
        let manifest = world.example("deployment/deployment.yaml")?;
        world.apply(&manifest).await?;
        let api: Api<Deployment> = Api::namespaced(world.client(), &world.name);
        let name = manifest["metadata"]["name"]
            .as_str()
            .context("the example has a name")?;
        let ready = |d: Option<&Deployment>| (d?.status.as_ref()?.ready_replicas == Some(2)).then_some(());
        wait::object(&api, name, "both replicas to be ready", world::DEADLINE, ready).await?;
        let pod = world
            .wait_pods("a replica to run", |p| {
                p.iter().find(|p| phase(p) == "Running").cloned()
            })
            .await?;
        let node = pod
            .spec
            .as_ref()
            .and_then(|s| s.node_name.clone())
            .context("a Pod that runs is bound")?;
        let (leaving, staying): (Vec<_>, Vec<_>) = cars.iter().partition(|c| c.id.as_str() == node);
        leaving[0].signals(kerbside_testbed::fleet::car::Signals::DrivesOff)?;
        world
            .wait_pods("both replicas to run on the car that stays", |pods| {
                let here = pods
                    .iter()
                    .filter(|p| on(p, staying[0].id.as_str()) && phase(p) == "Running");
                (here.count() == 2 && pods.iter().all(|p| p.name_any() != pod.name_any())).then_some(())
            })
            .await?;
        wait::object(&api, name, "both replicas to be ready again", world::DEADLINE, ready).await
    })
    .await
}
