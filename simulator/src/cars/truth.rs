//! What really happened in the cars, written down where it happened.
//!
//! Written by simulated programs, read by whoever judges a run: what the cluster believes is held against this. It has no part in any
//! decision. What must never happen: a program that runs and is not in it.

use std::sync::{Arc, Mutex, PoisonError};

use kerbside_core::clock::Clock;
use serde::Serialize;

/// One thing that happened to a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fact {
    /// When, in milliseconds since 1970: comparable with what the cluster writes.
    pub at_ms: i64,
    /// In which car of the lot.
    pub car: u32,
    /// In which attempt: the Pod's uid.
    pub attempt: String,
    /// Which completion index the program was told, if it was.
    pub index: Option<u32>,
    /// What.
    pub what: Happened,
    /// How long the program had worked by then, in milliseconds of ours: without the time in which it was frozen.
    pub worked_ms: u64,
}

/// What can happen to a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Happened {
    /// It begins.
    Started,
    /// It is over, with this exit code.
    Ended(i32),
}

/// The book; clones are the same.
#[derive(Debug, Clone)]
pub struct Truth {
    clock: Arc<dyn Clock>,
    facts: Arc<Mutex<Vec<Fact>>>,
}

impl Truth {
    /// An empty one, with times of this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            facts: Arc::default(),
        }
    }

    pub(super) fn note(&self, car: u32, attempt: &str, index: Option<u32>, what: Happened, worked_ms: u64) {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        facts.push(Fact {
            at_ms: self.clock.wall().as_millisecond(),
            car,
            attempt: attempt.to_owned(),
            index,
            what,
            worked_ms,
        });
    }

    /// All of it so far, in the order in which it was written.
    pub fn facts(&self) -> Vec<Fact> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
