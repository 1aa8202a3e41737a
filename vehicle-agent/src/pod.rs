//! From the Pod that the cluster sent to the work that a car can do: read once, then carried as types.
//!
//! Called for each `Run`. What a car cannot do is refused here, with the field's name, before anything is started: nothing that a Pod
//! asks for is ever ignored if its program could tell the difference.

mod env;

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ContainerRestartRule, LifecycleHandler, Pod, PodSpec, ResourceRequirements, Volume,
};
use kerbside_core::admission::{InitRequests, PodRequests};
use kerbside_core::attempt::{ContainerPlan, ExitRule, Plan, Restart, Role};
use kerbside_core::ids::PodUid;
use kerbside_core::names::{RUNTIME_CLASS_WASM, reason};
use kerbside_core::owner::Refusal;
use kerbside_core::quantity::{Quantity, Resources};
use kerbside_core::vehicle::DEFAULT_GRACE;
use kerbside_link::proto::Run;

/// One attempt, as far as the car has to know it.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// The attempt.
    pub uid: PodUid,
    /// The Pod's namespace.
    pub namespace: String,
    /// For messages.
    pub name: String,
    /// The job class.
    pub class: String,
    /// The FleetJob, for the log; empty for a plain Pod.
    pub job: String,
    /// Init containers first.
    pub containers: Vec<ContainerWork>,
    /// By name.
    pub volumes: BTreeMap<String, VolumeWork>,
    /// What is sent to the cluster at the end.
    pub output: Option<Output>,
    /// What the Pod takes from the car.
    pub requests: Resources,
    run_unheard_for: Option<Duration>,
    once: bool,
    active_deadline: Option<Duration>,
    /// `spec.priority`: in a departure, lower ones end first.
    pub priority: i32,
    /// `spec.terminationGracePeriodSeconds`: how long its programs may take to end once they are asked.
    pub grace: Duration,
    /// Tokens by registry.
    pub credentials: BTreeMap<String, String>,
}

/// The files that an attempt produces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where, in the first container.
    pub path: String,
    /// No more than this.
    pub max_bytes: u64,
}

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
    pub post_start: Option<Hook>,
    /// What is done before its end.
    pub pre_stop: Option<Hook>,
    /// The image.
    pub image: String,
    /// When it is fetched.
    pub pull: PullPolicy,
    /// The program's name, and its arguments.
    pub args: Vec<String>,
    /// The environment, in order.
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub working_dir: Option<String>,
    /// Its volumes.
    pub mounts: Vec<Mount>,
    /// Bytes.
    pub memory_limit: Option<u64>,
    /// Thousandths of a processor.
    pub cpu_limit: Option<u64>,
    /// Bytes of its own files.
    pub storage_limit: Option<u64>,
    /// The file whose content becomes the termination message.
    pub message_path: String,
    /// The end of the log becomes the termination message of a failure that left none.
    pub message_from_log: bool,
}

/// What is done at one end of a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Nothing, for so long.
    Sleep(Duration),
}

/// A volume at a place in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Which volume.
    pub volume: String,
    /// Where, absolute.
    pub path: String,
    /// No writing.
    pub read_only: bool,
    /// A directory in the volume.
    pub sub_path: Option<String>,
}

/// Where a volume comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeWork {
    /// The files of an OCI artefact, read-only.
    Image {
        /// Which.
        reference: String,
        /// When it is fetched.
        pull: PullPolicy,
    },
    /// An empty directory that ends with the attempt.
    EmptyDir {
        /// Bytes.
        size_limit: Option<u64>,
    },
}

/// When an image is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Ask the registry each time.
    Always,
    /// Only if it is not there.
    IfNotPresent,
    /// Not at all.
    Never,
}

impl Work {
    /// Reads a Run. The uid is the caller's, for it names the attempt even when the rest cannot be read.
    pub fn read(uid: PodUid, run: &Run) -> Result<Self, Refusal> {
        let pod: Pod = serde_json::from_slice(&run.pod_json)
            .map_err(|e| unsupported(format!("the vehicle cannot read the Pod: {e}")))?;
        let spec = pod
            .spec
            .as_ref()
            .ok_or_else(|| unsupported("the Pod has no spec".to_owned()))?;
        check_runtime(spec)?;
        check_pod(spec).map_err(unsupported)?;
        let inits = spec.init_containers.iter().flatten().map(|container| (container, true));
        let containers = inits
            .chain(spec.containers.iter().map(|container| (container, false)))
            .map(|(c, init)| container(c, init, &pod).map_err(|m| unsupported(format!("container {}: {m}", c.name))))
            .collect::<Result<Vec<_>, _>>()?;
        let volumes = spec
            .volumes
            .iter()
            .flatten()
            .map(|v| {
                Ok((
                    v.name.clone(),
                    volume(v).map_err(|m| unsupported(format!("volume {}: {m}", v.name)))?,
                ))
            })
            .collect::<Result<BTreeMap<_, _>, Refusal>>()?;
        for (container, mount) in containers.iter().flat_map(|c| c.mounts.iter().map(move |m| (c, m))) {
            if !volumes.contains_key(&mount.volume) {
                return Err(unsupported(format!(
                    "container {}: no volume {}",
                    container.name, mount.volume
                )));
            }
        }
        let output = match &run.output {
            Some(output) => Some(Output {
                path: absolute(&output.path).map_err(|m| unsupported(format!("output path: {m}")))?,
                max_bytes: output.max_bytes,
            }),
            None => None,
        };
        let metadata = &pod.metadata;
        let label = |key: &str| metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned();
        Ok(Self {
            uid,
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            class: run.class.clone(),
            job: label(kerbside_core::names::label::JOB_NAME).unwrap_or_default(),
            containers,
            volumes,
            output,
            requests: requests(spec).map_err(|m| unsupported(format!("requests: {m}")))?,
            run_unheard_for: (run.run_unheard_for_ms > 0).then(|| Duration::from_millis(run.run_unheard_for_ms)),
            once: run.once,
            active_deadline: spec
                .active_deadline_seconds
                .and_then(|s| u64::try_from(s).ok())
                .map(Duration::from_secs),
            priority: spec.priority.unwrap_or_default(),
            grace: spec
                .termination_grace_period_seconds
                .and_then(|s| u64::try_from(s).ok())
                .map_or(DEFAULT_GRACE, Duration::from_secs),
            credentials: run
                .pull_credentials
                .iter()
                .map(|credential| (credential.registry.clone(), credential.bearer_token.clone()))
                .collect(),
        })
    }

    /// The part that the machine needs.
    pub fn plan(&self) -> Plan {
        let containers = self.containers.iter().map(|c| ContainerPlan {
            rules: c.rules.clone(),
            post_start: c.post_start.is_some(),
            pre_stop: c.pre_stop.is_some(),
            ..ContainerPlan::new(&c.name, c.role, c.restart)
        });
        Plan {
            containers: containers.collect(),
            grace: self.grace,
            upload: self.output.is_some(),
            run_unheard_for: self.run_unheard_for,
            once: self.once,
            active_deadline: self.active_deadline,
        }
    }

    /// The container whose output path counts: the first that is no init container.
    pub fn first_container(&self) -> usize {
        self.containers
            .iter()
            .position(|container| container.role == Role::Main)
            .unwrap_or_default()
    }
}

fn unsupported(message: String) -> Refusal {
    Refusal::new(reason::NOT_SUPPORTED, message)
}

fn check_runtime(spec: &PodSpec) -> Result<(), Refusal> {
    match spec.runtime_class_name.as_deref() {
        Some(RUNTIME_CLASS_WASM) => Ok(()),
        other => {
            let asked = other.map_or_else(
                || "no runtimeClassName".to_owned(),
                |name| format!("runtimeClassName {name}"),
            );
            let message = format!("the Pod has {asked}; this vehicle runs only {RUNTIME_CLASS_WASM}");
            Err(Refusal::new(reason::RUNTIME_MISSING, message))
        }
    }
}

/// Things of the Pod that a WebAssembly program cannot have.
fn check_pod(spec: &PodSpec) -> Result<(), String> {
    let on = |flag: Option<bool>| flag == Some(true);
    for (set, field) in [
        (on(spec.host_network), "hostNetwork"),
        (on(spec.host_pid), "hostPID"),
        (on(spec.host_ipc), "hostIPC"),
        (on(spec.share_process_namespace), "shareProcessNamespace"),
        (
            spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()),
            "resourceClaims",
        ),
        (spec.containers.is_empty(), "an empty list of containers"),
    ] {
        if set {
            return Err(format!("{field} is not possible in a vehicle"));
        }
    }
    Ok(())
}

fn container(container: &Container, init: bool, pod: &Pod) -> Result<ContainerWork, String> {
    check_name(&container.name)?;
    let privileged = container
        .security_context
        .as_ref()
        .is_some_and(|security| security.privileged == Some(true));
    let some = |list: Option<usize>| list.is_some_and(|length| length > 0);
    for (set, field) in [
        (container.liveness_probe.is_some(), "livenessProbe"),
        (container.readiness_probe.is_some(), "readinessProbe"),
        (container.startup_probe.is_some(), "startupProbe"),
        (some(container.env_from.as_ref().map(Vec::len)), "envFrom"),
        (some(container.volume_devices.as_ref().map(Vec::len)), "volumeDevices"),
        (container.stdin == Some(true), "stdin"),
        (container.tty == Some(true), "tty"),
        (privileged, "securityContext.privileged"),
    ] {
        if set {
            return Err(format!("{field} is not supported by {RUNTIME_CLASS_WASM} yet"));
        }
    }
    let policy = |policy: Option<&str>| match policy {
        Some("Never") => Restart::Never,
        Some("OnFailure") => Restart::OnFailure,
        _ => Restart::Always,
    };
    let own = container.restart_policy.as_deref();
    let role = match (init, own) {
        (false, _) => Role::Main,
        (true, Some("Always")) => Role::Sidecar,
        (true, _) => Role::Init,
    };
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    let rules = container.restart_policy_rules.iter().flatten();
    let lifecycle = container.lifecycle.as_ref();
    let image = container.image.clone().unwrap_or_default();
    let env = env::environment(container.env.as_deref().unwrap_or_default(), pod)?;
    let known: BTreeMap<String, String> = env.iter().cloned().collect();
    // A module has no entrypoint of its own: without a command its name is the container's.
    let command = container.command.clone().filter(|command| !command.is_empty());
    let command = command.unwrap_or_else(|| vec![container.name.clone()]);
    let args = command.iter().chain(container.args.iter().flatten());
    let limit = |resource: &str| limit(container.resources.as_ref(), resource);
    Ok(ContainerWork {
        name: container.name.clone(),
        role,
        restart: policy(own.or(of_pod)),
        rules: rules.map(exit_rule).collect::<Result<_, _>>()?,
        post_start: hook(lifecycle.and_then(|l| l.post_start.as_ref()), "postStart")?,
        pre_stop: hook(lifecycle.and_then(|l| l.pre_stop.as_ref()), "preStop")?,
        pull: pull_policy(container.image_pull_policy.as_deref(), &image),
        args: args.map(|arg| env::expand(arg, &known)).collect(),
        env,
        working_dir: container.working_dir.as_deref().map(absolute).transpose()?,
        mounts: container
            .volume_mounts
            .iter()
            .flatten()
            .map(|mount| {
                let expanded = mount.sub_path_expr.as_deref().map(|path| env::expand(path, &known));
                let sub_path = mount.sub_path.clone().or(expanded).filter(|path| !path.is_empty());
                Ok(Mount {
                    volume: mount.name.clone(),
                    path: absolute(&mount.mount_path)?,
                    read_only: mount.read_only == Some(true),
                    sub_path: sub_path.map(|path| inside(&path)).transpose()?,
                })
            })
            .collect::<Result<_, String>>()?,
        memory_limit: limit("memory")?.map(bytes),
        cpu_limit: limit("cpu")?.map(|quantity| u64::try_from(quantity.millis()).unwrap_or(0)),
        storage_limit: limit("ephemeral-storage")?.map(bytes),
        message_path: absolute(
            container
                .termination_message_path
                .as_deref()
                .unwrap_or("/dev/termination-log"),
        )?,
        message_from_log: container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError"),
        image,
    })
}

fn exit_rule(rule: &ContainerRestartRule) -> Result<ExitRule, String> {
    let codes = rule.exit_codes.as_ref().filter(|_| rule.action == "Restart");
    let codes = codes.ok_or_else(|| format!("restartPolicyRules: no action {} here", rule.action))?;
    Ok(ExitRule {
        among: codes.operator == "In",
        codes: codes.values.iter().flatten().copied().collect(),
    })
}

/// A program that is no process has nothing that could be run in it, and listens nowhere.
fn hook(handler: Option<&LifecycleHandler>, name: &str) -> Result<Option<Hook>, String> {
    let Some(handler) = handler else { return Ok(None) };
    match &handler.sleep {
        Some(sleep) => Ok(Some(Hook::Sleep(Duration::from_secs(
            u64::try_from(sleep.seconds).unwrap_or(0),
        )))),
        None => Err(format!(
            "lifecycle.{name} other than sleep is not possible with {RUNTIME_CLASS_WASM}"
        )),
    }
}

fn volume(volume: &Volume) -> Result<VolumeWork, String> {
    check_name(&volume.name)?;
    if let Some(image) = &volume.image {
        let reference = image.reference.clone().unwrap_or_default();
        return Ok(VolumeWork::Image {
            pull: pull_policy(image.pull_policy.as_deref(), &reference),
            reference,
        });
    }
    if let Some(empty) = &volume.empty_dir {
        if empty.medium.as_deref().is_some_and(|medium| !medium.is_empty()) {
            return Err("emptyDir.medium is not possible in a vehicle".to_owned());
        }
        let size_limit = empty
            .size_limit
            .as_ref()
            .map(|q| q.0.parse::<Quantity>().map_err(|e| e.to_string()));
        return Ok(VolumeWork::EmptyDir {
            size_limit: size_limit.transpose()?.map(bytes),
        });
    }
    let kinds = serde_json::to_value(volume).unwrap_or_default();
    let kind = kinds
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .find(|key| *key != "name");
    Err(format!(
        "{} volumes are not supported yet; a vehicle has image and emptyDir",
        kind.unwrap_or("such")
    ))
}

fn requests(spec: &PodSpec) -> Result<Resources, String> {
    let of = |resources: Option<&ResourceRequirements>| -> Result<Resources, String> {
        let requests = resources
            .and_then(|resources| resources.requests.as_ref())
            .into_iter()
            .flatten();
        let parsed = requests.map(|(name, q)| Ok((name.clone(), q.0.parse::<Quantity>().map_err(|e| e.to_string())?)));
        Ok(Resources(parsed.collect::<Result<_, String>>()?))
    };
    let containers = spec
        .containers
        .iter()
        .map(|c| of(c.resources.as_ref()))
        .collect::<Result<_, _>>()?;
    let init_containers = spec
        .init_containers
        .iter()
        .flatten()
        .map(|c| {
            Ok(InitRequests {
                requests: of(c.resources.as_ref())?,
                sidecar: c.restart_policy.as_deref() == Some("Always"),
            })
        })
        .collect::<Result<_, String>>()?;
    let pod = spec
        .resources
        .as_ref()
        .map(|resources| of(Some(resources)))
        .transpose()?;
    PodRequests {
        containers,
        init_containers,
        pod,
        overhead: Resources::default(),
    }
    .effective()
    .map_err(|e| e.to_string())
}

fn limit(resources: Option<&ResourceRequirements>, resource: &str) -> Result<Option<Quantity>, String> {
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let quantity = limits.and_then(|limits| limits.get(resource));
    quantity
        .map(|q| q.0.parse::<Quantity>().map_err(|e| format!("limit of {resource}: {e}")))
        .transpose()
}

fn bytes(quantity: Quantity) -> u64 {
    u64::try_from(quantity.units()).unwrap_or(0)
}

fn pull_policy(policy: Option<&str>, image: &str) -> PullPolicy {
    match policy {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        // The API server's default, should the Pod not come through it.
        _ => {
            let name = image.rsplit('/').next().unwrap_or_default();
            let latest = !image.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
            if latest {
                PullPolicy::Always
            } else {
                PullPolicy::IfNotPresent
            }
        }
    }
}

/// Names become parts of paths.
fn check_name(name: &str) -> Result<(), String> {
    let ok = (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-');
    if ok {
        Ok(())
    } else {
        Err("the name is not a DNS label".to_owned())
    }
}

/// An absolute path without `..`, in its shortest form.
fn absolute(path: &str) -> Result<String, String> {
    if !path.starts_with('/') {
        return Err(format!("'{path}' is not an absolute path"));
    }
    Ok(format!("/{}", inside(path.trim_start_matches('/'))?))
}

/// A relative path without `..`, in its shortest form.
fn inside(path: &str) -> Result<String, String> {
    let mut parts = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(format!("'{path}' must be a path without '..'"));
            }
        }
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
pub mod tests;
