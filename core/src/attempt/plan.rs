//! What an attempt is made of, and what one container of it has been through.
//!
//! Values only; [`super::step`] changes them. `Record` is what a journal keeps, so its shape is a file format: fields may be added,
//! never changed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Boottime;

/// The parts of an attempt that never change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Init containers first, in their order, then the others in theirs.
    pub containers: Vec<ContainerPlan>,
    /// The Pod's `restartPolicy`.
    pub restart: Restart,
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
    /// Whether it must end before the next one starts.
    pub init: bool,
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

/// Where one container stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// Not begun, or between two tries.
    Waiting {
        /// For `ContainerStateWaiting`.
        reason: String,
        /// For `ContainerStateWaiting`.
        message: String,
        /// When it is tried again; `None`: when its turn comes, or never.
        retry_at: Option<Boottime>,
        /// The reason that replaces `reason` at the moment: `ErrImagePull` becomes `ImagePullBackOff`.
        meanwhile: Option<(Boottime, String)>,
        /// Its image and volumes are there.
        prepared: bool,
    },
    /// Image and volumes are being made ready.
    Preparing,
    /// It was told to start.
    Starting,
    /// It runs, or is frozen.
    Running {
        /// For the reset of the restart back-off.
        since: Boottime,
        /// Wall clock, milliseconds.
        started_ms: i64,
    },
    /// It ended and is not started again.
    Terminated(Exit),
}

/// One container of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Where it stands.
    pub life: Life,
    /// The image with the digest that is run; empty before it is known.
    pub image_id: String,
    /// How often it was started again.
    pub restarts: u32,
    /// How its last run before this one ended.
    pub last: Option<Exit>,
    /// Tries in a row that failed: the exponent of the back-off.
    pub failures: u32,
}

impl Container {
    /// A container whose turn has not come.
    pub fn new() -> Self {
        Self {
            life: Life::waiting("ContainerCreating"),
            image_id: String::new(),
            restarts: 0,
            last: None,
            failures: 0,
        }
    }

    /// Whether a process of it may be alive.
    pub fn is_alive(&self) -> bool {
        matches!(self.life, Life::Starting | Life::Running { .. })
    }
}

impl Default for Container {
    fn default() -> Self {
        Self::new()
    }
}

impl Life {
    /// Waiting for its turn.
    pub fn waiting(reason: &str) -> Self {
        Self::Waiting {
            reason: reason.to_owned(),
            message: String::new(),
            retry_at: None,
            meanwhile: None,
            prepared: false,
        }
    }
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
