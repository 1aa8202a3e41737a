//! A resource that Kubernetes does not know: offered by a car, counted by the scheduler, checked by the adapter.

use anyhow::{Result, ensure};
use kerbside_api::v1alpha1::VehiclePhase;
use kerbside_core::names::condition;
use kerbside_testbed::fleet::car::{Car, Plan, Signals};
use kerbside_testbed::layout::{read_json, write_json};
use kerbside_testbed::world::{self, World};
use kube::ResourceExt;
use serde_json::Value;

use crate::support;

const NPU: &str = "kerbside.dev/npu";

/// A car with one of it.
async fn car(world: &mut World) -> Result<Car> {
    let plan = Plan {
        signals: Signals::Silent,
        ..Plan::default()
    };
    let car = world.car(&plan).await?;
    car.stop().await?;
    let file = car.dir().join("car.yaml");
    let mut document: Value = read_json(&file)?;
    document["allocatable"][NPU] = "1".into();
    write_json(&file, &document)?;
    car.signals(Signals::Parked)?;
    car.start()?;
    world.phase(&car, VehiclePhase::Available).await?;
    Ok(car)
}

fn pod(world: &World, name: &str, count: &str) -> Result<Value> {
    let mut pod = support::plain_pod(world, "deployment/deployment.yaml", name)?;
    pod["spec"]["containers"][0]["resources"]["limits"][NPU] = count.into();
    pod["spec"]["containers"][0]["resources"]["requests"][NPU] = count.into();
    Ok(pod)
}

#[tokio::test]
async fn extended_resource_of_a_car_is_scheduled_by_and_never_given_twice() -> Result<()> {
    world::run("npu", async |world| {
        let car = car(world).await?;
        let given = world
            .node(&car, "the Node to offer the resource", |n| {
                n?.status.as_ref()?.allocatable.as_ref()?.get(NPU).cloned()
            })
            .await?;
        ensure!(given.0 == "1", "the car has one, not {}", given.0);
        world.apply(&pod(world, "one", "1")?).await?;
        world.running_on(&car).await?;
        world.apply(&pod(world, "two", "2")?).await?;
        world
            .wait_pods("the Pod that asks for two to be unschedulable", |pods| {
                let pod = pods.iter().find(|p| p.name_any() == "two")?;
                (world::condition(pod, "PodScheduled") == Some(("False", "Unschedulable"))).then_some(())
            })
            .await?;
        let mut bound = pod(world, "bound", "2")?;
        bound["spec"]["nodeName"] = car.id.as_str().into();
        world.apply(&bound).await?;
        let (status, reason) = world
            .wait_pods("the Pod bound by hand to be refused", |pods| {
                let pod = pods.iter().find(|p| p.name_any() == "bound")?;
                world::condition(pod, condition::REFUSED).map(|c| (c.0.to_owned(), c.1.to_owned()))
            })
            .await?;
        ensure!(status == "True" && reason == format!("OutOf{NPU}"), "{status} {reason}");
        let words = "requested: 2, used: 1, capacity: 1";
        world.event("bound", "Refused", words).await?;
        Ok(())
    })
    .await
}
