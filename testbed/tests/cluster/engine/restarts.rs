//! Who is started again when only some containers are, and what a container leaves in its log.

use anyhow::{Context, Result, ensure};
use kerbside_testbed::world::phase;
use serde_json::json;

use super::life::shared;
use super::{end, played, pod, restarts, run};

#[tokio::test]
async fn container_has_a_restart_policy_and_rules_of_its_own() -> Result<()> {
    run("engine-own", async |world, _| {
        let containers = [
            ("again", "fails 1 /work/again"),
            ("ruled", "fails 1 /work/ruled"),
            ("once", "fails 0 /work/once"),
        ];
        let mut pod = shared(world, "own", &containers);
        // The Pod's is Never.
        pod["spec"]["containers"][0]["restartPolicy"] = "OnFailure".into();
        pod["spec"]["containers"][1]["restartPolicy"] = "Never".into();
        pod["spec"]["containers"][1]["restartPolicyRules"] =
            json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [3]}}]);
        let ended = played(world, &pod).await?;
        ensure!(phase(&ended) == "Succeeded", "{:?}", ended.status);
        let often = ["again", "ruled", "once"].map(|name| restarts(&ended, name));
        ensure!(often == [1, 1, 0], "{often:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn container_that_fails_without_a_message_leaves_the_end_of_its_log() -> Result<()> {
    run("engine-last", async |world, _| {
        let mut pod = pod(world, "last", "say the last words ; exit 4");
        pod["spec"]["containers"][0]["terminationMessagePolicy"] = "FallbackToLogsOnError".into();
        let ended = played(world, &pod).await?;
        let how = end(&ended, "main").context("it has ended")?;
        let message = how.message.as_deref();
        ensure!((how.exit_code, message) == (4, Some("the last words\n")), "{how:?}");
        Ok(())
    })
    .await
}
