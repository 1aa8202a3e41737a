//! The container engine is killed, or stands still, under the containers of a car. What runs goes on and stays in the car's hands; what is
//! new waits; and when the engine is back, it and the car know of the same.

use super::*;

use k8s_openapi::api::core::v1::Pod;
use kerbside_core::names::taint;
use kerbside_testbed::engine::{self, Kind};
use kerbside_testbed::fleet::car::Signals;
use kerbside_testbed::wait;
use kerbside_vehicle_agent::cgroup::Cgroup;
use kube::ResourceExt;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::Instant;

use crate::engine::fence::{departed, group, nothing_runs};
use crate::engine::life::shared;
use crate::engine::{forgotten, known, log, offers, played, pod, restarts, run_on, running, status, until};

/// Runs a test after which the engine runs, whatever the test has done to it.
async fn run<F>(name: &str, test: F) -> Result<()>
where
    F: AsyncFnOnce(&mut World, &Car, Kind) -> Result<()>,
{
    let kind = crate::engine::kind()?;
    run_on(kind, name, async |world, car| {
        let result = test(world, car, kind).await;
        let layout = &world.bed.layout;
        if let Some(record) = process::find(layout, kind.process()) {
            record.signal(Signal::SIGCONT);
        }
        result.and(engine::revive(layout).await)
    })
    .await
}

/// Waits until the car takes no new Pod for containers.
async fn closed(world: &World, car: &Car) -> Result<()> {
    world
        .node(car, "a Node for WebAssembly alone", |node| {
            world::tainted(node?, taint::WASM_ONLY).then_some(())
        })
        .await
}

async fn delete(world: &World, which: &str) -> Result<()> {
    world
        .kubectl()
        .run(&["delete", "pod", "-n", &world.name, which, "--wait=true"], "")
        .await
        .map(drop)
}

/// A Pod that runs while all this happens: one container counts, and the other prints what the test wants to hear.
struct Witness {
    uid: String,
    work: PathBuf,
    /// The control group of the container that counts.
    counts: Cgroup,
}

impl Witness {
    const NAME: &str = "lives";
    const PRINTS: &str = "say before ; until /work/word go ; say meanwhile ; write /work/heard yes ; until /work/word end ; say after ; wait";

    async fn start(world: &World, car: &Car, kind: Kind) -> Result<Self> {
        let mut pod = shared(
            world,
            Self::NAME,
            &[("counts", "count /work/n"), ("prints", Self::PRINTS)],
        );
        pod["spec"]["restartPolicy"] = "Always".into();
        world.apply(&pod).await?;
        let uid = until(world, Self::NAME, "to run", |pod| {
            let ready = |name: &str| status(pod, name).is_some_and(|status| status.ready);
            (ready("counts") && ready("prints")).then(|| pod.uid())?
        })
        .await?;
        let filter =
            format!("labels.\"io.kubernetes.pod.uid\"==\"{uid}\",labels.\"io.kubernetes.container.name\"==counts");
        let id = known(world, kind, &filter).await?;
        ensure!(!id.is_empty() && !id.contains('\n'), "one container counts: {id}");
        Ok(Self {
            work: car.dir().join("attempts").join(&uid).join("volumes/work"),
            counts: group(car).child(&uid).child(&id),
            uid,
        })
    }

    fn tell(&self, word: &str) -> Result<()> {
        std::fs::write(self.work.join("word"), word).context("failed to tell a program a word")
    }

    fn count(&self) -> u64 {
        let text = std::fs::read_to_string(self.work.join("n")).unwrap_or_default();
        text.parse().unwrap_or(0)
    }

    async fn counts_on(&self) -> Result<()> {
        let now = self.count();
        wait::until("the program to count on", world::DEADLINE, async || {
            Ok((self.count() > now).then_some(()))
        })
        .await
    }

    /// That it is the same Pod, and that none of its programs was started again.
    async fn is_as_it_was(&self, world: &World) -> Result<()> {
        let pod: Pod = world.pods().get(Self::NAME).await.context("the Pod is there")?;
        ensure!(
            phase(&pod) == "Running" && pod.uid().as_ref() == Some(&self.uid),
            "{:?}",
            pod.status
        );
        for container in ["counts", "prints"] {
            ensure!(restarts(&pod, container) == 0, "{:?}", pod.status);
        }
        Ok(())
    }

    /// Somebody sits in the car, and gets out again. No engine is needed for either.
    async fn stands_at_once_and_goes_on(&self, world: &World, car: &Car) -> Result<()> {
        ensure!(!self.counts.is_frozen().context("it has a control group")?, "it runs");
        let began = Instant::now();
        car.owner("pause").await?;
        wait::until("the container to stand still", world::DEADLINE, async || {
            Ok(self.counts.is_frozen()?.then_some(()))
        })
        .await?;
        let took = began.elapsed();
        ensure!(took < Duration::from_secs(1), "it ran on for {took:?}");
        let stands = self.count();
        support::for_as_long_as(world, Duration::from_secs(2), "it to stand still").await?;
        ensure!(self.count() == stands, "it counted from {stands} to {}", self.count());
        car.owner("resume").await?;
        self.counts_on().await
    }
}

#[tokio::test]
async fn killed_engine_is_missed_by_no_container_that_runs() -> Result<()> {
    run("enginekilled", async |world, car, kind| {
        let witness = Witness::start(world, car, kind).await?;
        let mut goes = pod(world, "goes", "stay");
        goes["spec"]["restartPolicy"] = "Always".into();
        world.apply(&goes).await?;
        let goes = running(world, "goes").await?.uid().context("a Pod has a UID")?;

        process::crash(&world.bed.layout, kind.process()).await?;
        closed(world, car).await?;
        witness.counts_on().await?;
        witness.tell("go")?;
        wait::until("the program to print meanwhile", world::DEADLINE, async || {
            Ok(witness.work.join("heard").exists().then_some(()))
        })
        .await?;
        witness.is_as_it_was(world).await?;
        witness.stands_at_once_and_goes_on(world, car).await?;
        // Nobody can ask it to end: its grace is 5 s, and then the car ends it.
        let began = Instant::now();
        delete(world, "goes").await?;
        ensure!(
            began.elapsed() < Duration::from_secs(15),
            "it took {:?}",
            began.elapsed()
        );
        let left = group(car).child(&goes).pids().context("control groups can be read")?;
        ensure!(left.is_empty(), "{left:?} run after the Pod is gone");

        engine::restart(&world.bed.layout, kind).await?;
        world.node(car, "a Node that offers containers again", offers).await?;
        let next = played(world, &pod(world, "next", "say hello")).await?;
        ensure!(phase(&next) == "Succeeded", "{:?}", next.status);
        witness.counts_on().await?;
        witness.tell("end")?;
        // What it printed while nobody listened is there too.
        wait::until_ok("all that it prints", world::DEADLINE, async || {
            let printed = log(world, Witness::NAME, "prints").await?;
            let lines: Vec<_> = printed.lines().filter(|line| !line.starts_with('/')).collect();
            ensure!(lines == ["before", "meanwhile", "after"], "{printed}");
            Ok(())
        })
        .await?;
        witness.is_as_it_was(world).await?;
        for name in [Witness::NAME, "next"] {
            delete(world, name).await?;
        }
        forgotten(world, kind).await
    })
    .await
}

#[tokio::test]
async fn engine_that_answers_nothing_holds_up_no_end() -> Result<()> {
    run("enginestops", async |world, car, kind| {
        for (name, acts, grace) in [("deleted", "stay", 3), ("deaf", "stay", 600), ("polite", "wait", 600)] {
            let mut pod = pod(world, name, acts);
            pod["spec"]["terminationGracePeriodSeconds"] = grace.into();
            world.apply(&pod).await?;
            running(world, name).await?;
        }
        let record = process::find(&world.bed.layout, kind.process()).context("the engine was started")?;
        record.signal(Signal::SIGSTOP);
        closed(world, car).await?;
        let began = Instant::now();
        delete(world, "deleted").await?;
        ensure!(
            began.elapsed() < Duration::from_secs(15),
            "it took {:?}",
            began.elapsed()
        );
        let began = Instant::now();
        car.signals(Signals::Driving)?;
        nothing_runs(car).await?;
        let took = began.elapsed();
        // The car of these tests gives notice of 5 s.
        ensure!(took < Duration::from_secs(9), "it took {took:?}");
        departed(world).await?;
        record.signal(Signal::SIGCONT);
        forgotten(world, kind).await
    })
    .await
}

/// How many Pods begin at once.
const STORM: usize = 6;

#[tokio::test]
async fn engine_killed_while_many_start_starts_each_once_when_it_is_back() -> Result<()> {
    run("enginestorm", async |world, car, kind| {
        let stays = |n: usize| n.is_multiple_of(2);
        let name = |n: usize| format!("storm-{n}");
        let storm = (0..STORM).map(|n| {
            let last = if stays(n) { "wait" } else { "sleep 2s" };
            let mut pod = shared(
                world,
                &name(n),
                &[("main", &format!("append /work/starts x ; say started ; {last}"))],
            );
            // Also who may fail once only comes to its end.
            let policies = ["Always", "Never", "Always", "OnFailure"];
            pod["spec"]["restartPolicy"] = policies[n % policies.len()].into();
            pod
        });
        let storm: Vec<_> = storm.collect();
        world
            .apply(&json!({"apiVersion": "v1", "kind": "List", "items": storm}))
            .await?;
        world
            .wait_pods("all to be taken, and some to be on their way", |pods| {
                let taken = pods.iter().filter(|pod| status(pod, "main").is_some()).count();
                let ready = pods
                    .iter()
                    .all(|pod| status(pod, "main").is_some_and(|status| status.ready));
                (taken == STORM && !ready).then_some(())
            })
            .await?;
        process::crash(&world.bed.layout, kind.process()).await?;
        engine::restart(&world.bed.layout, kind).await?;
        for n in 0..STORM {
            let wanted = if stays(n) { "Running" } else { "Succeeded" };
            let pod = until(world, &name(n), &format!("to be {wanted}"), |pod| {
                let there = phase(pod) == wanted && (!stays(n) || status(pod, "main")?.ready);
                there.then(|| pod.clone())
            })
            .await?;
            // In the log of its last run, and in that of no other.
            wait::until_ok("its log", world::DEADLINE, async || {
                let printed = log(world, &name(n), "main").await?;
                ensure!(
                    printed.lines().filter(|line| *line == "started").count() == 1,
                    "{printed}"
                );
                Ok(())
            })
            .await?;
            if stays(n) {
                started_once_a_run(car, &pod)?;
            }
        }
        delete(world, "--all").await?;
        forgotten(world, kind).await
    })
    .await
}

/// That its program has begun once for each run that its status counts, if that run came so far; and that one of it runs.
fn started_once_a_run(car: &Car, pod: &Pod) -> Result<()> {
    let uid = pod.uid().context("a Pod has a UID")?;
    let file = car.dir().join("attempts").join(&uid).join("volumes/work/starts");
    let text = std::fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
    let starts = i32::try_from(text.matches('x').count()).context("a program starts a few times")?;
    let runs = restarts(pod, "main") + 1;
    ensure!(
        (1..=runs).contains(&starts),
        "{} began {starts} times in {runs} runs",
        pod.name_any()
    );
    let pids = group(car).child(&uid).pids().context("control groups can be read")?;
    ensure!(pids.len() == 2, "the program and its sandbox, not {pids:?}");
    Ok(())
}
