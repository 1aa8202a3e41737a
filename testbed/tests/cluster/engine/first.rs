//! The thinnest line: one container, from its image to its last word.

use anyhow::{Context, Result, ensure};
use kerbside_testbed::world;

use super::{end, log, played, pod, run, status};

#[tokio::test]
async fn container_runs_from_its_image_prints_leaves_a_message_and_ends() -> Result<()> {
    run("engine-first", async |world, _| {
        let pod = pod(world, "one", "say hello ; complain trouble ; write /dev/termination-log good bye ; exit 3");
        let ended = played(world, &pod).await?;
        ensure!(world::phase(&ended) == "Failed", "it ended with code 3");
        let how = end(&ended, "main").context("the container has ended")?;
        ensure!((how.exit_code, how.reason.as_deref()) == (3, Some("Error")), "{how:?}");
        ensure!(how.message.as_deref() == Some("good bye"), "{how:?}");
        let id = status(&ended, "main").map(|status| status.image_id.clone()).unwrap_or_default();
        ensure!(id.contains("/actor@sha256:"), "the image is known by its digest: {id}");
        let printed = log(world, "one", "main").await?;
        ensure!(printed.contains("hello\n") && printed.contains("trouble\n"), "{printed}");
        Ok(())
    })
    .await
}
