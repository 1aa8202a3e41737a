//! What an engine could not make, or has lost, is made anew.

use anyhow::{Context, Result, ensure};
use kerbside_testbed::registry::artifact::Artifact;
use kerbside_testbed::registry::push::push;
use kerbside_testbed::world::{self, phase};
use kerbside_testbed::{programs, wait};
use kerbside_vehicle_agent::runtime::cri;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde_json::json;

use super::{kind, known, pod, run, running, status, until};

#[tokio::test]
async fn container_that_cannot_be_created_says_why_and_runs_when_it_can() -> Result<()> {
    run("engine-create", async |world, _| {
        let program = std::fs::read(world.bed.layout.dir("programs")?.join(programs::ACTOR))
            .context("the tests' program is built")?;
        let registry = &world.bed.endpoints.registry;
        let name = format!("{}-bare", world.name);
        // Nobody knows what to start in it.
        let bare = Artifact::program(programs::ACTOR, &program, &json!({}))?;
        push(registry, &name, programs::TAG, &bare).await?;
        let mut pod = pod(world, "bare", "");
        let container = &mut pod["spec"]["containers"][0];
        container["image"] = format!("{registry}/{name}:{}", programs::TAG).into();
        container["imagePullPolicy"] = "Always".into();
        world.apply(&pod).await?;
        let why = until(world, "bare", "to be told", |pod| {
            let waiting = status(pod, "main")?.state.as_ref()?.waiting.clone()?;
            (waiting.reason.as_deref() == Some("CreateContainerError")).then_some(waiting)
        })
        .await?;
        ensure!(why.message.as_deref().is_some_and(|m| m.contains("command")), "{why:?}");
        let whole = Artifact::program(programs::ACTOR, &program, &json!({"Entrypoint": ["/actor"]}))?;
        push(registry, &name, programs::TAG, &whole).await?;
        let ended = until(world, "bare", "to run to its end", |pod| {
            (phase(pod) == "Succeeded").then(|| pod.clone())
        })
        .await?;
        ensure!(
            status(&ended, "main").is_some_and(|s| s.restart_count == 0),
            "{:?}",
            ended.status
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn sandbox_that_ends_by_itself_is_made_anew_and_its_containers_begin_again() -> Result<()> {
    run("engine-sandbox", async |world, car| {
        let mut lives = pod(world, "lives", "say here ; wait");
        lives["spec"]["restartPolicy"] = "Always".into();
        world.apply(&lives).await?;
        let first = running(world, "lives").await?;
        let pause = cri::group_of(&car.dir())
            .pids()
            .context("control groups can be read")?
            .into_iter()
            .find_map(|pid| {
                let pid = pid.as_raw_pid();
                let line = std::fs::read(format!("/proc/{pid}/cmdline"));
                line.is_ok_and(|line| !line.starts_with(b"/actor")).then_some(pid)
            })
            .context("the sandbox has a process")?;
        signal::kill(Pid::from_raw(pause), Signal::SIGKILL).context("it can be ended")?;
        let again = until(world, "lives", "to run again", |pod| {
            let main = status(pod, "main")?;
            (main.ready && main.restart_count == 1).then(|| pod.clone())
        })
        .await?;
        ensure!(first.metadata.uid == again.metadata.uid, "the same attempt");
        let of_pod = format!(
            "labels.\"io.kubernetes.pod.uid\"=={}",
            first.metadata.uid.as_deref().unwrap_or_default()
        );
        wait::until(
            "the engine to know one sandbox and one container",
            world::DEADLINE,
            async || {
                let known = known(world, kind()?, &of_pod).await?;
                Ok((known.lines().count() == 2).then_some(()))
            },
        )
        .await
    })
    .await
}
