//! The programs that run in the car, by their attempts: for who has to end some of them and cannot wait for an actor.
//!
//! Actors bring every program that they start. The policy loop ends those of a class that its owner agrees to no more, right after the outlook
//! says so; their actors, which end them too, may hang on the disk just then. What must never happen: a program of such a class that goes on
//! because of its actor, or one that is ended so and told as if it had ended by itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use kerbside_core::ids::PodUid;

use crate::outlook::{Outlook, Posture};
use crate::runtime::Process;

/// Those of one car.
#[derive(Clone, Default)]
pub struct Living(Arc<Mutex<HashMap<PodUid, Programs>>>);

#[derive(Default)]
struct Programs {
    class: String,
    /// Who holds one is its actor: without that it ends.
    running: Vec<Weak<dyn Process>>,
    ended: bool,
}

impl Living {
    fn lock(&self) -> MutexGuard<'_, HashMap<PodUid, Programs>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A program of this attempt runs from now on, if work of its class may: the outlook may have changed while it was started.
    pub(super) fn add(&self, uid: &PodUid, class: &str, process: &Arc<dyn Process>, outlook: &Outlook) {
        {
            let mut attempts = self.lock();
            let programs = attempts.entry(uid.clone()).or_default();
            class.clone_into(&mut programs.class);
            programs.running.retain(|program| program.strong_count() > 0);
            programs.running.push(Arc::downgrade(process));
        }
        self.end(outlook);
    }

    /// Ends the programs of every class that the owner agrees to no more, in a car that goes on with others. One that leaves has its brake on,
    /// and ends all work in its order. Waits for nothing.
    pub fn end(&self, outlook: &Outlook) {
        if matches!(outlook.posture(), Posture::Leave { .. }) {
            return;
        }
        for programs in self.lock().values_mut() {
            if programs.running.is_empty()
                || matches!(outlook.posture_of(&programs.class), Posture::Run | Posture::Freeze)
            {
                continue;
            }
            for program in programs.running.drain(..).filter_map(|program| program.upgrade()) {
                programs.ended = true;
                // Its end may take a moment, and it has none left to run in.
                program.freeze();
                program.kill();
            }
        }
    }

    /// Whether programs of this attempt were ended here.
    pub(super) fn has_ended(&self, uid: &PodUid) -> bool {
        self.lock().get(uid).is_some_and(|programs| programs.ended)
    }

    /// Nothing of this attempt runs any more, nor will.
    pub(super) fn forget(&self, uid: &PodUid) {
        self.lock().remove(uid);
    }
}
