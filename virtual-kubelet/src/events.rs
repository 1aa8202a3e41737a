//! Events in a kubelet's words, from what changed between two statuses of an attempt. Pure.
//!
//! Called by the actor for each new status. People and dashboards look for these reasons: Pulling, Pulled, Created, Started,
//! Killing, Failed, BackOff.

use k8s_openapi::api::core::v1::{Container, Pod};
use kerbside_link::proto;
use kerbside_link::proto::container_status::State;

use crate::offer::text;

/// One Event to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) warning: bool,
}

fn note(reason: &'static str, message: String) -> Note {
    Note {
        reason,
        message,
        warning: false,
    }
}

fn warn(reason: &'static str, message: String) -> Note {
    Note {
        reason,
        message,
        warning: true,
    }
}

/// What people are told when `old` becomes `new`.
pub(crate) fn notes(pod: &Pod, old: Option<&proto::AttemptStatus>, new: &proto::AttemptStatus) -> Vec<Note> {
    let spec = pod
        .spec
        .iter()
        .flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers));
    let find = |status: &proto::AttemptStatus, name: &str| status.containers.iter().find(|c| c.name == name).cloned();
    spec.filter_map(|c| find(new, &c.name).map(|status| (c, status)))
        .flat_map(|(c, status)| container(c, old.and_then(|o| find(o, &c.name)).as_ref(), &status))
        .collect()
}

fn container(spec: &Container, old: Option<&proto::ContainerStatus>, new: &proto::ContainerStatus) -> Vec<Note> {
    let (name, image) = (&spec.name, spec.image.as_deref().unwrap_or_default());
    let old_state = old.and_then(|o| o.state.as_ref());
    let (old_id, old_restarts) = old.map_or(("", 0), |o| (o.image_id.as_str(), o.restart_count));
    let again = new.restart_count > old_restarts;
    let mut notes = Vec::new();
    if old.is_none() && new.image_id.is_empty() && !matches!(new.state, Some(State::Terminated(_))) {
        notes.push(note("Pulling", format!("Pulling image \"{image}\"")));
    }
    if old_id.is_empty() && !new.image_id.is_empty() {
        notes.push(note(
            "Pulled",
            format!("Successfully pulled image \"{image}\" ({})", text(&new.image_id)),
        ));
    }
    let started = |state: Option<&State>| matches!(state, Some(State::Running(_) | State::Terminated(_)));
    if started(new.state.as_ref()) && (!started(old_state) || again) {
        notes.push(note("Created", format!("Created container: {name}")));
        notes.push(note("Started", format!("Started container {name}")));
    }
    let was = match old_state {
        Some(State::Waiting(w)) => w.reason.as_str(),
        _ => "",
    };
    if let Some(State::Waiting(w)) = &new.state
        && w.reason != was
    {
        notes.extend(waiting(name, image, &w.reason, &text(&w.message)));
    }
    notes
}

fn waiting(name: &str, image: &str, reason: &str, message: &str) -> Option<Note> {
    match reason {
        "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => {
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
    let containers = pod.spec.iter().flat_map(|s| &s.containers);
    containers
        .map(|c| note("Killing", format!("Stopping container {}", c.name)))
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
    fn failed_pull_is_told_once_and_then_as_a_back_off() {
        let creating = status("", 0, waiting("ContainerCreating"));
        let failed = status("", 0, waiting("ErrImagePull"));
        let back_off = status("", 0, waiting("ImagePullBackOff"));
        assert_eq!(reasons(Some(&creating), &failed), ["Failed"]);
        assert_eq!(reasons(Some(&failed), &back_off), ["BackOff"]);
        assert_eq!(reasons(Some(&back_off), &back_off), [""; 0]);
    }

    #[test]
    fn container_started_again_is_told_again() {
        let running = status("i", 0, State::Running(proto::Running::default()));
        let again = status("i", 1, State::Running(proto::Running::default()));
        assert_eq!(reasons(Some(&running), &again), ["Created", "Started"]);
    }

    #[test]
    fn stop_is_told_per_container() {
        assert_eq!(killing(&pod()), vec![note("Killing", "Stopping container main".into())]);
    }
}
