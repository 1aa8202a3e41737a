//! What comes into a container beside its own image: the files of another one, the Services of its namespace.

use anyhow::{Result, ensure};
use kerbside_testbed::programs;
use kerbside_testbed::world::phase;
use serde_json::json;

use super::{config, log, played, pod, run};

#[tokio::test]
async fn files_of_an_image_are_a_volume_that_nobody_writes() -> Result<()> {
    run("engine-image", async |world, _| {
        let mut pod = pod(
            world,
            "image",
            "ls /model ; stat /model/model.json ; try write /model/model.json x ; try write /model/x y",
        );
        let reference = format!("{}/digits-model:{}", world.bed.endpoints.registry, programs::TAG);
        pod["spec"]["volumes"] = json!([{"name": "model", "image": {"reference": reference}}]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "model", "mountPath": "/model"}]);
        let ended = played(world, &pod).await?;
        let said = log(world, "image", "main").await?;
        ensure!(phase(&ended) == "Succeeded", "{said} {:?}", ended.status);
        ensure!(said.starts_with("/model/model.json\n"), "{said}");
        ensure!(said.matches("read-only file system").count() == 2, "{said}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn services_of_the_namespace_are_in_the_environment_unless_the_pod_wants_none() -> Result<()> {
    run("engine-services", async |world, _| {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "depot-door", "namespace": world.name},
            "spec": {"ports": [{"name": "web", "port": 8080}], "selector": {"none": "such"}},
        });
        config::bind(world).await?;
        world.apply(&service).await?;
        for (name, links) in [("linked", true), ("alone", false)] {
            let mut pod = pod(
                world,
                name,
                "env DEPOT ; env KUBERNETES ; say $(DEPOT_DOOR_SERVICE_PORT)",
            );
            pod["spec"]["enableServiceLinks"] = links.into();
            let ended = played(world, &pod).await?;
            let said = log(world, name, "main").await?;
            ensure!(phase(&ended) == "Succeeded", "{said} {:?}", ended.status);
            let has = said.contains("DEPOT_DOOR_SERVICE_HOST=") && said.contains("DEPOT_DOOR_SERVICE_PORT_WEB=8080\n");
            ensure!(has == links, "{name}: {said}");
            ensure!(said.ends_with("8080\n") == links, "{name}: {said}");
        }
        Ok(())
    })
    .await
}
