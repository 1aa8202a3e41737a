//! What the cluster is told of an attempt, and what the owner is told.

use kerbside_core::attempt::{Attempt, Container, Exit, Kind, Life, Role, State};
use kerbside_core::names::reason;
use kerbside_link::proto;
use kerbside_link::proto::container_status::State as ContainerState;

use crate::control::Held;
use crate::pod::{ContainerWork, Work};
use crate::runtime::Usage;

/// The message for an attempt as it is now. `work` is missing for one that could not be read.
pub(super) fn status(uid: &str, attempt: &Attempt, work: Option<&Work>, usage: Usage) -> proto::AttemptStatus {
    let containers = work.map_or(&[][..], |work| &work.containers);
    let (phase, reason, message) = phase(attempt, containers);
    proto::AttemptStatus {
        uid: uid.to_owned(),
        revision: attempt.revision,
        phase: phase.into(),
        reason,
        message,
        containers: containers
            .iter()
            .zip(&attempt.containers)
            .map(|(work, container)| proto::ContainerStatus {
                name: work.name.clone(),
                image: work.image.clone(),
                image_id: container.image_id.clone(),
                restart_count: restarts(container),
                ready: ready(work.role, container, attempt.frozen),
                // As the kubelet, which says it of an init container only if it stays.
                started: Some(!matches!(work.role, Role::Init | Role::Ephemeral) && container.started),
                last: container.last.as_ref().map(terminated),
                note: container.note.as_ref().map(|note| proto::Note {
                    reason: note.reason.clone(),
                    message: note.message.clone(),
                }),
                state: Some(container_state(container)),
            })
            .collect(),
        stopped: attempt.is_stopped(),
        usage: Some(proto::Usage {
            cpu_ms: usage.cpu_ms,
            memory_peak_bytes: usage.memory_peak,
        }),
        started_at_ms: attempt.started_ms,
    }
}

/// The same for the owner of the car. A Pod that could not be read has no better name than its uid.
pub(super) fn held(status: &proto::AttemptStatus, run: &proto::Run, work: Option<&Work>) -> Held {
    use proto::AttemptPhase as Phase;
    let state = match status.phase() {
        Phase::Unspecified | Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Frozen => "Frozen",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
        Phase::Disrupted => "Disrupted",
        Phase::Refused => "Refused",
    };
    Held {
        pod: work.map_or_else(
            || status.uid.clone(),
            |work| format!("{}/{}", work.namespace, work.name),
        ),
        job: work.map(|work| work.job.clone()).unwrap_or_default(),
        class: run.class.clone(),
        images: status.containers.iter().map(|c| c.image.clone()).collect(),
        state: state.to_owned(),
        reason: status.reason.clone(),
    }
}

fn phase(attempt: &Attempt, containers: &[ContainerWork]) -> (proto::AttemptPhase, String, String) {
    use proto::AttemptPhase as Phase;
    let said = |phase, reason: &str, message: &str| (phase, reason.to_owned(), message.to_owned());
    // Who only looks at the Pod does not make it run.
    let own = attempt.containers.iter().zip(containers);
    let mut own = own.filter(|(_, work)| work.role != Role::Ephemeral).map(|(c, _)| c);
    let started =
        own.any(|c| c.restarts > 0 || matches!(c.life, Life::Starting | Life::Running { .. } | Life::Terminated(_)));
    match &attempt.state {
        State::Ended { outcome } => {
            let phase = match outcome.kind {
                Kind::Succeeded => Phase::Succeeded,
                Kind::Failed => Phase::Failed,
                Kind::Disrupted => Phase::Disrupted,
                Kind::Refused => Phase::Refused,
            };
            said(phase, &outcome.reason, &outcome.message)
        }
        State::Uploading { .. } => said(
            Phase::Running,
            "UploadingOutput",
            "the program has ended; its output is on the way to the cluster",
        ),
        State::Stopping { outcome, .. } => said(Phase::Running, &outcome.reason, &outcome.message),
        State::Active if started && attempt.frozen => said(
            Phase::Frozen,
            reason::VEHICLE_PAUSED,
            "somebody is at the vehicle; the program stands still",
        ),
        State::Active if started => said(Phase::Running, "", ""),
        State::Active | State::Waiting | State::Admitted => said(Phase::Pending, "", ""),
    }
}

/// As the kubelet, which counts a restart when it happens, and not while it is waited for.
fn restarts(container: &Container) -> u32 {
    let waits = matches!(container.life, Life::Waiting { .. } | Life::Preparing | Life::Starting);
    container.restarts.saturating_sub(u32::from(waits))
}

/// As the kubelet: an init container is ready when it has succeeded, another one while it runs and says so.
fn ready(role: Role, container: &Container, frozen: bool) -> bool {
    match &container.life {
        Life::Terminated(exit) => role == Role::Init && exit.code == 0,
        Life::Running { .. } => !matches!(role, Role::Init | Role::Ephemeral) && !frozen && container.is_ready(),
        _ => false,
    }
}

fn container_state(container: &Container) -> ContainerState {
    match &container.life {
        Life::Waiting { reason, message, .. } => ContainerState::Waiting(proto::Waiting {
            reason: reason.clone(),
            message: message.clone(),
        }),
        Life::Preparing | Life::Starting => ContainerState::Waiting(proto::Waiting {
            reason: "ContainerCreating".to_owned(),
            message: String::new(),
        }),
        Life::Running { started_ms, .. } => ContainerState::Running(proto::Running {
            started_at_ms: *started_ms,
        }),
        Life::Terminated(exit) => ContainerState::Terminated(terminated(exit)),
    }
}

fn terminated(exit: &Exit) -> proto::Terminated {
    proto::Terminated {
        exit_code: exit.code,
        signal: 0,
        reason: exit.reason.clone(),
        message: exit.message.clone(),
        started_at_ms: exit.started_ms,
        finished_at_ms: exit.finished_ms,
    }
}
