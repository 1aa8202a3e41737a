//! More than one adapter behind one address: a car whose adapter dies goes on with another, and one that dies with its adapter is lost
//! by the others' word.

use k8s_openapi::api::core::v1::Pod;
use kerbside_api::v1alpha1::Vehicle;
use kerbside_core::names::{condition, reason};
use kerbside_testbed::wait;
use kube::ResourceExt;

use super::outage::endless;
use super::*;
use crate::others::way::{self, Way};

pub(super) const FIRST: &str = "testbed-0";
pub(super) const SECOND: &str = "testbed-1";

/// An adapter beside the one that there is, as another replica of the chart's Deployment would be; and where its link listens.
pub(super) async fn another_adapter(world: &World, name: &str, replica: &str) -> Result<(Record, String)> {
    let mut program = world.bed.adapter()?.program;
    program.name = name.into();
    let (link, listen) = (ports::free()?, ports::free()?);
    for (option, value) in [
        ("--replica", replica.to_owned()),
        ("--link-listen", format!("127.0.0.1:{link}")),
        ("--kubelet-listen", format!("127.0.0.1:{}", ports::free()?)),
        ("--listen", format!("127.0.0.1:{listen}")),
    ] {
        let at = program.args.iter().position(|a| a == option);
        let given = at.and_then(|at| program.args.get_mut(at + 1));
        given
            .with_context(|| format!("the adapter is told its {option}"))?
            .clone_from(&value);
    }
    let record = process::start(&world.bed.layout, &program)?;
    fleet::ready(&record, &format!("http://127.0.0.1:{listen}")).await?;
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

/// Two adapters, and whatever came of the test, one in the end.
pub(super) async fn with_two<F>(name: &str, test: F) -> Result<()>
where
    F: AsyncFnOnce(&mut World, &Way, &str) -> Result<()>,
{
    way::run(name, async |world, way| {
        let (second, link) = another_adapter(world, "adapter-2", SECOND).await?;
        let result = test(world, way, &link).await;
        if world.bed.adapter().is_err() {
            world.bed.restart(ADAPTER).await?;
        }
        way.leads_to_the_adapter(&world.bed)?;
        let ended = process::end(&world.bed.layout, &[second], Duration::from_secs(15)).await;
        result.and(ended)
    })
    .await
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
        world.apply(&endless(world)?).await?;
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
        let second = process::find(&world.bed.layout, "adapter-2").context("the second adapter was started")?;
        process::end(&world.bed.layout, &[second], Duration::from_secs(15)).await?;
        owned_by(world, &car, FIRST).await?;
        world
            .wait_pods("the attempt to go on with the first adapter", goes_on)
            .await?;
        ensure!(support::at_work(&car).await? == 1, "the program was never stopped");
        let attempts = seen.attempts();
        ensure!(attempts.len() == 1, "no replacement: {attempts:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn car_that_dies_with_its_adapter_is_lost_by_the_word_of_another() -> Result<()> {
    with_two("both", async |world, way, second| {
        world.pool(loss::impatient).await?;
        way.leads_to(second);
        let lost = way.car(world).await?;
        let seen = world.record();
        let mut job = endless(world)?;
        loss::once_only(&mut job);
        world.apply(&job).await?;
        let first = world.running_on(&lost).await?;
        owned_by(world, &lost, SECOND).await?;
        let other = world.cars(1).await?.remove(0);

        world.bed.crash("adapter-2").await?;
        lost.crash().await?;
        owned_by(world, &lost, FIRST).await?;
        let fenced = world
            .wait_pods("the lost attempt to be fenced", |pods| {
                let pod = pods.iter().find(|p| p.uid() == first.uid())?;
                let stopped = world::condition(pod, condition::STOPPED)?;
                Some((pods.len(), stopped.1.to_owned()))
            })
            .await?;
        ensure!(
            fenced == (1, reason::FENCED.to_owned()),
            "alone until fenced: {fenced:?}"
        );
        let second = world.running_on(&other).await?;
        ensure!(second.uid() != first.uid(), "another attempt");
        ensure!(seen.attempts().len() == 2, "one replacement: {:?}", seen.attempts());
        Ok(())
    })
    .await
}
