//! Events in a kubelet's words, from what changed between two statuses of an attempt. Pure.
//!
//! Called by the actor for each new status. People and dashboards look for these reasons: Pulling, Pulled, Created, Started,
//! Killing, Failed, BackOff. What the Pod's status in the API already says was told by the adapter that wrote it.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use kerbside_core::names::reason;
use kerbside_link::proto;
use kerbside_link::proto::container_status::State;

use crate::offer::text;

/// One Event to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) warning: bool,
    /// Which container of the Pod it is about, as a kubelet writes it: `spec.containers{NAME}`.
    pub(crate) field_path: Option<String>,
}

fn note(reason: &'static str, message: String) -> Note {
    Note {
        reason,
        message,
        warning: false,
        field_path: None,
    }
}

fn warn(reason: &'static str, message: String) -> Note {
    Note {
        reason,
        message,
        warning: true,
        field_path: None,
    }
}

/// What people are told when `old` becomes `new`.
pub(crate) fn notes(pod: &Pod, old: Option<&proto::AttemptStatus>, new: &proto::AttemptStatus) -> Vec<Note> {
    let find = |status: &proto::AttemptStatus, name: &str| status.containers.iter().find(|c| c.name == name).cloned();
    let about = |(place, c): (&str, &Container)| {
        let status = find(new, &c.name)?;
        let said = old.and_then(|o| find(o, &c.name)).map(|o| Told::by_the_car(&o));
        let told = said.or_else(|| Told::in_the_api(pod, &c.name)).unwrap_or_default();
        let field_path = Some(format!("spec.{place}{{{}}}", c.name));
        Some(container(c, &told, &status).into_iter().map(move |note| Note {
            field_path: field_path.clone(),
            ..note
        }))
    };
    containers(pod).filter_map(about).flatten().collect()
}

/// The containers that start by themselves, each with the name of its list in a Pod's spec.
fn containers(pod: &Pod) -> impl Iterator<Item = (&'static str, &Container)> {
    pod.spec.iter().flat_map(|spec| {
        let init = spec.init_containers.iter().flatten().map(|c| ("initContainers", c));
        init.chain(spec.containers.iter().map(|c| ("containers", c)))
    })
}

/// What people were told of a container before.
#[derive(Debug, Default)]
struct Told {
    pulling: bool,
    pulled: bool,
    started: bool,
    restarts: u32,
    /// Why it waits.
    waiting: String,
    /// Trouble with a probe or a hook.
    trouble: Option<proto::Note>,
}

impl Told {
    fn by_the_car(old: &proto::ContainerStatus) -> Self {
        let waiting = match &old.state {
            Some(State::Waiting(waiting)) => waiting.reason.clone(),
            _ => String::new(),
        };
        Self {
            pulling: true,
            pulled: !old.image_id.is_empty(),
            started: started(old.state.as_ref()),
            restarts: old.restart_count,
            waiting,
            trouble: old.note.clone(),
        }
    }

    /// By an adapter before this one, or by this one before it was started again. A container that waits there was perhaps never told of.
    fn in_the_api(pod: &Pod, name: &str) -> Option<Self> {
        let status = pod.status.as_ref()?;
        let all = [&status.init_container_statuses, &status.container_statuses];
        let of_name = |c: &&ContainerStatus| c.name == name;
        let old = all.into_iter().flatten().flatten().find(of_name)?;
        let state = old.state.clone().unwrap_or_default();
        let pulled = !old.image_id.is_empty();
        Some(Self {
            pulling: pulled,
            pulled,
            started: state.running.is_some() || state.terminated.is_some(),
            restarts: u32::try_from(old.restart_count).unwrap_or_default(),
            waiting: state.waiting.and_then(|w| w.reason).unwrap_or_default(),
            // No status says it: perhaps it is told twice.
            trouble: None,
        })
    }
}

fn started(state: Option<&State>) -> bool {
    matches!(state, Some(State::Running(_) | State::Terminated(_)))
}

fn container(spec: &Container, told: &Told, new: &proto::ContainerStatus) -> Vec<Note> {
    let (name, image) = (&spec.name, spec.image.as_deref().unwrap_or_default());
    let again = new.restart_count > told.restarts;
    let mut notes = Vec::new();
    if !told.pulling && new.image_id.is_empty() && !matches!(new.state, Some(State::Terminated(_))) {
        notes.push(note("Pulling", format!("Pulling image \"{image}\"")));
    }
    if !told.pulled && !new.image_id.is_empty() {
        notes.push(note(
            "Pulled",
            format!("Successfully pulled image \"{image}\" ({})", text(&new.image_id)),
        ));
    }
    if started(new.state.as_ref()) && (!told.started || again) {
        notes.push(note("Created", format!("Created container: {name}")));
        notes.push(note("Started", format!("Started container {name}")));
    }
    if let Some(State::Waiting(w)) = &new.state
        && w.reason != told.waiting
    {
        notes.extend(waiting(name, image, &w.reason, &text(&w.message)));
    }
    if new.note != told.trouble {
        notes.extend(new.note.as_ref().and_then(trouble));
    }
    notes
}

fn trouble(said: &proto::Note) -> Option<Note> {
    let known = ["Unhealthy", "FailedPostStartHook", "FailedPreStopHook"];
    let reason = known.into_iter().find(|known| *known == said.reason)?;
    Some(warn(reason, text(&said.message)))
}

fn waiting(name: &str, image: &str, reason: &str, message: &str) -> Option<Note> {
    match reason {
        "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" | reason::SIGNATURE_VALIDATION_FAILED => {
            Some(warn("Failed", format!("Failed to pull image \"{image}\": {message}")))
        }
        "ImagePullBackOff" => Some(note(
            "BackOff",
            format!("Back-off pulling image \"{image}\": {message}"),
        )),
        "CrashLoopBackOff" => Some(warn(
            "BackOff",
            format!("Back-off restarting failed container {name}: {message}"),
        )),
        "CreateContainerError" | "CreateContainerConfigError" | "RunContainerError" => {
            Some(warn("Failed", format!("Error: {message}")))
        }
        _ => None,
    }
}

/// What people are told when a Pod's containers are being stopped.
pub(crate) fn killing(pod: &Pod) -> Vec<Note> {
    let of_work = containers(pod).filter(|(place, _)| *place == "containers");
    of_work
        .map(|(place, c)| Note {
            field_path: Some(format!("spec.{place}{{{}}}", c.name)),
            ..note("Killing", format!("Stopping container {}", c.name))
        })
        .collect()
}

/// What people are told when two cars take turns with one identity.
pub(crate) fn identity_in_use_twice() -> Note {
    warn(
        "IdentityInUseTwice",
        "Two cars take turns with this vehicle's identity, and neither can work: revoke the Vehicle and enrol each car with a token of its \
         own"
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({"spec": {"containers": [{"name": "main", "image": "reg/x:1"}]}})).unwrap()
    }

    fn status(image_id: &str, restarts: u32, state: State) -> proto::AttemptStatus {
        let container = proto::ContainerStatus {
            name: "main".into(),
            image_id: image_id.into(),
            restart_count: restarts,
            state: Some(state),
            ..proto::ContainerStatus::default()
        };
        proto::AttemptStatus {
            containers: vec![container],
            ..proto::AttemptStatus::default()
        }
    }

    fn waiting(reason: &str) -> State {
        State::Waiting(proto::Waiting {
            reason: reason.into(),
            message: "why".into(),
        })
    }

    fn reasons(old: Option<&proto::AttemptStatus>, new: &proto::AttemptStatus) -> Vec<&'static str> {
        notes(&pod(), old, new).into_iter().map(|n| n.reason).collect()
    }

    #[test]
    fn path_of_an_attempt_is_told_as_a_kubelet_tells_it() {
        let creating = status("", 0, waiting("ContainerCreating"));
        let running = status("reg/x@sha256:1", 0, State::Running(proto::Running::default()));
        let ended = status("reg/x@sha256:1", 0, State::Terminated(proto::Terminated::default()));
        assert_eq!(reasons(None, &creating), ["Pulling"]);
        assert_eq!(reasons(Some(&creating), &running), ["Pulled", "Created", "Started"]);
        assert_eq!(reasons(Some(&running), &running), [""; 0]);
        assert_eq!(reasons(Some(&running), &ended), [""; 0]);
    }

    #[test]
    fn what_the_pod_already_says_is_not_told_again_by_an_adapter_that_was_started_anew() {
        let mut pod = pod();
        let main = |state: serde_json::Value, image_id: &str, restarts: u32| {
            let container = json!({
                "name": "main", "image": "reg/x:1", "imageID": image_id, "ready": true, "restartCount": restarts, "state": state,
            });
            serde_json::from_value(json!({"containerStatuses": [container]})).unwrap()
        };
        let reasons = |pod: &Pod, new: &proto::AttemptStatus| -> Vec<_> {
            notes(pod, None, new).into_iter().map(|n| n.reason).collect()
        };
        let running = |restarts| status("reg/x@sha256:1", restarts, State::Running(proto::Running::default()));
        pod.status = Some(main(json!({"running": {}}), "reg/x@sha256:1", 1));
        assert_eq!(reasons(&pod, &running(1)), [""; 0]);
        assert_eq!(reasons(&pod, &running(2)), ["Created", "Started"]);
        let back_off = status("", 1, waiting("ImagePullBackOff"));
        pod.status = Some(main(json!({"waiting": {"reason": "ImagePullBackOff"}}), "", 1));
        assert_eq!(
            reasons(&pod, &back_off),
            ["Pulling"],
            "of what only waits, it cannot know"
        );
        pod.status = Some(main(json!({"waiting": {"reason": "ContainerCreating"}}), "", 0));
        assert_eq!(reasons(&pod, &running(0)), ["Pulled", "Created", "Started"]);
    }

    #[test]
    fn what_is_told_names_the_container_in_the_pods_spec() {
        let mut pod = pod();
        let spec = pod.spec.as_mut().unwrap();
        let first = serde_json::from_value(json!({"name": "first", "image": "reg/x:1"})).unwrap();
        spec.init_containers = Some(vec![first]);
        let mut creating = status("", 0, waiting("ContainerCreating"));
        let first = proto::ContainerStatus {
            name: "first".into(),
            ..creating.containers[0].clone()
        };
        creating.containers.push(first);
        let told: Vec<_> = notes(&pod, None, &creating)
            .into_iter()
            .map(|n| n.field_path.unwrap())
            .collect();
        assert_eq!(told, ["spec.initContainers{first}", "spec.containers{main}"]);
    }

    #[test]
    fn failed_pull_is_told_once_and_then_as_a_back_off() {
        let creating = status("", 0, waiting("ContainerCreating"));
        let failed = status("", 0, waiting("ErrImagePull"));
        let back_off = status("", 0, waiting("ImagePullBackOff"));
        assert_eq!(reasons(Some(&creating), &failed), ["Failed"]);
        assert_eq!(reasons(Some(&failed), &back_off), ["BackOff"]);
        assert_eq!(reasons(Some(&back_off), &back_off), [""; 0]);
    }

    #[test]
    fn image_without_a_signature_that_counts_is_told_as_one_that_was_not_pulled() {
        let creating = status("", 0, waiting("ContainerCreating"));
        let unsigned = status("", 0, waiting("SignatureValidationFailed"));
        let told = notes(&pod(), Some(&creating), &unsigned);
        let [note] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((note.reason, note.warning), ("Failed", true));
        assert_eq!(note.message, "Failed to pull image \"reg/x:1\": why");
    }

    #[test]
    fn container_started_again_is_told_again() {
        let running = status("i", 0, State::Running(proto::Running::default()));
        let again = status("i", 1, State::Running(proto::Running::default()));
        assert_eq!(reasons(Some(&running), &again), ["Created", "Started"]);
    }

    #[test]
    fn stop_is_told_per_container() {
        let told = Note {
            field_path: Some("spec.containers{main}".into()),
            ..note("Killing", "Stopping container main".into())
        };
        assert_eq!(killing(&pod()), vec![told]);
    }
}
