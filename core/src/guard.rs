//! The guard of a car: a second, small process that ends the agent, and with it every program, if a fence passes and the agent does not act.
//!
//! Called by the guard's process, whose only input is what the agent tells it and two clocks. The agent ends an attempt at its fence
//! by itself; the guard is for an agent that is stopped, stuck or starved, and for a machine that slept: programs that wake up
//! after their fence may have been replaced elsewhere. What must never happen: something runs after a sleep before the fence was
//! looked at; something is ended whose fence has not passed.
//!
//! | what | effects |
//! |---|---|
//! | the machine slept | Freeze, then Kill if the fence has passed, else Thaw |
//! | the fence and the agent's time to act have passed | Kill |
//! | the agent tells of another fence | |

use std::time::Duration;

use crate::clock::Boottime;

/// What the agent has for ending an attempt at its fence by itself. With it, and the moment that a kill takes, the guard stays inside
/// [`crate::vehicle::FENCE_MARGIN`].
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The two clocks are read one after the other; what differs by less is no sleep.
const SLEPT: Duration = Duration::from_millis(500);

/// Both clocks, read at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_BOOTTIME`, which goes on while the machine sleeps.
    pub boot: Boottime,
    /// `CLOCK_MONOTONIC`, which does not.
    pub awake: Duration,
}

impl Now {
    /// How long the machine has slept since its start.
    fn slept(self) -> Duration {
        self.boot.0.saturating_sub(self.awake)
    }
}

/// What the guard knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    fence: Option<Boottime>,
    slept: Duration,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The agent says which fence comes first; None: nothing runs that has one.
    Told(Option<Boottime>),
    /// Time has passed.
    Tick,
}

/// What has to be done to the agent and all that runs in it, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Take the processor from it.
    Freeze,
    /// Give it back.
    Thaw,
    /// End it.
    Kill,
}

impl Guard {
    /// A guard that was told nothing yet.
    pub fn new(now: Now) -> Self {
        Self {
            fence: None,
            slept: now.slept(),
        }
    }

    /// When it has to look again by itself.
    pub fn deadline(&self) -> Option<Boottime> {
        self.fence.map(|fence| fence + PATIENCE)
    }
}

/// What the guard knows then, and what it has to do.
pub fn step(mut guard: Guard, event: Event, now: Now) -> (Guard, Vec<Effect>) {
    let mut effects = Vec::new();
    let woke = now.slept() > guard.slept + SLEPT;
    guard.slept = now.slept();
    if woke {
        effects.push(Effect::Freeze);
    }
    if let Event::Told(fence) = event {
        guard.fence = fence;
    }
    // Nobody could act while the machine slept, and the cluster did not wait: patience is for an agent that is awake.
    let patience = if woke { Duration::ZERO } else { PATIENCE };
    if guard.fence.is_some_and(|fence| now.boot >= fence + patience) {
        guard.fence = None;
        effects.push(Effect::Kill);
    } else if woke {
        effects.push(Effect::Thaw);
    }
    (guard, effects)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now(boot_ms: u64, slept_ms: u64) -> Now {
        Now {
            boot: at(boot_ms),
            awake: Duration::from_millis(boot_ms - slept_ms),
        }
    }

    fn at(ms: u64) -> Boottime {
        Boottime(Duration::from_millis(ms))
    }

    /// A guard that knows of a fence at ten seconds.
    fn armed() -> Guard {
        step(Guard::new(now(1000, 0)), Event::Told(Some(at(10_000))), now(1000, 0)).0
    }

    #[test]
    fn agent_that_does_not_act_on_a_fence_is_ended_inside_the_margin() {
        let (guard, effects) = step(armed(), Event::Tick, now(11_900, 0));
        assert!(effects.is_empty(), "the agent has time to act");
        assert_eq!(guard.deadline(), Some(at(12_000)));
        let (guard, effects) = step(guard, Event::Tick, now(12_000, 0));
        assert_eq!(effects, [Effect::Kill]);
        assert_eq!(guard.deadline(), None);
        assert!(PATIENCE < crate::vehicle::FENCE_MARGIN);
    }

    #[test]
    fn agent_that_moves_the_fence_or_has_none_is_left_alone() {
        let (guard, effects) = step(armed(), Event::Told(Some(at(30_000))), now(11_000, 0));
        assert!(effects.is_empty());
        let (guard, effects) = step(guard, Event::Tick, now(20_000, 0));
        assert!(effects.is_empty());
        let (guard, effects) = step(guard, Event::Told(None), now(21_000, 0));
        assert!(effects.is_empty());
        assert_eq!(step(guard, Event::Tick, now(99_000, 0)).1, []);
    }

    #[test]
    fn after_a_sleep_everything_is_frozen_before_anything_else() {
        // Slept past the fence: nobody waits for the agent.
        let (_, effects) = step(armed(), Event::Tick, now(10_500, 9000));
        assert_eq!(effects, [Effect::Freeze, Effect::Kill]);
        // And before it.
        let (guard, effects) = step(armed(), Event::Tick, now(9000, 7000));
        assert_eq!(effects, [Effect::Freeze, Effect::Thaw]);
        assert_eq!(step(guard, Event::Tick, now(9500, 7000)).1, [], "one sleep counts once");
    }

    #[test]
    fn what_the_agent_said_before_a_sleep_and_is_read_after_it_counts() {
        let (_, effects) = step(armed(), Event::Told(Some(at(60_000))), now(20_000, 15_000));
        assert_eq!(effects, [Effect::Freeze, Effect::Thaw]);
    }

    #[derive(Debug, Clone, Copy)]
    enum Move {
        Awake(u64),
        Asleep(u64),
        Fence(Option<u64>),
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            (0u64..4000).prop_map(Move::Awake),
            (0u64..60_000).prop_map(Move::Asleep),
            prop::option::of(0u64..40_000).prop_map(Move::Fence),
        ];
        prop::collection::vec(one, 0..60)
    }

    proptest! {
        /// Looking at least as often as asked to: nothing runs later than the patience after a fence, nothing is ended before its fence,
        /// and what is frozen is thawed or ended in the same step.
        #[test]
        fn fence_is_kept_whatever_the_clocks_do(moves in moves()) {
            let (mut boot, mut slept) = (1000u64, 0u64);
            let mut guard = Guard::new(now(boot, slept));
            let mut fence: Option<Boottime> = None;
            for one in moves {
                let mut event = Event::Tick;
                match one {
                    Move::Awake(ms) => {
                        // It is woken when it asked to be.
                        let due = guard.deadline().map_or(u64::MAX, |at| u64::try_from(at.0.as_millis()).unwrap());
                        boot = (boot + ms).min(due.max(boot));
                    }
                    Move::Asleep(ms) => (boot, slept) = (boot + ms, slept + ms),
                    Move::Fence(after) => {
                        fence = after.map(|ms| at(boot + ms));
                        event = Event::Told(fence);
                    }
                }
                let (next, effects) = step(guard, event, now(boot, slept));
                guard = next;
                match effects.as_slice() {
                    [] => {}
                    [Effect::Freeze, Effect::Thaw] => {}
                    [Effect::Kill] | [Effect::Freeze, Effect::Kill] => {
                        prop_assert!(fence.is_some_and(|fence| at(boot) >= fence), "ended before its fence");
                        fence = None;
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
                prop_assert!(fence.is_none_or(|fence| at(boot) < fence + PATIENCE), "still runs after its fence");
            }
        }
    }
}
