//! Who a program is and what it may do in its container; and what of the car no program gets.

use anyhow::{Context, Result, ensure};
use kerbside_testbed::world::{self, phase};
use serde_json::{Value, json};

use super::{amend, end, log, played, pod, run, until};

#[tokio::test]
async fn program_is_who_its_pod_says_and_has_no_privilege_that_was_not_given() -> Result<()> {
    run("engine-who", async |world, _| {
        let plain = pod(world, "plain", "id ; try mount none /mnt tmpfs ; try mknod /disk");
        let ended = played(world, &plain).await?;
        ensure!(phase(&ended) == "Succeeded", "{:?}", ended.status);
        let said = log(world, "plain", "main").await?;
        ensure!(said.contains("uid=0 gid=0") && said.contains("NoNewPrivs: 1") && said.contains("Seccomp: 2"), "{said}");
        ensure!(said.contains("mount none /mnt tmpfs: operation not permitted"), "{said}");
        ensure!(said.contains("mknod /disk: operation not permitted"), "{said}");

        let mut other = pod(world, "other", "id ; try write /x y ; write /work/mine yes ; stat /work");
        other["spec"]["securityContext"] =
            json!({"runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 3000, "supplementalGroups": [4000], "runAsNonRoot": true});
        other["spec"]["volumes"] = json!([{"name": "work", "emptyDir": {}}]);
        let container = &mut other["spec"]["containers"][0];
        container["volumeMounts"] = json!([{"name": "work", "mountPath": "/work"}]);
        container["securityContext"] = json!({"readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
        let ended = played(world, &other).await?;
        ensure!(phase(&ended) == "Succeeded", "{:?}", ended.status);
        let said = log(world, "other", "main").await?;
        ensure!(said.contains("uid=1000 gid=2000") && said.contains("3000") && said.contains("4000"), "{said}");
        ensure!(said.contains("CapEff: 0000000000000000"), "{said}");
        ensure!(said.contains("write /x y: open /x: read-only file system"), "{said}");
        ensure!(said.contains(":3000\n"), "the volume belongs to the group: {said}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn program_that_would_be_root_against_its_pods_word_is_not_started_and_says_why() -> Result<()> {
    run("engine-nonroot", async |world, _| {
        let mut pod = pod(world, "root", "say never");
        pod["spec"]["securityContext"] = json!({"runAsNonRoot": true});
        world.apply(&pod).await?;
        let message = until(world, "root", "to be held", |pod| {
            let waiting = super::status(pod, "main")?.state.as_ref()?.waiting.as_ref()?;
            (waiting.reason.as_deref() == Some("CreateContainerConfigError")).then(|| waiting.message.clone())?
        })
        .await?;
        ensure!(message.contains("runAsNonRoot"), "{message}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn names_and_hosts_are_as_the_pod_says() -> Result<()> {
    run("engine-names", async |world, _| {
        let mut pod = pod(world, "names", "host ; cat /etc/hosts /etc/resolv.conf ; resolve depot");
        pod["spec"]["hostAliases"] = json!([{"ip": "192.0.2.7", "hostnames": ["depot"]}]);
        pod["spec"]["dnsPolicy"] = "None".into();
        pod["spec"]["dnsConfig"] = json!({"nameservers": ["192.0.2.53"], "searches": ["example"], "options": [{"name": "ndots", "value": "2"}]});
        let ended = played(world, &pod).await?;
        ensure!(phase(&ended) == "Succeeded", "{:?}", ended.status);
        let said = log(world, "names", "main").await?;
        for line in ["names\n", "\tnames\n", "192.0.2.7\tdepot\n", "nameserver 192.0.2.53\n", "search example\n", "options ndots:2\n", "[192.0.2.7]"] {
            ensure!(said.contains(line), "no {line:?} in {said}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn image_that_is_not_there_or_is_none_says_so_and_the_pod_waits() -> Result<()> {
    run("engine-noimage", async |world, _| {
        let registry = world.bed.endpoints.registry.clone();
        let mut none = pod(world, "none", "say never");
        none["spec"]["containers"][0]["image"] = format!("{registry}/nothing:1").into();
        let mut wasm = pod(world, "wasm", "say never");
        wasm["spec"]["containers"][0]["image"] = format!("{registry}/hello:1").into();
        for (name, pod, says) in [("none", &none, "nothing:1"), ("wasm", &wasm, "kerbside-wasm")] {
            world.apply(pod).await?;
            let message = until(world, name, "its pull to fail", |pod| {
                let waiting = super::status(pod, "main")?.state.as_ref()?.waiting.as_ref()?;
                waiting
                    .reason
                    .as_deref()?
                    .contains("Pull")
                    .then(|| waiting.message.clone())?
            })
            .await?;
            ensure!(message.contains(says), "{message}");
        }
        let mut command = pod(world, "command", "say never");
        command["spec"]["containers"][0]["command"] = json!(["/none"]);
        let ended = played(world, &command).await?;
        let how = end(&ended, "main").context("it has ended")?;
        ensure!(
            (how.exit_code, how.reason.as_deref()) == (128, Some("StartError")),
            "{how:?}"
        );
        ensure!(
            how.message.as_deref().is_some_and(|message| message.contains("/none")),
            "{how:?}"
        );
        Ok(())
    })
    .await
}

/// What is refused: where in the Pod, what, and the word that the refusal must have.
fn refusals() -> Vec<(&'static str, Value, &'static str)> {
    let own = "/spec/containers/0";
    vec![
        ("/spec", json!({"hostNetwork": true}), "hostNetwork"),
        ("/spec", json!({"hostPID": true}), "hostPID"),
        ("/spec", json!({"hostIPC": true}), "hostIPC"),
        (
            "/spec",
            json!({"volumes": [{"name": "can", "hostPath": {"path": "/dev"}}]}),
            "hostPath",
        ),
        (own, json!({"securityContext": {"privileged": true}}), "privileged"),
        (
            own,
            json!({"securityContext": {"allowPrivilegeEscalation": true}}),
            "allowPrivilegeEscalation",
        ),
        (
            own,
            json!({"securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}),
            "NET_ADMIN",
        ),
        (
            own,
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
            "seccompProfile",
        ),
        (
            own,
            json!({"ports": [{"containerPort": 80, "hostPort": 80}]}),
            "hostPort",
        ),
    ]
}

#[tokio::test]
async fn pod_that_asks_for_a_part_of_the_car_is_refused_by_the_field() -> Result<()> {
    run("engine-refused", async |world, _| {
        for (index, (at, change, says)) in refusals().into_iter().enumerate() {
            let name = format!("wants-{index}");
            let mut pod = pod(world, &name, "say never");
            let target = pod
                .pointer_mut(at)
                .and_then(Value::as_object_mut)
                .context("the Pod has it")?;
            target.extend(change.as_object().context("a change is an object")?.clone());
            world.apply(&pod).await?;
            let (_, message) = until(world, &name, "its refusal", |pod| {
                let refused = pod
                    .status
                    .as_ref()?
                    .conditions
                    .as_ref()?
                    .iter()
                    .find(|c| c.type_ == "kerbside.dev/Refused")?;
                Some((refused.reason.clone(), refused.message.clone().unwrap_or_default()))
            })
            .await?;
            ensure!(message.contains(says), "{says}: {message}");
            world
                .kubectl()
                .run(
                    &["delete", "pod", "-n", &world.name, &name, "--wait=false", "--force"],
                    "",
                )
                .await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn hostile_program_reaches_nothing_of_the_car_and_fills_nothing() -> Result<()> {
    run("engine-hostile", async |world, car| {
        let registry = &world.bed.endpoints.registry;
        // A service on the car's loopback, a link-local and a private address.
        let acts = format!(
            "try connect {registry} ; try connect 169.254.169.254:80 ; try connect 10.0.0.1:80 ; try connect [fe80::1]:80 ; routes ; ps ; try cat /dev/mem ; try kill 1"
        );
        let hostile = pod(world, "hostile", &acts);
        let ended = played(world, &hostile).await?;
        ensure!(phase(&ended) == "Succeeded", "{:?}", ended.status);
        let said = log(world, "hostile", "main").await?;
        ensure!(!said.contains("reached"), "{said}");
        ensure!(said.contains("network is unreachable"), "{said}");
        ensure!(said.matches("/actor").count() <= 2, "it sees its own processes only: {said}");
        ensure!(said.contains("/dev/mem: no such file"), "no device of the car is there: {said}");
        let uid = ended.metadata.uid.clone().context("it has a UID")?;
        world.kubectl().run(&["delete", "pod", "-n", &world.name, "hostile", "--wait=true"], "").await?;
        let scratch = car.dir().join("attempts").join(uid);
        kerbside_testbed::wait::until("its files to be gone", world::DEADLINE, async || Ok((!scratch.exists()).then_some(())))
            .await?;
        let many = pod(world, "many", "threads 3000");
        let ended = played(world, &many).await?;
        ensure!(end(&ended, "main").is_some_and(|how| how.exit_code == 2), "{:?}", ended.status);
        let said = log(world, "many", "main").await?;
        ensure!(said.contains("failed to create new OS thread"), "a bound on processes holds: {said}");
        Ok(())
    })
    .await
}

/// What the owner lets each Pod write to a disk, a second.
const RATE: u64 = 2 << 20;

#[tokio::test]
async fn program_writes_no_faster_than_the_owner_lets_it() -> Result<()> {
    run("engine-rate", async |world, car| {
        amend(world, car, |document| document["maxDiskBytesPerSecond"] = "2Mi".into()).await?;
        // Past the kernel's cache, which has a rate of its own with control groups of the first version; in the image's files and in a volume.
        let mut pod = pod(world, "writes", "direct /work/file 6291456 ; direct /file 6291456");
        pod["spec"]["volumes"] = json!([{"name": "work", "emptyDir": {}}]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "work", "mountPath": "/work"}]);
        let ended = played(world, &pod).await?;
        ensure!(world::phase(&ended) == "Succeeded", "{:?}", ended.status);
        let printed = log(world, "writes", "main").await?;
        let took = printed
            .lines()
            .filter_map(|line| line.strip_prefix("took ")?.parse::<u64>().ok());
        let rates: Vec<_> = took.map(|ms| 6_291_456 * 1000 / ms.max(1)).collect();
        ensure!(
            rates.len() == 2 && rates.iter().all(|rate| *rate <= RATE * 13 / 10),
            "{rates:?} bytes a second: {printed}"
        );
        Ok(())
    })
    .await
}
