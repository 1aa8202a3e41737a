//! When the demo interrupts: pure conditions over what has been seen.
//!
//! Called by the demo after every event. Each act comes once, in this order, when the board says that its moment is there.

use super::board::Board;
use super::cast::{CAST, Role};

/// Something that the demo does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Somebody applies the job.
    Apply,
    /// A driver gets in and drives off.
    DriveOff,
    /// An owner pauses the car.
    Pause,
    /// The same owner lets it go on.
    Resume,
}

/// Completions after which the driver comes: the job is in full swing, and most is still to do.
const DRIVE_OFF_AT: u32 = 12;
/// Completions after which the owner pauses the other car.
const PAUSE_AT: u32 = 24;
/// Completions elsewhere while the car is paused: enough to see that the rest goes on.
const PAUSED_FOR: u32 = 4;

impl Act {
    /// For the person who watches.
    pub fn text(self) -> &'static str {
        match self {
            Self::Apply => "kubectl apply -f examples/digits/fleetjob.yaml",
            Self::DriveOff => "bo opens the door, gets in and drives off",
            Self::Pause => "cem runs `kerbside-agent pause` in the car",
            Self::Resume => "cem runs `kerbside-agent resume`",
        }
    }
}

/// How far the script is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Script {
    /// Waiting for the cars.
    #[default]
    Opening,
    /// The job runs.
    Running,
    /// The driver is gone.
    DroveOff,
    /// The other owner has paused, at so many completions.
    Paused(u32),
    /// Nothing more will be done.
    Done,
}

impl Script {
    /// What to do now, if anything; the script has then gone on.
    pub fn next(&mut self, board: &Board) -> Option<Act> {
        let count = board.completed();
        let busy = |role| board.running_on(role) > 0;
        let (then, act) = match *self {
            Self::Opening if board.available() == CAST.iter().filter(|c| c.1.works()).count() => {
                (Self::Running, Act::Apply)
            }
            Self::Running if count >= DRIVE_OFF_AT && busy(Role::DrivesOff) => (Self::DroveOff, Act::DriveOff),
            Self::DroveOff if count >= PAUSE_AT && busy(Role::Pauses) => (Self::Paused(count), Act::Pause),
            Self::Paused(at) if board.paused(Role::Pauses) && count >= at + PAUSED_FOR => (Self::Done, Act::Resume),
            _ => return None,
        };
        *self = then;
        Some(act)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::board::tests::{board, complete, pause, run_on};

    #[test]
    fn job_is_applied_when_every_car_that_can_work_is_there() {
        let mut script = Script::default();
        assert_eq!(script.next(&board(&["ada", "bo", "cem", "dina"])), None);
        let board = board(&["ada", "bo", "cem", "dina", "hana"]);
        assert_eq!(script.next(&board), Some(Act::Apply));
        assert_eq!(script.next(&board), None);
    }

    #[test]
    fn driver_comes_only_while_the_car_works() {
        let mut script = Script::Running;
        let mut board = board(&["bo"]);
        complete(&mut board, DRIVE_OFF_AT);
        assert_eq!(script.next(&board), None);
        run_on(&mut board, "bo");
        assert_eq!(script.next(&board), Some(Act::DriveOff));
    }

    #[test]
    fn owner_resumes_when_the_pause_was_seen_and_others_went_on() {
        let mut script = Script::Paused(30);
        let mut board = board(&["cem"]);
        complete(&mut board, 30 + PAUSED_FOR);
        assert_eq!(script.next(&board), None);
        pause(&mut board, "cem");
        assert_eq!(script.next(&board), Some(Act::Resume));
        assert_eq!(script, Script::Done);
    }
}
