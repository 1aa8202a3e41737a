//! The most telling stories once more, on the containerd that Debian has: version 1.6, which does not tell of its containers, so that the
//! agent looks at them itself.
//!
//! The bodies are those of the tests beside. All others run on it in the night (`hack/nightly.sh`).

use anyhow::{Context, Result, ensure};
use kerbside_testbed::engine::{self, Kind};
use kerbside_testbed::{wait, world};

use super::{fence, first, life, run_on};

#[tokio::test]
async fn container_runs_from_its_image_prints_leaves_a_message_and_ends() -> Result<()> {
    first::to_its_end(Kind::Debian).await
}

#[tokio::test]
async fn probes_of_each_kind_ask_the_program_in_its_own_network() -> Result<()> {
    life::probes(Kind::Debian).await
}

#[tokio::test]
async fn hooks_run_in_the_container_and_the_last_one_before_the_signal() -> Result<()> {
    life::hooks(Kind::Debian).await
}

#[tokio::test]
async fn program_that_takes_more_memory_than_its_limit_is_oom_killed_and_more_disk_evicted() -> Result<()> {
    life::limits(Kind::Debian).await
}

#[tokio::test]
async fn agent_that_is_killed_takes_its_containers_with_it_and_the_next_one_clears_away() -> Result<()> {
    fence::killed(Kind::Debian).await
}

/// That the above is tested on what it says: an engine that does not tell. The line is the agent's own.
#[tokio::test]
async fn engine_is_the_one_that_does_not_tell_and_the_agent_knows() -> Result<()> {
    run_on(Kind::Debian, "engine-silent", async |world, car| {
        let version = engine::ctr(&world.bed.layout, Kind::Debian, &["version"]).await?;
        let server = version
            .split("Server:")
            .nth(1)
            .context("ctr tells the server's version")?;
        // Debian's next release has 1.7, which tells.
        let silent = server.contains(" 1.6.");
        let place = world.bed.layout.path(&format!("logs/car-{}.log", car.name));
        wait::until_ok("the agent to say what it does", world::DEADLINE, async || {
            let log = std::fs::read_to_string(&place).with_context(|| format!("failed to read {}", place.display()))?;
            let looks = log.contains("does not tell of its containers; they are looked at instead");
            ensure!(
                looks == silent && log.contains("containers can run"),
                "{version}\n{log}"
            );
            Ok(())
        })
        .await
    })
    .await
}
