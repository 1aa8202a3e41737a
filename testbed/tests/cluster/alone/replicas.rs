//! More than one adapter behind one address: a car whose adapter dies, or is cut off from the API server, goes on with another; and no
//! two of them write the Node of one car.

use k8s_openapi::api::core::v1::Pod;
use kerbside_api::v1alpha1::Vehicle;
use kerbside_core::names::condition;
use kerbside_testbed::audit::{self, Audit};
use kerbside_testbed::process::Program;
use kerbside_testbed::wait;
use kube::ResourceExt;

use super::*;
use crate::others::way::{self, Way};

pub(super) const FIRST: &str = "testbed-0";
pub(super) const SECOND: &str = "testbed-1";
/// The process that is [`SECOND`].
pub(super) const ADAPTER_2: &str = "adapter-2";

/// An adapter beside the one that there is, as another replica of the chart's Deployment would be; and where its link listens.
pub(super) async fn another_adapter(world: &World, name: &str, replica: &str) -> Result<(Record, String)> {
    started_as(world, world.bed.adapter()?.program, name, replica).await
}

async fn started_as(world: &World, mut program: Program, name: &str, replica: &str) -> Result<(Record, String)> {
    name.clone_into(&mut program.name);
    let link = ports::free()?;
    for (option, value) in [
        ("--replica", replica.to_owned()),
        ("--link-listen", format!("127.0.0.1:{link}")),
        ("--kubelet-listen", format!("127.0.0.1:{}", ports::free()?)),
        (LISTEN, format!("127.0.0.1:{}", ports::free()?)),
    ] {
        let at = program.args.iter().position(|a| a == option);
        let given = at.and_then(|at| program.args.get_mut(at + 1));
        given
            .with_context(|| format!("the adapter is told its {option}"))?
            .clone_from(&value);
    }
    let record = process::start(&world.bed.layout, &program)?;
    at_work(&record).await?;
    Ok((record, format!("127.0.0.1:{link}")))
}

/// Waits until `replica` is named in the Vehicle and holds the Lease of its Node.
pub(super) async fn owned_by(world: &World, car: &Car, replica: &str) -> Result<()> {
    let vehicles: Api<Vehicle> = Api::all(world.client());
    let what = format!("{} to be {replica}'s", car.id);
    let named = |v: Option<&Vehicle>| {
        let connection = v?.status.as_ref()?.connection.as_ref()?;
        (connection.replica == replica).then_some(())
    };
    wait::object(&vehicles, car.id.as_str(), &what, world::DEADLINE, named).await?;
    let leases: Api<Lease> = Api::namespaced(world.client(), "kube-node-lease");
    let what = format!("the Lease of {} to be held by {replica}", car.id);
    let held = |l: Option<&Lease>| (l?.spec.as_ref()?.holder_identity.as_deref() == Some(replica)).then_some(());
    wait::object(&leases, car.id.as_str(), &what, world::DEADLINE, held).await
}

/// Two adapters, and whatever came of the test, one in the end. The test is told where the second one's link listens.
pub(super) async fn with_two<F>(name: &str, test: F) -> Result<()>
where
    F: AsyncFnOnce(&mut World, &Way, &str) -> Result<()>,
{
    with_second(name, |_, program| Ok(program), test).await
}

/// Likewise, with a second one that is `made` of the first one's program.
async fn with_second<M, F>(name: &str, made: M, test: F) -> Result<()>
where
    M: FnOnce(&World, Program) -> Result<Program>,
    F: AsyncFnOnce(&mut World, &Way, &str) -> Result<()>,
{
    way::run(name, async |world, way| {
        let program = made(world, world.bed.adapter()?.program)?;
        let (_, link) = started_as(world, program, ADAPTER_2, SECOND).await?;
        let result = test(world, way, &link).await;
        if world.bed.adapter().is_err() {
            world.bed.restart(ADAPTER).await?;
        }
        way.leads_to_the_adapter(&world.bed)?;
        let second = process::find(&world.bed.layout, ADAPTER_2);
        let ended = process::end(&world.bed.layout, second.as_slice(), Duration::from_secs(15)).await;
        result.and(ended)
    })
    .await
}

/// By the audit log each of `replicas` has written the car's Node, and nobody has written the Node of any car that was another's.
pub(super) fn check_writers(world: &World, car: &Car, replicas: &[&str]) -> Result<()> {
    let writes = Audit::whole(&world.bed.layout).writes()?;
    let intrusions = audit::intrusions(&writes);
    ensure!(
        intrusions.is_empty(),
        "written by an adapter whose vehicle it was not: {intrusions:#?}"
    );
    for replica in replicas {
        let own = |w: &audit::Write| w.is_to_a_node() && w.name == car.id.as_str() && w.replica() == Some(replica);
        ensure!(
            writes.iter().any(own),
            "{replica} is on record as a writer of the Node of {}",
            car.id
        );
    }
    Ok(())
}

/// The attempt as it was: the same, running and ready, started once and never disrupted.
pub(super) fn untouched(pod: &Pod) -> bool {
    let ready = world::condition(pod, "Ready").is_some_and(|c| c.0 == "True");
    let disrupted = world::condition(pod, condition::DISRUPTION_TARGET).is_some();
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_deref());
    let once = statuses.is_some_and(|all| all.iter().all(|c| c.restart_count == 0));
    phase(pod) == "Running" && ready && once && !disrupted
}

#[tokio::test]
async fn car_whose_adapter_dies_goes_on_with_another_and_comes_back() -> Result<()> {
    with_two("replicas", async |world, way, second| {
        let car = way.car(world).await?;
        let seen = world.record();
        world.apply(&support::endless(world)?).await?;
        let pod = world.running_on(&car).await?;
        owned_by(world, &car, FIRST).await?;

        way.leads_to(second);
        world.bed.crash(ADAPTER).await?;
        owned_by(world, &car, SECOND).await?;
        let goes_on = |pods: &[Pod]| {
            let same = pods.iter().find(|p| p.uid() == pod.uid())?;
            untouched(same).then_some(())
        };
        world
            .wait_pods("the attempt to go on with the second adapter", goes_on)
            .await?;

        world.bed.restart(ADAPTER).await?;
        way.leads_to_the_adapter(&world.bed)?;
        // In good order, as in a rolling update.
        let second = process::find(&world.bed.layout, ADAPTER_2).context("the second adapter was started")?;
        process::end(&world.bed.layout, &[second], Duration::from_secs(15)).await?;
        owned_by(world, &car, FIRST).await?;
        world
            .wait_pods("the attempt to go on with the first adapter", goes_on)
            .await?;
        ensure!(support::at_work(&car).await? == 1, "the program was never stopped");
        let attempts = seen.attempts();
        ensure!(attempts.len() == 1, "no replacement: {attempts:?}");
        check_writers(world, &car, &[FIRST, SECOND])
    })
    .await
}

/// The second adapter is swallowed by a partition and lives on: it doubts itself before the first takes its cars for lost, and when it is
/// back, they stay where they are.
#[tokio::test]
async fn car_whose_adapter_is_cut_off_from_the_api_server_goes_on_with_another_and_stays() -> Result<()> {
    let api = partition::way().await?;
    let made = |world: &World, program| partition::reached_by(world, program, &api);
    let result = with_second("doubt", made, async |world, way, second| {
        way.leads_to(second);
        let car = way.car(world).await?;
        let seen = world.record();
        let mut job = support::endless(world)?;
        loss::once_only(&mut job);
        world.apply(&job).await?;
        let pod = world.running_on(&car).await?;
        owned_by(world, &car, SECOND).await?;

        way.leads_to_the_adapter(&world.bed)?;
        api.hold();
        owned_by(world, &car, FIRST).await?;
        api.free();
        // It has caught up when it shows that it lives.
        renews_again(world).await?;
        world
            .wait_pods("the attempt to be as it was", |pods| {
                let same = pods.iter().find(|p| p.uid() == pod.uid())?;
                untouched(same).then_some(())
            })
            .await?;
        owned_by(world, &car, FIRST).await?;
        ensure!(support::at_work(&car).await? == 1, "the program was never stopped");
        ensure!(seen.attempts().len() == 1, "no replacement: {:?}", seen.attempts());
        check_writers(world, &car, &[FIRST, SECOND])
    });
    result.await
}

/// Waits until the second adapter has renewed its own Lease after now.
async fn renews_again(world: &World) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(world.client(), SYSTEM_NAMESPACE);
    let renewed = |l: Option<&Lease>| l?.spec.as_ref()?.renew_time.as_ref().map(|t| t.0);
    let name = format!("kerbside-kubelet-{SECOND}");
    let last = wait::object(
        &leases,
        &name,
        "the Lease of the second adapter",
        world::DEADLINE,
        renewed,
    )
    .await?;
    let what = "the second adapter to renew its Lease";
    let again = |l: Option<&Lease>| renewed(l).filter(|at| *at > last).map(drop);
    wait::object(&leases, &name, what, world::DEADLINE, again).await
}
