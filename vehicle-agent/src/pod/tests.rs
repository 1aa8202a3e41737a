//! Pods as the cluster sends them.

use kerbside_link::proto::{OutputRequest, Streams};
use rstest::rstest;
use serde_json::{Value, json};

use kerbside_core::attempt::{ExitRule, Restart};

use super::pull::pull_policy;
use super::*;
use crate::runtime::Terminal;

/// A Pod of a FleetJob with one container.
pub(crate) fn pod_json() -> Value {
    json!({
        "metadata": {"name": "digits-3-abcde", "namespace": "vision", "uid": "u-1", "labels": {"kerbside.dev/job-name": "digits"}},
        "spec": {
            "nodeName": "car-aaaaaaaaaaaaaaaa",
            "restartPolicy": "Never",
            "runtimeClassName": "kerbside-wasm",
            "containers": [{
                "name": "classify",
                "image": "registry:5000/digits@sha256:1111111111111111111111111111111111111111111111111111111111111111",
                "args": ["--index", "$(JOB_COMPLETION_INDEX)"],
                "env": [{"name": "JOB_COMPLETION_INDEX", "value": "3"}],
                "resources": {"requests": {"cpu": "500m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}},
                "volumeMounts": [{"name": "model", "mountPath": "/model"}, {"name": "scratch", "mountPath": "/scratch/"}],
            }],
            "volumes": [
                {"name": "model", "image": {"reference": "registry:5000/model:v1", "pullPolicy": "IfNotPresent"}},
                {"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}},
            ],
        },
    })
}

pub(crate) fn run_of(pod: &Value) -> Run {
    Run {
        uid: "u-1".to_owned(),
        pod_json: serde_json::to_vec(pod).unwrap().into(),
        class: "inference".to_owned(),
        pool: "overnight".to_owned(),
        run_unheard_for_ms: 60_000,
        output: Some(OutputRequest {
            path: "/kerbside/out".to_owned(),
            max_bytes: 1000,
        }),
        once: false,
        terms: String::new(),
    }
}

#[expect(clippy::unwrap_in_result, reason = "the uid is a valid one")]
fn read(pod: &Value) -> Result<Work, Refusal> {
    Work::read("u-1".parse().unwrap(), &run_of(pod), &Resources::default())
}

#[test]
fn pod_of_a_job_is_read() {
    let work = read(&pod_json()).unwrap();
    let container = &work.containers[0];
    assert_eq!(container.command, ["classify"], "a module is called as its container");
    assert_eq!(container.args, ["--index", "$(JOB_COMPLETION_INDEX)"]);
    assert_eq!(container.pull, PullPolicy::IfNotPresent);
    assert_eq!(
        (container.memory_limit, container.cpu_limit),
        (Some(128 << 20), Some(1000))
    );
    assert_eq!(container.mounts[1].path, "/scratch");
    assert_eq!(container.message_path, "/dev/termination-log");
    assert_eq!(
        work.volumes["scratch"],
        VolumeWork::EmptyDir {
            size_limit: Some(1 << 20),
            memory: false,
        }
    );
    assert_eq!(work.requests.get("cpu"), Quantity::from_millis(500));
    assert_eq!(work.job, "digits");
    let plan = work.plan();
    assert!(plan.upload && plan.containers[0].restart == Restart::Never);
    assert_eq!(plan.run_unheard_for, Some(Duration::from_mins(1)));
}

#[rstest]
#[case::host_network("/spec", json!({"hostNetwork": true}), "hostNetwork")]
#[case::probe("/spec/containers/0", json!({"livenessProbe": {"exec": {"command": ["x"]}}}), "livenessProbe")]
#[case::hook("/spec/containers/0", json!({"lifecycle": {"preStop": {"exec": {"command": ["x"]}}}}), "lifecycle.preStop")]
#[case::rule("/spec/containers/0", json!({"restartPolicyRules": [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [3]}}]}), "restartPolicyRules")]
#[case::env("/spec/containers/0", json!({"env": [{"name": "T", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}}]}), "env T")]
#[case::host_port("/spec/containers/0", json!({"ports": [{"containerPort": 80, "hostPort": 80}]}), "hostPort")]
#[case::privileged("/spec/containers/0", json!({"securityContext": {"privileged": true}}), "privileged")]
#[case::stdin("/spec/containers/0", json!({"stdin": true}), "stdin")]
#[case::tty("/spec/containers/0", json!({"tty": true}), "tty")]
#[case::relative("/spec/containers/0", json!({"workingDir": "work"}), "absolute")]
#[case::dots("/spec/containers/0/volumeMounts/0", json!({"mountPath": "/model/../../etc"}), "..")]
#[case::sub_path("/spec/containers/0/volumeMounts/0", json!({"subPath": "../x"}), "..")]
#[case::name("/spec/containers/0", json!({"name": "../x"}), "DNS label")]
#[case::no_volume("/spec/containers/0/volumeMounts/0", json!({"name": "none"}), "no volume none")]
#[case::host_path("/spec/volumes/0", json!({"image": null, "hostPath": {"path": "/"}}), "volume model: hostPath")]
#[case::trust_bundle("/spec/volumes/0", json!({"image": null, "projected": {"sources": [{"clusterTrustBundle": {"path": "x"}}]}}), "projected")]
#[case::memory_medium("/spec/volumes/1/emptyDir", json!({"medium": "Memory"}), "medium")]
#[case::no_containers("/spec", json!({"containers": []}), "containers")]
fn pod_that_asks_for_what_a_car_has_not_is_refused_by_field(
    #[case] at: &str,
    #[case] change: Value,
    #[case] says: &str,
) {
    let mut pod = pod_json();
    let target = pod.pointer_mut(at).unwrap().as_object_mut().unwrap();
    target.extend(change.as_object().unwrap().clone());
    let refusal = read(&pod).unwrap_err();
    assert_eq!(refusal.reason, reason::NOT_SUPPORTED);
    assert!(refusal.message.contains(says), "{}", refusal.message);
}

#[test]
fn container_has_the_role_the_policy_and_the_hooks_that_its_pod_says() {
    let mut pod = pod_json();
    let own = |name: &str, more: Value| {
        let mut container = json!({"name": name, "image": "registry:5000/x:1"});
        container
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        container
    };
    pod["spec"]["restartPolicy"] = json!("OnFailure");
    pod["spec"]["initContainers"] = json!([
        own(
            "sidecar",
            json!({"restartPolicy": "Always", "lifecycle": {"preStop": {"sleep": {"seconds": 3}}}})
        ),
        own("init", json!({})),
        own(
            "once",
            json!({"restartPolicy": "Never", "restartPolicyRules": [
                {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}},
            ]})
        ),
    ]);
    let work = read(&pod).unwrap();
    let plan = work.plan();
    let said: Vec<_> = plan
        .containers
        .iter()
        .map(|c| (c.role, c.restart, c.pre_stop))
        .collect();
    assert_eq!(
        said,
        [
            (Role::Sidecar, Restart::Always, true),
            (Role::Init, Restart::OnFailure, false),
            (Role::Init, Restart::Never, false),
            (Role::Main, Restart::OnFailure, false),
        ]
    );
    assert_eq!(
        work.containers[0].pre_stop,
        Some(Handler::Sleep(Duration::from_secs(3)))
    );
    assert_eq!(
        plan.containers[2].rules,
        [ExitRule {
            among: true,
            codes: vec![42]
        }]
    );
    assert_eq!(work.first_container(), 3);
}

#[test]
fn pod_is_run_by_what_its_runtime_class_says_and_without_one_in_containers() {
    let of = |class: Value| {
        let mut pod = pod_json();
        pod["spec"]["runtimeClassName"] = class;
        read(&pod).map(|work| work.engine)
    };
    assert_eq!(of(json!("kerbside-wasm")).unwrap(), Engine::Wasm);
    assert_eq!(of(Value::Null).unwrap(), Engine::Container);
    assert_eq!(of(json!("kerbside-container")).unwrap(), Engine::Container);
    assert_eq!(of(json!("gvisor")).unwrap_err().reason, reason::RUNTIME_MISSING);
}

#[test]
fn container_has_probes_hooks_and_a_security_context() {
    let mut pod = pod_json();
    pod["spec"]["runtimeClassName"] = json!("kerbside-container");
    let probe = json!({"exec": {"command": ["x"]}, "periodSeconds": 7});
    pod["spec"]["containers"][0].as_object_mut().unwrap().extend(
        json!({
            "startupProbe": probe, "livenessProbe": probe, "readinessProbe": probe,
            "lifecycle": {"preStop": {"httpGet": {"port": 80}}},
            "securityContext": {"runAsUser": 7},
        })
        .as_object()
        .unwrap()
        .clone(),
    );
    let work = read(&pod).unwrap();
    let (container, plan) = (&work.containers[0], &work.plan().containers[0]);
    assert!(container.command.is_empty(), "what it runs, its image says");
    assert_eq!(container.security.user, Some(7));
    assert!(plan.pre_stop && !plan.post_start);
    for probe in [plan.startup, plan.liveness, plan.readiness] {
        assert_eq!(probe.map(|probe| probe.period), Some(Duration::from_secs(7)));
    }
}

#[test]
fn pod_that_is_not_a_pod_is_refused() {
    let run = Run {
        pod_json: b"{".to_vec().into(),
        ..run_of(&pod_json())
    };
    assert_eq!(
        Work::read("u-1".parse().unwrap(), &run, &Resources::default())
            .unwrap_err()
            .reason,
        reason::NOT_SUPPORTED
    );
}

#[rstest]
#[case("registry/app", PullPolicy::Always)]
#[case("registry:5000/app", PullPolicy::Always)]
#[case("registry/app:latest", PullPolicy::Always)]
#[case("registry/app:v1", PullPolicy::IfNotPresent)]
#[case("registry/app@sha256:00", PullPolicy::IfNotPresent)]
fn image_without_a_policy_has_the_default_one(#[case] image: &str, #[case] policy: PullPolicy) {
    assert_eq!(pull_policy(None, image), policy);
}

/// What somebody adds to a Pod of containers.
fn added(changes: &Value) -> Vec<EphemeralContainer> {
    let mut container = json!({"name": "look", "image": "registry:5000/tools:v1"});
    for (key, value) in changes.as_object().unwrap() {
        container[key] = value.clone();
    }
    serde_json::from_value(json!([container])).unwrap()
}

fn of_containers() -> Work {
    let mut pod = pod_json();
    pod["spec"]["runtimeClassName"] = RUNTIME_CLASS_CONTAINER.into();
    read(&pod).unwrap()
}

#[test]
fn container_that_is_added_is_one_more_and_is_added_once() {
    let work = of_containers();
    let look = added(&json!({"targetContainerName": "classify", "command": ["sh"]}));
    let amended = work.amended(&look, &Resources::default()).unwrap();
    let container = &amended.containers[1];
    assert_eq!((container.name.as_str(), container.role), ("look", Role::Ephemeral));
    assert_eq!(container.target.as_deref(), Some("classify"));
    assert_eq!(container.refused, None);
    assert_eq!(amended.plan().containers.len(), 2);
    assert_eq!(amended.amended(&look, &Resources::default()), None);
    assert_eq!(work.amended(&[], &Resources::default()), None);
}

#[rstest]
#[case::privileged(json!({"securityContext": {"privileged": true}}), "privileged")]
#[case::no_volume(json!({"volumeMounts": [{"name": "none", "mountPath": "/x"}]}), "no volume none")]
fn container_that_no_vehicle_can_add_says_why_of_itself_alone(#[case] changes: Value, #[case] says: &str) {
    let amended = of_containers()
        .amended(&added(&changes), &Resources::default())
        .unwrap();
    let why = amended.containers[1].refused.as_deref().unwrap();
    assert!(why.contains(says), "{why}");
    assert_eq!(amended.containers[0].refused, None);
}

#[test]
fn webassembly_program_has_no_processes_to_look_at() {
    let look = added(&json!({"targetContainerName": "classify"}));
    let amended = read(&pod_json())
        .unwrap()
        .amended(&look, &Resources::default())
        .unwrap();
    assert!(
        amended.containers[1]
            .refused
            .as_deref()
            .unwrap()
            .contains("targetContainerName")
    );
}

#[test]
fn container_has_the_terminal_that_its_pod_says() {
    let mut pod = pod_json();
    pod["spec"]["runtimeClassName"] = RUNTIME_CLASS_CONTAINER.into();
    let terminal = |pod: &Value| read(pod).unwrap().containers[0].terminal;
    assert_eq!(terminal(&pod), Terminal::default());
    pod["spec"]["containers"][0]["stdin"] = json!(true);
    pod["spec"]["containers"][0]["stdinOnce"] = json!(true);
    pod["spec"]["containers"][0]["tty"] = json!(true);
    let expected = Terminal {
        stdin: true,
        stdin_once: true,
        tty: true,
    };
    assert_eq!(terminal(&pod), expected);
    let look = added(&json!({"stdin": true, "tty": true}));
    let amended = of_containers().amended(&look, &Resources::default()).unwrap();
    assert_eq!(amended.containers[1].refused, None);
    let expected = Terminal {
        stdin_once: false,
        ..expected
    };
    assert_eq!(amended.containers[1].terminal, expected);
}

#[test]
fn nobody_types_in_a_webassembly_program() {
    let look = added(&json!({"stdin": true}));
    let amended = read(&pod_json())
        .unwrap()
        .amended(&look, &Resources::default())
        .unwrap();
    let why = amended.containers[1].refused.as_deref().unwrap();
    assert_eq!(why, "stdin is not possible with kerbside-wasm");
}

#[test]
fn who_joins_a_program_has_a_terminal_if_it_has_one() {
    let all = Streams {
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };
    let tty = Terminal {
        tty: true,
        ..Terminal::default()
    };
    let joined = tty.joined(all);
    assert_eq!(
        (joined.stdin, joined.stdout, joined.stderr, joined.tty),
        (true, true, false, true)
    );
    assert_eq!(Terminal::default().joined(Streams { tty: true, ..all }), all);
}

#[test]
fn name_that_could_lead_elsewhere_is_not_added() {
    let look = added(&json!({"name": "../../x"}));
    assert_eq!(of_containers().amended(&look, &Resources::default()), None);
}

#[test]
fn pod_with_pull_secrets_waits_for_its_tokens() {
    let mut pod = pod_json();
    assert!(!read(&pod).unwrap().refers());
    pod["spec"]["imagePullSecrets"] = json!([{"name": "pull"}]);
    assert!(read(&pod).unwrap().refers());
}
