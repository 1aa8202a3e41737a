//! What an attempt is made of, and what is kept of it.
//!
//! Values only. `Record` is what a journal keeps, so its shape is a file format: fields may be added,
//! never changed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::probe;

/// What an attempt is made of, beside what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Init containers first, in their order, then the others in theirs, then those that were added to look at the Pod: the list may grow.
    pub containers: Vec<ContainerPlan>,
    /// The Pod's `terminationGracePeriodSeconds`: how long a container may take that is ended for a failed probe, and a sidecar when the
    /// last container that counts has ended.
    pub grace: Duration,
    /// Whether output and logs are sent to the cluster when the attempt has ended.
    pub upload: bool,
    /// Unheard for this long, the attempt is stopped.
    pub run_unheard_for: Option<Duration>,
    /// It may run once only at a time: heard is what an adapter has acknowledged that can prove itself.
    pub once: bool,
    /// The Pod's `activeDeadlineSeconds`.
    pub active_deadline: Option<Duration>,
}

/// One container of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPlan {
    /// Its name.
    pub name: String,
    /// What it is to its Pod.
    pub role: Role,
    /// Whether it is started again: its own `restartPolicy`, or else the Pod's. A sidecar always is.
    pub restart: Restart,
    /// Exits after which it is started again whatever `restart` says.
    pub rules: Vec<ExitRule>,
    /// It has a `lifecycle.postStart`.
    pub post_start: bool,
    /// It has a `lifecycle.preStop`.
    pub pre_stop: bool,
    /// Its `startupProbe`.
    pub startup: Option<probe::Plan>,
    /// Its `livenessProbe`.
    pub liveness: Option<probe::Plan>,
    /// Its `readinessProbe`.
    pub readiness: Option<probe::Plan>,
}

impl ContainerPlan {
    /// A container without hooks and probes.
    pub fn new(name: &str, role: Role, restart: Restart) -> Self {
        Self {
            name: name.to_owned(),
            role,
            restart,
            rules: Vec::new(),
            post_start: false,
            pre_stop: false,
            startup: None,
            liveness: None,
            readiness: None,
        }
    }

    /// The probe of one kind.
    pub fn probe(&self, kind: probe::Kind) -> Option<&probe::Plan> {
        match kind {
            probe::Kind::Startup => self.startup.as_ref(),
            probe::Kind::Liveness => self.liveness.as_ref(),
            probe::Kind::Readiness => self.readiness.as_ref(),
        }
    }

    /// Whether it is started again after `exit`, as long as its Pod goes on. One that was ended for a failed probe is, whatever its exit,
    /// unless it never is.
    pub fn restarts(&self, exit: &Exit, by_probe: bool) -> bool {
        let well = exit.code == 0;
        match (self.role, self.restart) {
            (Role::Ephemeral, _) => false,
            (Role::Sidecar, _) => true,
            (Role::Main, restart) if by_probe => restart != Restart::Never,
            (Role::Init, _) if well => false,
            _ if self.rules.iter().any(|rule| rule.fits(exit.code)) => true,
            (_, Restart::Never) => false,
            (_, Restart::OnFailure) | (Role::Init, Restart::Always) => !well,
            (Role::Main, Restart::Always) => true,
        }
    }
}

/// What a container is to its Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It must end well before the next one starts.
    Init,
    /// It must have started before the next one does, and stays until the containers that count have ended: an init container whose
    /// `restartPolicy` is `Always`.
    Sidecar,
    /// Its end counts.
    Main,
    /// Added to a Pod that is there, to look at it. It waits for nobody and nobody waits for it, it is never started again, and its end says
    /// nothing of the Pod.
    Ephemeral,
}

impl Role {
    /// Whether the attempt has not ended before it has.
    pub fn counts(self) -> bool {
        matches!(self, Self::Init | Self::Main)
    }
}

/// Whether a container that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Never.
    Never,
    /// After a failure.
    OnFailure,
    /// Always, except init containers that succeeded.
    Always,
}

/// One of a container's `restartPolicyRules`; its action is always Restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitRule {
    /// `In`; else `NotIn`.
    pub among: bool,
    /// The exit codes.
    pub codes: Vec<i32>,
}

impl ExitRule {
    fn fits(&self, code: i32) -> bool {
        self.codes.contains(&code) == self.among
    }
}

/// How one run of a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// As in a container: 0 is success, 137 killed.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError` and the like.
    pub reason: String,
    /// The termination message.
    pub message: String,
    /// Wall clock, milliseconds; equal to `finished_ms` if it never started.
    pub started_ms: i64,
    /// Wall clock, milliseconds.
    pub finished_ms: i64,
}

/// Why a container could not be made ready; the words are the kubelet's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReady {
    /// `ErrImagePull`, `InvalidImageName`, `CreateContainerConfigError` and the like.
    pub reason: String,
    /// What to say between two tries, if not the same: `ImagePullBackOff`.
    pub meanwhile: Option<String>,
    /// What is wrong.
    pub message: String,
    /// Whether another try can help.
    pub retry: bool,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Whose doing it was.
    pub kind: Kind,
    /// A word in CamelCase; may be empty for success.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// Whose doing the end of an attempt was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// The program ended well and its output is stored.
    Succeeded,
    /// The program ended badly, or broke a limit of its Pod.
    Failed,
    /// The car or the cluster ended it.
    Disrupted,
    /// It was declined before it started.
    Refused,
}

impl Outcome {
    /// An outcome in one line.
    pub fn new(kind: Kind, reason: &str, message: impl Into<String>) -> Self {
        Self {
            kind,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// What a journal keeps of an attempt: enough for an agent that was killed at any instant to say what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The last revision that may have been told.
    pub revision: u64,
    /// The outcome, once the program has ended; else it was alive or about to be.
    pub outcome: Option<Outcome>,
    /// Nothing is left to be done but telling it.
    pub ended: bool,
    /// Wall clock, milliseconds.
    pub started_ms: i64,
    /// In the order of the plan.
    pub containers: Vec<ContainerRecord>,
}

impl Record {
    /// The end that an agent says at once that starts and finds this; `None`: it sends an output first, and another end may come of that.
    pub fn end(&self) -> Option<Kind> {
        match &self.outcome {
            Some(outcome) => self.ended.then_some(outcome.kind),
            None => Some(Kind::Disrupted),
        }
    }
}

/// What a journal keeps of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRecord {
    /// The image with the digest that is run.
    pub image_id: String,
    /// How often it was started again.
    pub restarts: u32,
    /// Wall clock, milliseconds, if it was alive.
    pub running_since_ms: Option<i64>,
    /// How it ended, if it did.
    pub exit: Option<Exit>,
    /// How its run before ended.
    pub last: Option<Exit>,
}
