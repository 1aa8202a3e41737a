//! The definitions under the tools that people hold them with.

use anyhow::{Context, Result, ensure};
use kerbside_testbed::{tools, world};
use rstest::rstest;

#[tokio::test]
async fn kubectl_explain_shows_the_template_down_to_its_containers() -> Result<()> {
    world::run("explain", async |world| {
        let field = "fleetjob.spec.template.spec.containers";
        let text = world.kubectl().run(&["explain", field], "").await?;
        ensure!(text.contains("FleetJob") && text.contains("containers"), "{text}");
        ensure!(
            text.contains("image\t") && text.contains("volumeMounts\t"),
            "the fields of a container are there: {text}"
        );
        Ok(())
    })
    .await
}

#[rstest]
#[case::client_side("cliapply", &[])]
#[case::server_side("srvapply", &["--server-side"])]
#[tokio::test]
async fn definitions_are_applied_over_themselves(#[case] name: &str, #[case] more: &[&str]) -> Result<()> {
    world::run(name, async |world| {
        let dir = tools::checkout()?.join("crds");
        let dir = dir.to_str().context("the path of the checkout is text")?;
        let args = [&["apply", "--dry-run=server", "-f", dir], more].concat();
        let text = world.kubectl().run(&args, "").await?;
        for kind in ["fleetjobs", "vehiclepools", "vehicles"] {
            ensure!(text.contains(&format!("{kind}.kerbside.dev")), "no {kind}: {text}");
        }
        Ok(())
    })
    .await
}
