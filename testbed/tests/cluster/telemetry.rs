//! Cars without an agent: a gateway as a process, before the real API server, scheduler and adapter. They are shown and counted, and no work
//! ever comes to them.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kerbside_api::v1alpha1::{ChargeBand, Known, Telemetry, Vehicle, VehiclePool};
use kerbside_core::clock::Clock;
use kerbside_core::names::label;
use kerbside_link::SystemClock;
use kerbside_telemetry_gateway::car::{message, parked};
use kerbside_telemetry_gateway::proto::Field;
use kerbside_telemetry_gateway::proto::value::Value as Said;
use kerbside_testbed::control_plane::kubeconfig;
use kerbside_testbed::telemetry::Gateway;
use kerbside_testbed::world::{self, World};
use kerbside_testbed::{process, wait};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::support::endless;

const VIN: &str = "5YJ3E1EA7KF000001";
const OTHER: &str = "5YJ3E1EA7KF000002";
/// Of a car that never speaks.
const NOBODY: &str = "5YJ3E1EA7KF000003";

/// Runs a test with a gateway of these cars, whose Vehicles are gone afterwards, whatever its end.
async fn with_gateway(name: &str, test: impl AsyncFnOnce(&World, &Gateway) -> Result<()>) -> Result<()> {
    world::run(name, async |world| {
        let gateway = Gateway::start(world, &[VIN, OTHER]).await?;
        let tested = test(world, &gateway).await;
        // None that speaks is left on the list: what the gateway makes while it is taken down, it takes away as well.
        gateway.list(&[NOBODY])?;
        let own = ListParams::default().labels(&format!("{}={}", label::TELEMETRY_GATEWAY, world.name));
        let vehicles: Api<Vehicle> = Api::all(world.client());
        let cleared = wait::until_ok("the gateway's Vehicles to be gone", world::DEADLINE, async || {
            let left = vehicles
                .list(&own)
                .await
                .context("failed to list Vehicles")?
                .items
                .len();
            ensure!(left == 0, "{left} are left");
            Ok(())
        })
        .await;
        if cleared.is_err() {
            vehicles
                .delete_collection(&DeleteParams::background(), &own)
                .await
                .context("failed to delete Vehicles")?;
        }
        tested.and(cleared)
    })
    .await
}

/// Waits until the car's Vehicle says so.
async fn told(world: &World, name: &str, parked: Known, charge: u32) -> Result<Vehicle> {
    let vehicles: Api<Vehicle> = Api::all(world.client());
    let what = format!("{name} to be told as parked {parked:?} with {charge} percent");
    let band = ChargeBand::try_from(charge).context("it is a band")?;
    wait::object(&vehicles, name, &what, world::DEADLINE, |vehicle| {
        let says = vehicle?.status.as_ref()?.telemetry?;
        (says.parked == parked && says.charge == Some(band)).then(|| vehicle.cloned())?
    })
    .await
}

#[tokio::test]
async fn car_without_an_agent_is_shown_and_counted_and_gets_no_node_and_no_work() -> Result<()> {
    with_gateway("telemetry", async |world, gateway| {
        let name = gateway.name_of(VIN)?;
        let mut car = gateway.car(VIN).await?;
        car.say(&message(VIN, SystemClock.wall(), &parked(71.3))).await?;
        let vehicle = told(world, name.as_str(), Known::True, 60).await?;

        let row = world
            .kubectl()
            .run(&["get", "vehicle", name.as_str(), "-o", "wide"], "")
            .await?;
        ensure!(row.contains("Telemetry") && row.contains("Away"), "{row}");
        let text = serde_json::to_string(&vehicle).context("failed to render JSON")?;
        for secret in [VIN, "71.3", "52.52", "13.40", "21.5"] {
            ensure!(!text.contains(secret), "{secret} is in the Vehicle: {text}");
        }

        // Work for its pool waits, for there is no Node, and never will be.
        let job = endless(world)?;
        world.apply(&job).await?;
        world.pods_unplaced(1).await?;
        let nodes: Api<Node> = Api::all(world.client());
        ensure!(nodes.get_opt(name.as_str()).await?.is_none(), "it has a Node");
        let pools: Api<VehiclePool> = Api::all(world.client());
        wait::object(
            &pools,
            &world.name,
            "the pool to count it apart",
            world::DEADLINE,
            |pool| {
                let status = pool?.status.as_ref()?;
                let counts = status.vehicles;
                let apart = (
                    counts.enrolled,
                    counts.available,
                    counts.without_agent,
                    counts.parked_without_agent,
                );
                (apart == (0, 0, 1, 1) && status.capacity.is_empty()).then_some(())
            },
        )
        .await?;

        // The driver is back; no more than that is told.
        let back = [(Field::Locked, Said::Truth(false))];
        car.say(&message(VIN, SystemClock.wall(), &back)).await?;
        told(world, name.as_str(), Known::False, 60).await?;
        ensure!(nodes.get_opt(name.as_str()).await?.is_none(), "it has a Node");

        let log = std::fs::read_to_string(&gateway.log).context("failed to read a log")?;
        ensure!(log.contains(name.as_str()), "{log}");
        for secret in [VIN, "71.3", "52.52", "13.404"] {
            ensure!(!log.contains(secret), "{secret} is in the log: {log}");
        }

        // Taken off the list, it goes.
        gateway.list(&[OTHER])?;
        let vehicles: Api<Vehicle> = Api::all(world.client());
        wait::object(
            &vehicles,
            name.as_str(),
            "its Vehicle to go",
            world::DEADLINE,
            |vehicle| vehicle.is_none().then_some(()),
        )
        .await
    })
    .await
}

/// Nobody is left to say that the driver is back.
#[tokio::test]
async fn vehicle_whose_gateway_was_killed_is_unknown_when_its_time_has_passed() -> Result<()> {
    world::run("telemetrygone", async |world| {
        let gateway = Gateway::start_good_for(world, &[VIN], "4s").await?;
        let name = gateway.name_of(VIN)?;
        let mut car = gateway.car(VIN).await?;
        car.say(&message(VIN, SystemClock.wall(), &parked(71.3))).await?;
        told(world, name.as_str(), Known::True, 60).await?;
        process::crash(&world.bed.layout, &gateway.process).await?;
        let vehicles: Api<Vehicle> = Api::all(world.client());
        let unknown = wait::object(
            &vehicles,
            name.as_str(),
            "it to be unknown",
            world::DEADLINE,
            |vehicle| {
                let status = vehicle?.status.as_ref()?;
                (status.telemetry == Some(Telemetry::default()) && status.telemetry_good_until.is_none()).then_some(())
            },
        )
        .await;
        vehicles
            .delete(name.as_str(), &DeleteParams::default())
            .await
            .context("failed to delete a Vehicle")?;
        unknown
    })
    .await
}

/// What the API server says to a write; it has to say no.
fn no<T>(answer: Result<T, kube::Error>, code: u16) -> Result<String> {
    match answer {
        Ok(_) => anyhow::bail!("it was accepted"),
        Err(kube::Error::Api(status)) if status.code == code => Ok(status.message.clone()),
        Err(error) => Err(error).context("it failed, but not as it should"),
    }
}

#[tokio::test]
async fn nobody_gives_a_car_without_an_agent_a_connection_and_the_gateway_writes_nothing_else() -> Result<()> {
    with_gateway("telemetryno", async |world, gateway| {
        let name = gateway.name_of(VIN)?;
        let mut car = gateway.car(VIN).await?;
        car.say(&message(VIN, SystemClock.wall(), &parked(50.0))).await?;
        told(world, name.as_str(), Known::True, 40).await?;

        // The adapter's account, which makes the Nodes of those that it holds.
        let adapter = world.bed.layout.path("kubeconfigs/kerbside-virtual-kubelet.kubeconfig");
        let vehicles: Api<Vehicle> = Api::all(kubeconfig::client(&adapter).await?);
        let claim = Patch::Merge(json!({"status": {"connection": {"replica": "testbed-0", "epoch": 1}}}));
        let claimed = vehicles
            .patch_status(name.as_str(), &PatchParams::default(), &claim)
            .await;
        let words = no(claimed, 422)?;
        ensure!(words.contains("never gets a Node"), "{words}");

        // The gateway's account: a car with an agent, one without its label, and a Node.
        let client = kubeconfig::client(&gateway.account).await?;
        let dry = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let vehicles: Api<Vehicle> = Api::all(client.clone());
        let of = |spec: Value, labels: Value| {
            serde_json::from_value::<Vehicle>(json!({
                "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle",
                "metadata": {"name": "car-aaaaaaaaaaaaaaaa", "labels": labels}, "spec": spec,
            }))
            .context("failed to make a test's object")
        };
        let label = || json!({label::TELEMETRY_GATEWAY: world.name});
        let enrolled = of(json!({"pool": world.name}), label())?;
        let words = no(vehicles.create(&dry, &enrolled).await, 403)?;
        ensure!(words.contains("only Vehicles without an agent"), "{words}");
        let unlabelled = of(json!({"pool": world.name, "source": "Telemetry"}), json!({}))?;
        no(vehicles.create(&dry, &unlabelled).await, 403)?;
        let whole = of(json!({"pool": world.name, "source": "Telemetry"}), label())?;
        vehicles.create(&dry, &whole).await.context("its own kind is refused")?;
        let nodes: Api<Node> = Api::all(client);
        let node: Node = serde_json::from_value(json!({"metadata": {"name": name.as_str()}}))?;
        no(nodes.create(&dry, &node).await, 403)?;
        Ok(())
    })
    .await
}
