//! Container statuses: what the car says of each container, in the order of the spec, with a kubelet's words where it says
//! nothing.
//!
//! Called by `pod_status::build`. A container that ended stays ended; a container of an ended Pod is never shown as running.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    EphemeralContainer, Pod, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kerbside_core::vehicle::PodReport;
use kerbside_link::proto;
use kerbside_link::proto::container_status::State;

use super::{Around, whole_seconds};
use crate::offer::{text, word};

/// What a kubelet gives for a container that was killed.
const KILLED: i32 = 137;

pub(super) fn fill(
    status: &mut PodStatus,
    pod: &Pod,
    report: &PodReport,
    car: Option<&proto::AttemptStatus>,
    around: Around<'_>,
) {
    let Some(spec) = &pod.spec else { return };
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let fill = Fill {
        uid,
        report,
        car,
        around,
        initializing: spec.init_containers.as_ref().is_some_and(|i| !i.is_empty()),
    };
    let of = |containers: &[Container], old: Option<Vec<ContainerStatus>>, place| {
        let old = old.unwrap_or_default();
        containers
            .iter()
            .map(|c| fill.one(c, old.iter().find(|o| o.name == c.name), place))
            .collect::<Vec<_>>()
    };
    if let Some(init) = &spec.init_containers {
        status.init_container_statuses = Some(of(init, status.init_container_statuses.take(), Place::Init));
    }
    status.container_statuses = Some(of(&spec.containers, status.container_statuses.take(), Place::Main));
    if let Some(added) = &spec.ephemeral_containers {
        let added: Vec<_> = added.iter().map(named).collect();
        let old = status.ephemeral_container_statuses.take();
        status.ephemeral_container_statuses = Some(of(&added, old, Place::Ephemeral));
    }
}

/// As much of a container that was added as its status needs.
fn named(added: &EphemeralContainer) -> Container {
    Container {
        name: added.name.clone(),
        image: added.image.clone(),
        ..Container::default()
    }
}

/// Where a container stands in its Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Init,
    Main,
    Ephemeral,
}

struct Fill<'a> {
    uid: &'a str,
    report: &'a PodReport,
    car: Option<&'a proto::AttemptStatus>,
    around: Around<'a>,
    initializing: bool,
}

impl Fill<'_> {
    fn one(&self, container: &Container, old: Option<&ContainerStatus>, place: Place) -> ContainerStatus {
        let said = self
            .car
            .and_then(|car| car.containers.iter().find(|c| c.name == container.name));
        let mut status = match (said, old) {
            // What ended before us stays; what the car says last of a Pod that others ended is still worth having.
            (Some(said), old) if old.is_none_or(|o| !ended(o) || restarted(o, said)) => {
                self.said(container, said, old, place)
            }
            (_, Some(old)) => old.clone(),
            (_, None) => self.unsaid(container, place),
        };
        if let Some(refusal) = &self.report.refused
            && status.state.as_ref().is_some_and(|s| s.waiting.is_some())
        {
            status.state = Some(waiting(&refusal.reason, &refusal.message));
        }
        if self.report.phase.is_terminal() {
            self.end(&mut status, place);
        }
        status
    }

    fn said(
        &self,
        container: &Container,
        said: &proto::ContainerStatus,
        old: Option<&ContainerStatus>,
        place: Place,
    ) -> ContainerStatus {
        let state = match &said.state {
            Some(State::Waiting(w)) => waiting(&word(&w.reason), &text(&w.message)),
            Some(State::Running(r)) => ContainerState {
                running: Some(ContainerStateRunning {
                    started_at: time(r.started_at_ms),
                }),
                ..ContainerState::default()
            },
            Some(State::Terminated(t)) => ContainerState {
                terminated: Some(self.terminated(container, t)),
                ..ContainerState::default()
            },
            None => waiting("ContainerCreating", ""),
        };
        let running = state.running.is_some();
        let begun = running || state.terminated.is_some() || said.restart_count > 0;
        let last_state = old.and_then(|o| {
            let again = i64::from(said.restart_count) > i64::from(o.restart_count);
            let ended = o.state.clone().filter(|s| again && s.terminated.is_some());
            ended.or_else(|| o.last_state.clone())
        });
        let said_last = said.last.as_ref().map(|t| ContainerState {
            terminated: Some(self.terminated(container, t)),
            ..ContainerState::default()
        });
        ContainerStatus {
            name: container.name.clone(),
            image: if said.image.is_empty() {
                image(container)
            } else {
                text(&said.image)
            },
            image_id: text(&said.image_id),
            container_id: begun.then(|| self.id(container)),
            // An init container that has ended well is ready; one that stays is while it runs.
            ready: said.ready
                && match place {
                    Place::Main => running,
                    Place::Init => running || state.terminated.is_some(),
                    Place::Ephemeral => false,
                },
            restart_count: i32::try_from(said.restart_count).unwrap_or(i32::MAX),
            started: started(running && said.started.unwrap_or(place == Place::Main), place),
            state: Some(state),
            last_state: said_last.or(last_state).or_else(|| Some(ContainerState::default())),
            ..old.cloned().unwrap_or_default()
        }
    }

    fn unsaid(&self, container: &Container, place: Place) -> ContainerStatus {
        let reason = match place {
            Place::Init => "PodInitializing",
            Place::Main if self.initializing => "PodInitializing",
            Place::Main | Place::Ephemeral => "ContainerCreating",
        };
        ContainerStatus {
            name: container.name.clone(),
            image: image(container),
            started: started(false, place),
            state: Some(waiting(reason, "")),
            last_state: Some(ContainerState::default()),
            ..ContainerStatus::default()
        }
    }

    fn terminated(&self, container: &Container, said: &proto::Terminated) -> ContainerStateTerminated {
        let reason = word(&said.reason);
        let default = if said.exit_code == 0 { "Completed" } else { "Error" };
        ContainerStateTerminated {
            exit_code: said.exit_code,
            signal: (said.signal != 0).then_some(said.signal),
            reason: Some(if reason.is_empty() { default.to_owned() } else { reason }),
            message: Some(text(&said.message)).filter(|m| !m.is_empty()),
            started_at: time(said.started_at_ms),
            finished_at: time(said.finished_at_ms).or_else(|| Some(whole_seconds(self.around.now))),
            container_id: Some(self.id(container)),
        }
    }

    /// In an ended Pod nothing runs. A container that the car has not accounted for ended at the last moment the car was heard.
    fn end(&self, status: &mut ContainerStatus, place: Place) {
        status.ready = false;
        status.started = started(false, place);
        let Some(running) = status.state.as_ref().and_then(|s| s.running.as_ref()) else {
            return;
        };
        let reason = self.report.reason.clone().filter(|r| !r.is_empty());
        let terminated = ContainerStateTerminated {
            exit_code: KILLED,
            reason: Some(reason.unwrap_or_else(|| "ContainerStatusUnknown".to_owned())),
            message: self.report.message.clone(),
            started_at: running.started_at.clone(),
            finished_at: Some(whole_seconds(self.around.heard_at)),
            container_id: status.container_id.clone(),
            ..ContainerStateTerminated::default()
        };
        status.state = Some(ContainerState {
            terminated: Some(terminated),
            ..ContainerState::default()
        });
    }

    fn id(&self, container: &Container) -> String {
        format!("kerbside://{}/{}", self.uid, container.name)
    }
}

/// Nobody asks a container that was added how it is, so nothing is said of that, as by the kubelet.
fn started(started: bool, place: Place) -> Option<bool> {
    (place != Place::Ephemeral).then_some(started)
}

fn image(container: &Container) -> String {
    container.image.clone().unwrap_or_default()
}

fn ended(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.terminated.is_some())
}

fn restarted(old: &ContainerStatus, said: &proto::ContainerStatus) -> bool {
    i64::from(said.restart_count) > i64::from(old.restart_count) || matches!(said.state, Some(State::Terminated(_)))
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    let waiting = ContainerStateWaiting {
        reason: some(reason),
        message: some(message),
    };
    ContainerState {
        waiting: Some(waiting),
        ..ContainerState::default()
    }
}

/// A time by the car's clock, shown to people only.
fn time(milliseconds: i64) -> Option<Time> {
    if milliseconds <= 0 {
        return None;
    }
    Timestamp::from_millisecond(milliseconds).ok().map(whole_seconds)
}
