//! One container of a Pod, as a car carries it out.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, EphemeralContainer, Pod, PodSpec};
use kerbside_core::attempt::probe::Kind;
use kerbside_core::attempt::{ExitRule, Restart, Role};
use kerbside_core::quantity::Resources;

use super::env::Environment;
use super::handler::{Handler, ProbeWork, hook, probe};
use super::path::{absolute, check_name};
use super::pull::{PullPolicy, pull_policy};
use super::volume::{Mount, mounts};
use super::{Engine, amount, bytes, security};
use crate::runtime::{Security, Terminal};

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerWork {
    /// Its name.
    pub name: String,
    /// What it is to its Pod.
    pub role: Role,
    /// Whether it is started again.
    pub restart: Restart,
    /// Exits after which it is started again whatever `restart` says.
    pub rules: Vec<ExitRule>,
    /// What is done after its start.
    pub post_start: Option<Handler>,
    /// What is done before its end.
    pub pre_stop: Option<Handler>,
    /// Until it succeeds the other two wait.
    pub startup: Option<ProbeWork>,
    /// A container that fails it is ended.
    pub liveness: Option<ProbeWork>,
    /// Whether it is ready.
    pub readiness: Option<ProbeWork>,
    /// The image.
    pub image: String,
    /// When it is fetched.
    pub pull: PullPolicy,
    /// The program's name, and arguments; empty: what the image says. A module has a name always.
    pub command: Vec<String>,
    /// More arguments, both with `$(NAME)` in them.
    pub args: Vec<String>,
    /// The environment.
    pub env: Environment,
    /// Where it starts.
    pub working_dir: Option<String>,
    /// Its volumes.
    pub mounts: Vec<Mount>,
    /// Who it is, and what it may.
    pub security: Security,
    /// Whether somebody may type in it, and how.
    pub terminal: Terminal,
    /// Bytes.
    pub memory_limit: Option<u64>,
    /// Thousandths of a processor.
    pub cpu_limit: Option<u64>,
    /// Thousandths of a processor.
    pub cpu_request: u64,
    /// Bytes of its own files.
    pub storage_limit: Option<u64>,
    /// The file whose content becomes the termination message.
    pub message_path: String,
    /// The end of the log becomes the termination message of a failure that left none.
    pub message_from_log: bool,
    /// It sees the processes of this one.
    pub target: Option<String>,
    /// It was added to a Pod that is there, and no vehicle can do this.
    pub refused: Option<String>,
}

/// Where a container stands in its Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Init,
    Main,
    Ephemeral,
}

impl ContainerWork {
    /// One of its probes.
    pub fn probe(&self, kind: Kind) -> Option<&ProbeWork> {
        match kind {
            Kind::Startup => self.startup.as_ref(),
            Kind::Liveness => self.liveness.as_ref(),
            Kind::Readiness => self.readiness.as_ref(),
        }
    }
}

/// Reads a container. `Err`: the field that this vehicle does not give, or what is wrong with it.
pub(super) fn container(
    container: &Container,
    place: Place,
    pod: &Pod,
    engine: Engine,
    allocatable: &Resources,
) -> Result<ContainerWork, String> {
    check_name(&container.name)?;
    refuse(container, engine)?;
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    let policy = |policy: Option<&str>| match policy {
        Some("Never") => Restart::Never,
        Some("OnFailure") => Restart::OnFailure,
        _ => Restart::Always,
    };
    let own = container.restart_policy.as_deref();
    let role = match (place, own) {
        (Place::Main, _) => Role::Main,
        (Place::Ephemeral, _) => Role::Ephemeral,
        (Place::Init, Some("Always")) => Role::Sidecar,
        (Place::Init, _) => Role::Init,
    };
    let rules = container.restart_policy_rules.iter().flatten();
    let lifecycle = container.lifecycle.as_ref();
    let image = container.image.clone().unwrap_or_default();
    let command = container.command.clone().filter(|command| !command.is_empty());
    let command = match (command, engine) {
        (Some(command), _) => command,
        // A module has no entrypoint of its own: without a command its name is the container's.
        (None, Engine::Wasm) => vec![container.name.clone()],
        (None, Engine::Container) => Vec::new(),
    };
    let resources = container.resources.as_ref();
    let limit = |resource: &str| amount(resources.and_then(|r| r.limits.as_ref()), resource);
    let request = amount(resources.and_then(|r| r.requests.as_ref()), "cpu")?;
    let millis = |quantity: kerbside_core::quantity::Quantity| u64::try_from(quantity.millis()).unwrap_or(0);
    let named = |what: &'static str| move |why: String| format!("{what} {why}");
    Ok(ContainerWork {
        name: container.name.clone(),
        role,
        restart: policy(own.or(spec.restart_policy.as_deref())),
        rules: rules.map(exit_rule).collect::<Result<_, _>>()?,
        post_start: hook(lifecycle.and_then(|l| l.post_start.as_ref()), container)
            .map_err(named("lifecycle.postStart"))?,
        pre_stop: hook(lifecycle.and_then(|l| l.pre_stop.as_ref()), container).map_err(named("lifecycle.preStop"))?,
        startup: probe(container.startup_probe.as_ref(), container).map_err(named("startupProbe"))?,
        liveness: probe(container.liveness_probe.as_ref(), container).map_err(named("livenessProbe"))?,
        readiness: probe(container.readiness_probe.as_ref(), container).map_err(named("readinessProbe"))?,
        pull: pull_policy(container.image_pull_policy.as_deref(), &image),
        command,
        args: container.args.clone().unwrap_or_default(),
        working_dir: container.working_dir.as_deref().map(absolute).transpose()?,
        mounts: mounts(container)?,
        env: Environment::read(container, pod, engine, allocatable)?,
        security: match engine {
            Engine::Wasm => Security::default(),
            Engine::Container => security::security(container, spec)?,
        },
        terminal: Terminal {
            stdin: container.stdin == Some(true),
            stdin_once: container.stdin_once == Some(true),
            tty: container.tty == Some(true),
        },
        memory_limit: limit("memory")?.map(bytes),
        cpu_limit: limit("cpu")?.map(millis),
        cpu_request: request.map_or(0, millis),
        storage_limit: limit("ephemeral-storage")?.map(bytes),
        message_path: absolute(
            container
                .termination_message_path
                .as_deref()
                .unwrap_or("/dev/termination-log"),
        )?,
        message_from_log: container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError"),
        image,
        target: None,
        refused: None,
    })
}

/// Reads a container that was added to look at the Pod. The Pod goes on whatever is wrong with it, so that is told of the container alone.
pub(super) fn ephemeral(
    added: &EphemeralContainer,
    pod: &Pod,
    engine: Engine,
    allocatable: &Resources,
) -> ContainerWork {
    let target = added.target_container_name.clone().filter(|name| !name.is_empty());
    let read = as_container(added).and_then(|own| {
        if engine == Engine::Wasm && target.is_some() {
            let class = engine.runtime_class();
            return Err(format!("targetContainerName is not possible with {class}"));
        }
        container(&own, Place::Ephemeral, pod, engine, allocatable)
    });
    match read {
        Ok(work) => ContainerWork { target, ..work },
        Err(why) => refused(added, why),
    }
}

/// All that both have has the same name in both.
fn as_container(added: &EphemeralContainer) -> Result<Container, String> {
    let value = serde_json::to_value(added).map_err(|e| e.to_string())?;
    serde_json::from_value(value).map_err(|e| e.to_string())
}

/// One that is told and never begins.
fn refused(added: &EphemeralContainer, why: String) -> ContainerWork {
    ContainerWork {
        name: added.name.clone(),
        role: Role::Ephemeral,
        restart: Restart::Never,
        rules: Vec::new(),
        post_start: None,
        pre_stop: None,
        startup: None,
        liveness: None,
        readiness: None,
        image: added.image.clone().unwrap_or_default(),
        pull: PullPolicy::IfNotPresent,
        command: Vec::new(),
        args: Vec::new(),
        env: Environment::default(),
        working_dir: None,
        mounts: Vec::new(),
        security: Security::default(),
        terminal: Terminal::default(),
        memory_limit: None,
        cpu_limit: None,
        cpu_request: 0,
        storage_limit: None,
        message_path: "/dev/termination-log".to_owned(),
        message_from_log: false,
        target: None,
        refused: Some(why),
    }
}

/// What no vehicle gives, and what a program that is no process cannot have: nothing could be run in it, and it listens nowhere.
fn refuse(container: &Container, engine: Engine) -> Result<(), String> {
    let some = |list: Option<usize>| list.is_some_and(|length| length > 0);
    for (set, field) in [
        (some(container.volume_devices.as_ref().map(Vec::len)), "volumeDevices"),
        (
            container
                .ports
                .iter()
                .flatten()
                .any(|port| port.host_port.is_some_and(|port| port != 0)),
            "ports.hostPort",
        ),
    ] {
        if set {
            return Err(format!("{field} is not possible in a vehicle yet"));
        }
    }
    if engine == Engine::Container {
        return Ok(());
    }
    let privileged = container
        .security_context
        .as_ref()
        .is_some_and(|security| security.privileged == Some(true));
    let lifecycle = container.lifecycle.as_ref();
    let post_start = lifecycle.and_then(|lifecycle| lifecycle.post_start.as_ref());
    let pre_stop = lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    for (set, field) in [
        (container.stdin == Some(true), "stdin"),
        (container.tty == Some(true), "tty"),
        (container.liveness_probe.is_some(), "livenessProbe"),
        (container.readiness_probe.is_some(), "readinessProbe"),
        (container.startup_probe.is_some(), "startupProbe"),
        (privileged, "securityContext.privileged"),
        (
            post_start.is_some_and(|hook| hook.sleep.is_none()),
            "lifecycle.postStart other than sleep",
        ),
        (
            pre_stop.is_some_and(|hook| hook.sleep.is_none()),
            "lifecycle.preStop other than sleep",
        ),
    ] {
        if set {
            return Err(format!("{field} is not possible with {}", engine.runtime_class()));
        }
    }
    Ok(())
}

fn exit_rule(rule: &ContainerRestartRule) -> Result<ExitRule, String> {
    let codes = rule.exit_codes.as_ref().filter(|_| rule.action == "Restart");
    let codes = codes.ok_or_else(|| format!("restartPolicyRules: no action {} here", rule.action))?;
    Ok(ExitRule {
        among: codes.operator == "In",
        codes: codes.values.iter().flatten().copied().collect(),
    })
}
