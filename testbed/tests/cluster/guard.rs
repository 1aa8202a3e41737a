//! The guard beside a car's agent: what the agent cannot do any more at a fence, its guard does, before the cluster gives the work up.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kerbside_core::names::{condition, reason};
use kerbside_testbed::fleet::car::Car;
use kerbside_testbed::{process, wait, world};
use kube::ResourceExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::loss::{impatient, once_only};
use crate::support;

/// A guard is to cost no more than this, in kilobytes of memory that is its share.
const MOST: u64 = 2048;

/// The guard of a running agent: the child of that name.
fn guard(car: &Car) -> Result<Option<i32>> {
    let agent = car.process()?.pid;
    for task in std::fs::read_dir(format!("/proc/{agent}/task"))? {
        let children = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        for pid in children.split_whitespace() {
            let name = std::fs::read_to_string(Path::new("/proc").join(pid).join("comm")).unwrap_or_default();
            if name.trim() == "kerbside-guard" {
                return Ok(Some(pid.parse()?));
            }
        }
    }
    Ok(None)
}

async fn guarded_by(car: &Car, other_than: Option<i32>) -> Result<i32> {
    wait::until("the agent to have a guard", world::DEADLINE, async || {
        Ok(guard(car)?.filter(|pid| Some(*pid) != other_than))
    })
    .await
}

#[tokio::test]
async fn agent_that_stands_still_past_a_fence_is_ended_before_its_work_is_given_up() -> Result<()> {
    world::run("guard", async |world| {
        world.pool(impatient).await?;
        let cars = world.cars(2).await?;
        let seen = world.record();
        let mut job = support::first_share(world, 20)?;
        once_only(&mut job);
        world.apply(&job).await?;
        let (first, stuck) = world.running_on_one_of(&cars).await?;

        let pid = guarded_by(stuck, None).await?;
        let share = process::pss_kb_of(pid).context("the guard's memory can be read")?;
        ensure!(share <= MOST, "the guard takes {share} kB");
        // One that is killed has a successor that knows the fences.
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        guarded_by(stuck, Some(pid)).await?;

        let agent = stuck.process()?;
        stuck.freeze()?;
        let (alive, why) = world
            .wait_pods("the stuck agent's attempt to be given up", |pods| {
                let pod = pods.iter().find(|p| p.uid() == first.uid())?;
                let stopped = world::condition(pod, condition::STOPPED)?;
                Some((agent.alive(), stopped.1.to_owned()))
            })
            .await?;
        ensure!(
            !alive && why == reason::FENCED,
            "the agent had ended when its work was given up: alive {alive}, {why}"
        );
        // As the car's service manager would.
        stuck.start()?;
        let status = world.complete("digits", Duration::from_mins(5)).await?;
        ensure!(status.succeeded == 1 && status.failed == 0, "{status:?}");
        ensure!(seen.attempts().len() == 2, "one replacement");
        Ok(())
    })
    .await
}
