//! What a Pod is configured by: ConfigMaps, Secrets, its own fields, tokens; missing, there, and changed while it runs.

use anyhow::{Context, Result, ensure};
use kerbside_testbed::audit::{Audit, Request};
use kerbside_testbed::wait;
use kerbside_testbed::world::{self, World, phase};
use serde_json::{Value, json};

use super::{container, log, played, pod, run, running, status, until};

/// Lets the adapter read what Pods in the test's namespace name, as the chart does for its workload namespaces.
pub(crate) async fn bind(world: &World) -> Result<()> {
    world
        .apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "kerbside-workload-reader", "namespace": world.name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kerbside-workload-reader"},
            "subjects": [{"kind": "ServiceAccount", "name": "kerbside-virtual-kubelet", "namespace": "kerbside-system"}],
        }))
        .await
}

fn map(world: &World, kind: &str, name: &str, data: &Value) -> Value {
    let field = if kind == "Secret" { "stringData" } else { "data" };
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": world.name}, field: data})
}

async fn trusting(world: &World) -> Result<()> {
    bind(world).await?;
    world
        .pool(|pool| pool["spec"]["trust"] = json!({"secrets": "Allow", "serviceAccountTokens": "Allow"}))
        .await
}

#[tokio::test]
async fn program_finds_its_config_in_its_environment_and_its_files() -> Result<()> {
    run("engine-config", async |world, _| {
        trusting(world).await?;
        world.apply(&map(world, "ConfigMap", "conf", &json!({"a": "1", "b": "two"}))).await?;
        world.apply(&map(world, "Secret", "hush", &json!({"key": "s3cret"}))).await?;
        let mut pod = pod(
            world,
            "config",
            "env ; say $(ALL) ; cat /conf/a /conf/deep/b /hush/key /all/labels /all/cpu /one ; stat /hush/key ; ls /conf ; try write /conf/a x",
        );
        pod["metadata"]["labels"]["team"] = "vision".into();
        pod["spec"]["volumes"] = json!([
            {"name": "conf", "configMap": {"name": "conf", "items": [{"key": "a", "path": "a"}, {"key": "b", "path": "deep/b"}]}},
            {"name": "hush", "secret": {"secretName": "hush", "defaultMode": 0o400}},
            {"name": "all", "projected": {"sources": [
                {"downwardAPI": {"items": [
                    {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                    {"path": "cpu", "resourceFieldRef": {"containerName": "main", "resource": "limits.cpu", "divisor": "1m"}},
                ]}},
                {"secret": {"name": "none", "optional": true}},
            ]}},
        ]);
        let container = &mut pod["spec"]["containers"][0];
        container["volumeMounts"] = json!([
            {"name": "conf", "mountPath": "/conf"}, {"name": "hush", "mountPath": "/hush"}, {"name": "all", "mountPath": "/all"},
            {"name": "conf", "mountPath": "/one", "subPathExpr": "$(WHICH)"},
        ]);
        container["envFrom"] = json!([{"configMapRef": {"name": "conf"}, "prefix": "P_"}, {"secretRef": {"name": "hush"}}]);
        container["env"] = json!([
            {"name": "WHICH", "value": "a"},
            {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "b"}}},
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "hush", "key": "key"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
            {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "ALL", "value": "all:$(P_a)$(B)$(MEMORY)$(NONE)"},
        ]);
        let ended = played(world, &pod).await?;
        ensure!(phase(&ended) == "Succeeded", "{:?}", ended.status);
        let said = log(world, "config", "main").await?;
        for line in [
            "P_a=1\n", "P_b=two\n", "key=s3cret\n", "B=two\n", "S=s3cret\n", "IP=10.98.", "HOST=127.0.0.1\n", "MEMORY=64\n",
            "all:1two64$(NONE)\n", "\n1\ntwo\ns3cret\n", "team=\"vision\"\n", "\n500\n1\n", "/hush/key -r--------",
        ] {
            ensure!(said.contains(line), "no {line:?} in {said}");
        }
        ensure!(said.contains("write /conf/a x: open /conf/a: read-only file system"), "{said}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pod_whose_config_is_missing_waits_says_what_and_goes_on_when_it_is_there() -> Result<()> {
    run("engine-missing", async |world, _| {
        bind(world).await?;
        let mut pod = pod(world, "waits", "env A ; cat /conf/a");
        pod["spec"]["volumes"] = json!([{"name": "conf", "configMap": {"name": "late"}}]);
        let container = &mut pod["spec"]["containers"][0];
        container["volumeMounts"] = json!([{"name": "conf", "mountPath": "/conf"}]);
        container["env"] = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "a"}}}]);
        world.apply(&pod).await?;
        let message = until(world, "waits", "to say what is missing", |pod| {
            let waiting = status(pod, "main")?.state.as_ref()?.waiting.as_ref()?;
            (waiting.reason.as_deref() == Some("CreateContainerConfigError")).then(|| waiting.message.clone())?
        })
        .await?;
        ensure!(message == "configmap \"late\" not found", "{message}");
        world
            .apply(&map(world, "ConfigMap", "late", &json!({"a": "here"})))
            .await?;
        // The adapter looks once a minute.
        let ended = until(world, "waits", "to end", |pod| {
            (phase(pod) == "Succeeded").then(|| pod.clone())
        })
        .await?;
        ensure!(super::end(&ended, "main").is_some(), "{:?}", ended.status);
        ensure!(log(world, "waits", "main").await? == "A=here\nhere\n", "its config");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn mounted_config_changes_while_the_program_runs_and_a_part_of_it_does_not() -> Result<()> {
    run("engine-live", async |world, _| {
        bind(world).await?;
        world
            .apply(&map(world, "ConfigMap", "conf", &json!({"motd": "old"})))
            .await?;
        let mut pod = pod(world, "live", "cat /conf/motd ; until /conf/motd new ; cat /part");
        pod["spec"]["volumes"] = json!([{"name": "conf", "configMap": {"name": "conf"}}]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([
            {"name": "conf", "mountPath": "/conf"}, {"name": "conf", "mountPath": "/part", "subPath": "motd"},
        ]);
        world.apply(&pod).await?;
        running(world, "live").await?;
        world
            .apply(&map(world, "ConfigMap", "conf", &json!({"motd": "new"})))
            .await?;
        until(world, "live", "to end", |pod| (phase(pod) == "Succeeded").then_some(())).await?;
        let said = log(world, "live", "main").await?;
        ensure!(said == "old\n/conf/motd is new\nold\n", "{said}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn token_of_the_pods_account_is_bound_to_the_pod_and_known_by_the_api_server() -> Result<()> {
    run("engine-token", async |world, car| {
        trusting(world).await?;
        let mut pod = pod(world, "token", "cat /token/token ; wait");
        pod["spec"]["volumes"] = json!([{"name": "token", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "audience": "depot", "expirationSeconds": 600}},
        ]}}]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "token", "mountPath": "/token"}]);
        world.apply(&pod).await?;
        let uid = running(world, "token").await?.metadata.uid.context("a Pod has a UID")?;
        let token = wait::until_ok("the token", world::DEADLINE, async || {
            let said = log(world, "token", "main").await?;
            let token = said.lines().next().map(str::to_owned);
            token.filter(|token| token.contains('.')).context("it is a token")
        })
        .await?;
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": ["depot"]},
        });
        let answer = world
            .kubectl()
            .run(&["create", "-f", "-", "-o", "json"], &review.to_string())
            .await?;
        let answer: Value = serde_json::from_str(&answer).context("an answer is JSON")?;
        ensure!(answer["status"]["authenticated"] == true, "{answer}");
        let extra = &answer["status"]["user"]["extra"];
        ensure!(
            extra["authentication.kubernetes.io/pod-uid"][0] == uid.as_str(),
            "{answer}"
        );
        // In memory only, and gone with the Pod.
        let place = car.dir().join("attempts").join(&uid).join("volumes/token");
        let mounts = std::fs::read_to_string("/proc/mounts").context("mounts can be read")?;
        ensure!(mounts.contains(&format!("tmpfs {} tmpfs", place.display())), "{mounts}");
        world
            .kubectl()
            .run(&["delete", "pod", "-n", &world.name, "token", "--wait=true"], "")
            .await?;
        wait::until("its files to be gone", world::DEADLINE, async || {
            Ok((!place.exists()).then_some(()))
        })
        .await
    })
    .await
}

#[tokio::test]
async fn secret_does_not_go_into_a_car_whose_pool_denies_it_and_memory_is_no_disk() -> Result<()> {
    run("engine-denied", async |world, car| {
        bind(world).await?;
        world
            .apply(&map(world, "Secret", "hush", &json!({"key": "s3cret"})))
            .await?;
        let mut denied = pod(world, "denied", "say never");
        denied["spec"]["volumes"] = json!([{"name": "hush", "secret": {"secretName": "hush"}}]);
        world.apply(&denied).await?;
        let message = until(world, "denied", "its refusal", |pod| {
            let conditions = pod.status.as_ref()?.conditions.as_ref()?;
            conditions
                .iter()
                .find(|c| c.type_ == "kerbside.dev/Refused")?
                .message
                .clone()
        })
        .await?;
        ensure!(message.contains("trust.secrets"), "{message}");
        world
            .kubectl()
            .run(
                &["delete", "pod", "-n", &world.name, "denied", "--wait=false", "--force"],
                "",
            )
            .await?;

        let mut memory = pod(
            world,
            "memory",
            "fill /memory/x 1000000 ; try fill /memory/y 9000000 ; wait",
        );
        memory["spec"]["volumes"] = json!([{"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "2Mi"}}]);
        memory["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "memory", "mountPath": "/memory"}]);
        world.apply(&memory).await?;
        let said = wait::until_ok("what it says", world::DEADLINE, async || {
            let said = log(world, "memory", "main").await?;
            ensure!(said.contains("fill"), "{said}");
            Ok(said)
        })
        .await?;
        ensure!(said.contains("no space left on device"), "{said}");
        car.stop().await?;
        let mounts = std::fs::read_to_string("/proc/mounts").context("mounts can be read")?;
        ensure!(
            mounts.contains(&format!("{}/attempts", car.dir().display())),
            "it is in memory: {mounts}"
        );
        // What an agent that ended left in memory is taken away by the next.
        car.start()?;
        wait::until("the memory to be given back", world::DEADLINE, async || {
            let mounts = std::fs::read_to_string("/proc/mounts").context("mounts can be read")?;
            Ok((!mounts.contains(&format!("{}/attempts", car.dir().display()))).then_some(()))
        })
        .await
    })
    .await
}

#[tokio::test]
async fn adapter_reads_what_pods_name_one_by_one_and_never_lists_or_watches_it() -> Result<()> {
    run("engine-reads", async |world, _| {
        trusting(world).await?;
        for name in ["named", "other"] {
            world.apply(&map(world, "ConfigMap", name, &json!({"a": "1"}))).await?;
            world.apply(&map(world, "Secret", name, &json!({"a": "1"}))).await?;
        }
        // Two Pods name the same objects.
        for name in ["one", "two"] {
            let mut pod = pod(world, name, "env A ; sleep 3s");
            pod["spec"]["containers"][0]["env"] = json!([
                {"name": "A1", "valueFrom": {"configMapKeyRef": {"name": "named", "key": "a"}}},
                {"name": "A2", "valueFrom": {"secretKeyRef": {"name": "named", "key": "a"}}},
            ]);
            world.apply(&pod).await?;
        }
        for name in ["one", "two"] {
            until(world, name, "to end", |pod| (phase(pod) == "Succeeded").then_some(())).await?;
        }
        let seen = Audit::whole(&world.bed.layout).requests()?;
        let objects = |r: &&Request| r.resource == "configmaps" || r.resource == "secrets";
        let of_adapter = seen
            .iter()
            .filter(|r| r.agent.starts_with("kerbside-kubelet/"))
            .filter(objects);
        // Everywhere counts as here.
        let reads: Vec<_> = of_adapter
            .filter(|r| r.namespace == world.name || r.namespace.is_empty())
            .map(|r| format!("{} {} {}", r.verb, r.resource, r.name))
            .collect();
        let named = ["get configmaps named", "get secrets named"];
        ensure!(
            reads.iter().all(|read| named.contains(&read.as_str())),
            "nothing else was read: {reads:?}"
        );
        // At the start of each Pod, by the one reader of the object.
        for read in named {
            let count = reads.iter().filter(|r| *r == read).count();
            ensure!((1..=2).contains(&count), "{read}: {count} times");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn labels_that_change_reach_the_files_of_a_pod_that_runs() -> Result<()> {
    run("engine-labels", async |world, _| {
        let mut pod = pod(
            world,
            "shown",
            "say here ; until /pod/colour green ; until /pod/mood \"a\" ; say done",
        );
        pod["spec"]["volumes"] = json!([{"name": "pod", "downwardAPI": {"items": [
            {"path": "colour", "fieldRef": {"fieldPath": "metadata.labels['colour']"}},
            {"path": "mood", "fieldRef": {"fieldPath": "metadata.annotations['mood']"}},
        ]}}]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "pod", "mountPath": "/pod"}]);
        pod["metadata"]["labels"]["colour"] = "red".into();
        world.apply(&pod).await?;
        running(world, "shown").await?;
        let kubectl = world.kubectl();
        kubectl
            .run(
                &[
                    "label",
                    "-n",
                    &world.name,
                    "pod",
                    "shown",
                    "--overwrite",
                    "colour=green",
                ],
                "",
            )
            .await?;
        kubectl
            .run(&["annotate", "-n", &world.name, "pod", "shown", "mood=\"a\""], "")
            .await?;
        until(world, "shown", "to have seen both", |pod| {
            (phase(pod) == "Succeeded").then_some(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn part_of_a_scratch_volume_is_its_containers_and_a_link_in_its_place_is_refused() -> Result<()> {
    run("engine-part", async |world, car| {
        let mut pod = pod(world, "parts", "");
        let part = "write /part/file mine ; until /part/go yes ; exit 1";
        // It sees all of the volume, and swaps the other's part for a way out.
        let all = "until /work/a/b/file mine ; rename /work/a /work/old ; link /etc /work/a ; write /work/old/b/go yes ; wait";
        let mut containers = [container(world, "part", part), container(world, "all", all)];
        containers[0]["volumeMounts"] = json!([{"name": "work", "mountPath": "/part", "subPath": "a/b"}]);
        containers[1]["volumeMounts"] = json!([{"name": "work", "mountPath": "/work"}]);
        pod["spec"]["containers"] = json!(containers);
        pod["spec"]["volumes"] = json!([{"name": "work", "emptyDir": {}}]);
        pod["spec"]["restartPolicy"] = "OnFailure".into();
        world.apply(&pod).await?;
        // What it had it kept, or it would not have seen the word; what is there now is not given to it.
        let why = until(world, "parts", "the link to be refused", |pod| {
            let waiting = status(pod, "part")?.state.as_ref()?.waiting.clone()?;
            (waiting.reason.as_deref() == Some("CreateContainerConfigError")).then_some(waiting)
        })
        .await?;
        let message = why.message.unwrap_or_default();
        ensure!(message.contains("a/b is a link"), "{message}");
        ensure!(message.contains("subPath") && message.contains("\"part\""), "{message}");
        until(world, "parts", "the other to run on", |pod| status(pod, "all")?.ready.then_some(())).await?;
        world
            .kubectl()
            .run(&["delete", "pod", "-n", &world.name, "parts", "--wait=true"], "")
            .await?;
        wait::until("nothing to be bound in the car", world::DEADLINE, async || {
            let mounts = std::fs::read_to_string("/proc/self/mounts")?;
            let car = car.dir().join("attempts").to_string_lossy().into_owned();
            Ok((!mounts.contains(&car)).then_some(()))
        })
        .await
    })
    .await
}
