//! From the Pod that the cluster sent to the work that a car can do: read once, then carried as types.
//!
//! Called for each `Run`. What a car cannot do is refused here, with the field's name, before anything is started: nothing that a Pod
//! asks for is ever ignored if its program could tell the difference.
//!
//! | file | what |
//! |---|---|
//! | `container` | one container |
//! | `env` | its environment |
//! | `given` | what a Pod refers to: ConfigMaps, Secrets, tokens |
//! | `handler` | its probes and hooks |
//! | `path` | names and paths |
//! | `pull` | when an image is fetched |
//! | `security` | who a program is and what it may do |
//! | `shared` | what the containers of a Pod share |
//! | `volume` | volumes and where they are mounted |

mod container;
mod env;
mod given;
mod handler;
mod path;
mod pull;
mod security;
mod shared;
mod volume;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{EphemeralContainer, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use kerbside_core::admission::{InitRequests, PodRequests};
use kerbside_core::attempt::{ContainerPlan, Plan, Role};
use kerbside_core::ids::PodUid;
use kerbside_core::names::{RUNTIME_CLASS_CONTAINER, RUNTIME_CLASS_WASM, reason};
use kerbside_core::owner::Refusal;
use kerbside_core::quantity::{Quantity, Resources};
use kerbside_core::vehicle::DEFAULT_GRACE;
use kerbside_link::proto::Run;

pub use self::container::ContainerWork;
use self::container::Place;
pub use self::env::{Around, expand};
pub use self::given::{Given, config_error};
pub use self::handler::{Handler, HttpGet, ProbeWork};
use self::path::{absolute, check_name};
pub use self::pull::PullPolicy;
pub use self::shared::{Dns, Shared};
pub use self::volume::{File, Mount, VolumeWork};

/// What runs the programs of a Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// WebAssembly, in the agent.
    Wasm,
    /// Containers, in a container engine.
    Container,
}

impl Engine {
    /// As Pods ask for it.
    pub fn runtime_class(self) -> &'static str {
        match self {
            Self::Wasm => RUNTIME_CLASS_WASM,
            Self::Container => RUNTIME_CLASS_CONTAINER,
        }
    }

    fn of(spec: &PodSpec) -> Result<Self, Refusal> {
        match spec.runtime_class_name.as_deref() {
            Some(RUNTIME_CLASS_WASM) => Ok(Self::Wasm),
            None | Some("" | RUNTIME_CLASS_CONTAINER) => Ok(Self::Container),
            Some(other) => {
                let message = format!(
                    "the Pod has runtimeClassName {other}; vehicles know {RUNTIME_CLASS_WASM} and {RUNTIME_CLASS_CONTAINER}"
                );
                Err(Refusal::new(reason::RUNTIME_MISSING, message))
            }
        }
    }
}

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
    /// The Pod itself, for what it says of itself.
    pub pod: Pod,
    /// What runs it.
    pub engine: Engine,
    /// What its containers share.
    pub shared: Shared,
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
}

/// The files that an attempt produces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where, in the first container.
    pub path: String,
    /// No more than this.
    pub max_bytes: u64,
}

impl Work {
    /// Reads a Run. The uid is the caller's, for it names the attempt even when the rest cannot be read. `allocatable` is what the car gives.
    pub fn read(uid: PodUid, run: &Run, allocatable: &Resources) -> Result<Self, Refusal> {
        let pod: Pod = serde_json::from_slice(&run.pod_json)
            .map_err(|e| unsupported(format!("the vehicle cannot read the Pod: {e}")))?;
        let spec = pod
            .spec
            .as_ref()
            .ok_or_else(|| unsupported("the Pod has no spec".to_owned()))?;
        let engine = Engine::of(spec)?;
        check_pod(spec, engine).map_err(unsupported)?;
        let inits = spec.init_containers.iter().flatten().map(|c| (c, Place::Init));
        let containers = inits
            .chain(spec.containers.iter().map(|c| (c, Place::Main)))
            .map(|(c, place)| {
                container::container(c, place, &pod, engine, allocatable)
                    .map_err(|m| unsupported(format!("container {}: {m}", c.name)))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let volumes = spec
            .volumes
            .iter()
            .flatten()
            .map(|v| {
                Ok((
                    v.name.clone(),
                    volume::volume(v, &pod, engine, allocatable)
                        .map_err(|m| unsupported(format!("volume {}: {m}", v.name)))?,
                ))
            })
            .collect::<Result<BTreeMap<_, _>, Refusal>>()?;
        for container in &containers {
            check_mounts(container, &volumes).map_err(|m| unsupported(format!("container {}: {m}", container.name)))?;
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
            engine,
            shared: shared::shared(&pod, engine).map_err(unsupported)?,
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
            pod,
        })
    }

    /// The same with the containers that were added to look at the Pod, if there are any that it does not have. None is ever taken away, as
    /// in the API.
    #[must_use]
    pub fn amended(&self, added: &[EphemeralContainer], allocatable: &Resources) -> Option<Self> {
        let known = |name: &str| self.containers.iter().any(|c| c.name == name);
        let new = added.iter().filter(|c| !known(&c.name));
        // Its name becomes one of a file; the API server lets no other name through.
        let new = new.filter(|c| check_name(&c.name).is_ok());
        let new: Vec<_> = new
            .map(|c| {
                let read = container::ephemeral(c, &self.pod, self.engine, allocatable);
                match check_mounts(&read, &self.volumes) {
                    Ok(()) => read,
                    Err(why) => ContainerWork {
                        refused: Some(why),
                        ..read
                    },
                }
            })
            .collect();
        if new.is_empty() {
            return None;
        }
        let mut work = self.clone();
        work.containers.extend(new);
        Some(work)
    }

    /// The part that the machine needs.
    pub fn plan(&self) -> Plan {
        Plan {
            containers: self.container_plans(),
            grace: self.grace,
            // Its log at least: whoever asks for the log of a Pod that has ended gets it, as from a kubelet.
            upload: true,
            run_unheard_for: self.run_unheard_for,
            once: self.once,
            active_deadline: self.active_deadline,
        }
    }

    /// Of each container, the part that the machine needs.
    pub fn container_plans(&self) -> Vec<ContainerPlan> {
        let plans = self.containers.iter().map(|c| ContainerPlan {
            rules: c.rules.clone(),
            post_start: c.post_start.is_some(),
            pre_stop: c.pre_stop.is_some(),
            startup: c.startup.as_ref().map(|probe| probe.plan),
            liveness: c.liveness.as_ref().map(|probe| probe.plan),
            readiness: c.readiness.as_ref().map(|probe| probe.plan),
            ..ContainerPlan::new(&c.name, c.role, c.restart)
        });
        plans.collect()
    }

    /// Whether it needs what the cluster gives beside the Pod: nothing of it begins before that is there.
    pub fn refers(&self) -> bool {
        let volumes = self
            .volumes
            .values()
            .any(|volume| matches!(volume, VolumeWork::Files(_)));
        let spec = self.pod.spec.as_ref();
        let pulls = spec.is_some_and(|spec| spec.image_pull_secrets.iter().flatten().next().is_some());
        volumes || pulls || self.containers.iter().any(|container| container.env.refers())
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

/// That every volume is there.
fn check_mounts(container: &ContainerWork, volumes: &BTreeMap<String, VolumeWork>) -> Result<(), String> {
    let mut mounts = container.mounts.iter();
    let missing = mounts.find(|mount| !volumes.contains_key(&mount.volume));
    missing.map_or(Ok(()), |mount| Err(format!("no volume {}", mount.volume)))
}

/// Things of the Pod that no vehicle gives, or not with this engine.
fn check_pod(spec: &PodSpec, engine: Engine) -> Result<(), String> {
    let on = |flag: Option<bool>| flag == Some(true);
    for (set, field) in [
        (on(spec.host_network), "hostNetwork"),
        (on(spec.host_pid), "hostPID"),
        (on(spec.host_ipc), "hostIPC"),
        (
            engine == Engine::Wasm && on(spec.share_process_namespace),
            "shareProcessNamespace",
        ),
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

/// The amount of a resource that a container names, if it does.
fn amount(named: Option<&BTreeMap<String, ApiQuantity>>, resource: &str) -> Result<Option<Quantity>, String> {
    let quantity = named.and_then(|named| named.get(resource));
    quantity
        .map(|q| q.0.parse::<Quantity>().map_err(|e| format!("{resource}: {e}")))
        .transpose()
}

fn bytes(quantity: Quantity) -> u64 {
    u64::try_from(quantity.units()).unwrap_or(0)
}

#[cfg(test)]
pub mod tests;
