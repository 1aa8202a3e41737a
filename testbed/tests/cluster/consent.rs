//! No is the default: without the owner's consent nothing runs, whoever asks.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kerbside_api::v1alpha1::{Vehicle, VehiclePhase};
use kerbside_core::names::{condition, reason, taint};
use kerbside_testbed::fleet::car::{Car, Plan, Signals};
use kerbside_testbed::wait;
use kerbside_testbed::world::{self, World, phase};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::support;

/// Status and reason of the condition by which the Pod `byhand` is refused.
async fn refused(world: &World) -> Result<(String, String)> {
    world
        .wait_pods("the Pod to be refused", |pods| {
            let pod = pods.iter().find(|p| p.name_any() == "byhand")?;
            world::condition(pod, condition::REFUSED).map(|c| (c.0.to_owned(), c.1.to_owned()))
        })
        .await
}

#[tokio::test]
async fn car_without_an_owners_document_runs_nothing() -> Result<()> {
    world::run("noconsent", async |world| {
        let car = world
            .car(&Plan {
                consent: None,
                ..Plan::default()
            })
            .await?;
        let seen = world.record();
        world.apply(&world.example("hello/fleetjob.yaml")?).await?;
        world.pods_unplaced(3).await?;
        let status = car.owner("status").await?;
        ensure!(
            status.stdout.contains(reason::OWNER_CONSENT_MISSING),
            "the owner is told why: {}",
            status.stdout
        );
        let started = seen.attempts().iter().filter(|p| phase(p) != "Pending").count();
        ensure!(started == 0, "{started} attempts left Pending");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn consent_that_is_taken_back_on_record_ends_its_work_and_the_document_alone_allows_none() -> Result<()> {
    world::run("offrecord", async |world| {
        let car = world
            .car(&Plan {
                consent: Some(vec!["inference".into(), "video".into()]),
                ..Plan::default()
            })
            .await?;
        world.apply(&world.example("digits/fleetjob.yaml")?).await?;
        world.running_on(&car).await?;
        car.agent(&["consent", "withdraw", "--purpose", "inference"]).await?;
        world
            .wait_pods("nothing to run on the car", |pods| {
                let busy = pods
                    .iter()
                    .any(|p| world::on(p, car.id.as_str()) && phase(p) == "Running");
                (!busy).then_some(())
            })
            .await?;
        // It stays, for work of the other class.
        world.phase(&car, VehiclePhase::Available).await?;
        let status = car.owner("status").await?.stdout;
        ensure!(status.contains("NOT inference: it was withdrawn"), "{status}");
        let mut pod = support::plain_pod(world, "deployment/deployment.yaml", "byhand")?;
        pod["metadata"]["labels"] = json!({"kerbside.dev/class": "inference"});
        pod["spec"]["nodeName"] = car.id.as_str().into();
        world.apply(&pod).await?;
        let refused = refused(world).await?;
        // The car does not offer the class any more, so the Pod does not get as far as the car.
        ensure!(
            refused == ("True".into(), reason::CLASS_NOT_ACCEPTED.into()),
            "{refused:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn consents_that_are_cut_off_stop_the_car_and_its_vehicle_says_so_until_they_are_given_anew() -> Result<()> {
    world::run("cutoff", async |world| {
        let car = world.cars(1).await?.remove(0);
        let chain = car.dir().join("consents/consents.jsonl");
        let mut text = std::fs::read(&chain)?;
        text.pop();
        std::fs::write(&chain, text)?;
        world.phase(&car, VehiclePhase::Away).await?;
        let says = |status: &'static str, reason: &'static str| {
            move |vehicle: Option<&Vehicle>| {
                let mut told = vehicle?.status.iter().flat_map(|status| &status.conditions);
                told.find(|c| c.type_ == condition::SOUND && c.status == status && c.reason == reason)
                    .map(|_| ())
            }
        };
        let vehicles: Api<Vehicle> = Api::all(world.client());
        let name = car.id.as_str();
        let broken = says("False", reason::STATE_NOT_TRUSTED);
        wait::object(&vehicles, name, "the Vehicle to say so", world::DEADLINE, broken).await?;
        let status = car.owner("status").await?.stdout;
        ensure!(status.contains("NONE COUNTS") && status.contains("cut off"), "{status}");
        car.agent(&["consent", "give", "--agree", "--purpose", "inference"])
            .await?;
        world.phase(&car, VehiclePhase::Available).await?;
        let sound = says("True", "Sound");
        wait::object(&vehicles, name, "the Vehicle to be sound", world::DEADLINE, sound).await
    })
    .await
}

/// Changes the owner's document as an editor does.
fn write(car: &Car, field: &str, says: serde_json::Value) -> Result<()> {
    let path = car.dir().join("owner.yaml");
    let mut owner: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    owner[field] = says;
    std::fs::write(path, owner.to_string())?;
    Ok(())
}

#[tokio::test]
async fn month_whose_data_are_used_up_ends_the_work_and_brings_no_more() -> Result<()> {
    world::run("nodata", async |world| {
        let car = world.cars(1).await?.remove(0);
        world.apply(&world.example("digits/fleetjob.yaml")?).await?;
        world.running_on(&car).await?;
        // The link alone has moved more than that.
        write(&car, "data", json!({"perMonth": 1}))?;
        world.phase(&car, VehiclePhase::Away).await?;
        world
            .wait_pods("nothing to run on the car", |pods| {
                let busy = pods
                    .iter()
                    .any(|p| world::on(p, car.id.as_str()) && phase(p) == "Running");
                (!busy).then_some(())
            })
            .await?;
        let status = car.owner("status").await?.stdout;
        ensure!(
            status.contains(reason::NETWORK_TERMS) && status.contains("at most 1 B"),
            "the owner is told why: {status}"
        );
        write(&car, "data", json!({"perMonth": "1Ti"}))?;
        world.phase(&car, VehiclePhase::Available).await
    })
    .await
}

#[tokio::test]
async fn car_whose_network_costs_by_the_byte_gets_no_work_unless_its_owner_allows_it() -> Result<()> {
    world::run("metered", async |world| {
        let plan = Plan {
            metered: true,
            ..Plan::default()
        };
        let car = world.car(&plan).await?;
        // Before it has reached the cluster it does not know by what.
        wait::until("the car to know its network", world::DEADLINE, async || {
            let told = car.owner("status").await.ok();
            Ok(told.filter(|told| told.stdout.contains("by lo, which costs by the byte")))
        })
        .await?;
        let paused = |node: Option<&Node>| world::tainted(node?, taint::PAUSED).then_some(());
        world.node(&car, "a Node that is paused", paused).await?;
        world.apply(&world.example("hello/fleetjob.yaml")?).await?;
        world.pods_unplaced(3).await?;
        let status = car.owner("status").await?.stdout;
        ensure!(
            status.contains(reason::NETWORK_TERMS),
            "the owner is told why: {status}"
        );
        write(&car, "network", json!({"metered": "allow"}))?;
        world.phase(&car, VehiclePhase::Available).await
    })
    .await
}

#[tokio::test]
async fn class_that_the_owner_did_not_consent_to_stays_away_from_the_car() -> Result<()> {
    world::run("class", async |world| {
        world.cars(1).await?;
        let mut job = world.example("hello/fleetjob.yaml")?;
        job["spec"]["class"] = "video".into();
        world.apply(&job).await?;
        world.pods_unplaced(3).await
    })
    .await
}

#[tokio::test]
async fn pod_bound_by_hand_to_a_car_that_does_not_accept_its_class_is_refused_with_the_class() -> Result<()> {
    world::run("byhand", async |world| {
        let car = world.cars(1).await?.remove(0);
        let mut pod = world.example("batch-job/job.yaml")?["spec"]["template"].take();
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"] = json!({"name": "byhand", "namespace": world.name, "labels": {"kerbside.dev/class": "video"}});
        pod["spec"]["nodeName"] = car.id.as_str().into();
        world.apply(&pod).await?;
        let refused = refused(world).await?;
        ensure!(
            refused == ("True".into(), reason::CLASS_NOT_ACCEPTED.into()),
            "{refused:?}"
        );
        // It names the class.
        world.event("byhand", "Refused", "video").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn owner_who_withdraws_ends_the_work_and_later_work_stays_away() -> Result<()> {
    world::run("withdraw", async |world| {
        let car = world.cars(1).await?.remove(0);
        world.apply(&world.example("digits/fleetjob.yaml")?).await?;
        world.running_on(&car).await?;
        car.owner("withdraw").await?;
        world.phase(&car, VehiclePhase::Away).await?;
        world
            .wait_pods("nothing to run on the car", |pods| {
                let busy = pods
                    .iter()
                    .any(|p| world::on(p, car.id.as_str()) && phase(p) == "Running");
                (!busy).then_some(())
            })
            .await
    })
    .await
}

#[tokio::test]
async fn pod_bound_by_hand_to_a_car_whose_owner_withdrew_is_refused_and_never_starts() -> Result<()> {
    world::run("bywithdraw", async |world| {
        let withdrawn = world.cars(1).await?.remove(0);
        withdrawn.owner("withdraw").await?;
        world.phase(&withdrawn, VehiclePhase::Away).await?;
        let mut pod = support::plain_pod(world, "deployment/deployment.yaml", "byhand")?;
        pod["spec"]["nodeName"] = withdrawn.id.as_str().into();
        world.apply(&pod).await?;
        let refused = world
            .wait_pods("the Pod to be refused", |pods| {
                let pod = pods.iter().find(|p| p.name_any() == "byhand")?;
                let condition = world::condition(pod, condition::REFUSED)?;
                Some((condition.0.to_owned(), condition.1.to_owned()))
            })
            .await?;
        // The cluster is told no more than that: why a car is away is its owner's business.
        ensure!(refused == ("True".into(), reason::NOT_PARKED.into()), "{refused:?}");
        // Nobody would replace it: it is held for a while, then it fails, and has never run.
        let failed = world
            .wait_pods("the Pod to be given up", |pods| {
                pods.iter()
                    .find(|p| p.name_any() == "byhand" && phase(p) == "Failed")
                    .cloned()
            })
            .await?;
        let containers = failed.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
        let mut seen = containers.filter_map(|c| c.state.as_ref());
        ensure!(
            seen.all(|s| s.running.is_none() && s.terminated.as_ref().is_none_or(|t| t.started_at.is_none())),
            "it ran: {failed:?}"
        );
        let status = withdrawn.owner("status").await?.stdout;
        ensure!(
            status.contains(reason::OWNER_CONSENT_MISSING),
            "the owner is told why: {status}"
        );
        ensure!(
            support::at_work(&withdrawn).await? == 0,
            "nothing runs in the car: {status}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn car_whose_signals_are_silent_is_never_available() -> Result<()> {
    world::run("silent", async |world| {
        let silent = world
            .car(&Plan {
                signals: Signals::Silent,
                ..Plan::default()
            })
            .await?;
        // Another car that is made after it, and becomes available, shows that there was time to.
        let parked = world.car(&Plan::default()).await?;
        world.apply(&world.example("hello/fleetjob.yaml")?).await?;
        let seen = world.record();
        world.complete("hello", world::DEADLINE).await?;
        let attempts = seen.attempts();
        ensure!(
            attempts.iter().all(|p| world::on(p, parked.id.as_str())),
            "{attempts:?}"
        );
        ensure!(silent.process().is_ok(), "the silent car's agent runs all the time");
        Ok(())
    })
    .await
}
