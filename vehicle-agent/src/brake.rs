//! The car's brake: while it is on, no program gets any processor time, and no byte of one leaves the car. And who pulls it when nobody looks.
//!
//! The policy loop sets it with each look at the car, and is the only one that releases it; whatever runs programs or moves their bytes follows
//! it. A loop that hangs, on a disk, or because others hang on every thread that it could run on, cannot pull it: then [`watch`] does, from a
//! thread of its own, as for a signal that is not said any more. What must never happen: programs that run while nobody looks at the car, or a
//! brake that somebody else than a look releases.
//!
//! | what | the brake |
//! |---|---|
//! | a look: work may go on | off |
//! | a look: it may not | on |
//! | no look for [`PATIENCE`] | on, until the next look; that one judges the car by nothing that was said before |
//! | a computer that slept for so long | the same, and nobody is told that the agent hung |

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use kerbside_core::clock::{Boottime, Clock};
use tokio::sync::watch;

/// A loop that has not looked for so long does not notice who comes to the car. It is as old as a signal may be before it counts as unknown,
/// unless the maker says otherwise (`parked.staleAfter`), and three looks have been missed by then: the loop looks every 0.9 seconds even when
/// nothing is heard.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks at whether the loop looks.
const LOOK: Duration = Duration::from_millis(250);
/// Of the thread that does: it writes a few small files of the kernel's, and no more.
const STACK: usize = 256 << 10;

/// The brake, in the hand of the policy loop. Without one it is on.
#[derive(Debug)]
pub struct Brake {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    on: watch::Sender<bool>,
    looks: Mutex<Looks>,
}

#[derive(Debug, Default)]
struct Looks {
    /// When somebody looked last, and how long the computer had been awake by then.
    last: Option<(Boottime, Duration)>,
    /// Nobody looked for too long, and no look has come since.
    pulled: bool,
    /// Nor did anybody while the computer was awake for too long.
    hung: bool,
}

/// Why nobody looked at the car, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// The loop hung.
    Hung(Duration),
    /// The computer slept, and nothing is wrong with the agent.
    Slept(Duration),
}

impl Inner {
    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Brake {
    /// One that is on: nobody has looked yet.
    pub fn pulled() -> Self {
        let inner = Inner {
            on: watch::Sender::new(true),
            looks: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// For whoever follows it.
    pub fn follow(&self) -> watch::Receiver<bool> {
        self.inner.on.subscribe()
    }

    /// For whoever watches that somebody looks.
    pub fn watched(&self) -> Watched {
        Watched(Arc::downgrade(&self.inner))
    }

    /// The loop looks at the car now, in a computer that has been awake for so long. Returns for how long nobody has, if the brake was pulled for it.
    pub fn looks(&self, now: Boottime, awake: Duration) -> Option<Missed> {
        let mut looks = self.inner.looks();
        let before = looks.last.replace((now, awake));
        let (pulled, hung) = (std::mem::take(&mut looks.pulled), std::mem::take(&mut looks.hung));
        let (before, _) = before.filter(|_| pulled)?;
        let lasted = now.since(before);
        Some(if hung {
            Missed::Hung(lasted)
        } else {
            Missed::Slept(lasted)
        })
    }

    /// What the look has found. A brake that was pulled since that look began stays on until the next.
    pub fn set(&self, on: bool) {
        let looks = self.inner.looks();
        let on = on || looks.pulled;
        self.inner
            .on
            .send_if_modified(|known| std::mem::replace(known, on) != on);
    }
}

/// Watches one loop, and does not keep it.
#[derive(Debug, Clone)]
pub struct Watched(Weak<Inner>);

impl Watched {
    /// Pulls the brake if nobody has looked for too long; whether it was pulled just now. `None`: the loop is gone.
    pub fn look(&self, now: Boottime, awake: Duration) -> Option<bool> {
        let inner = self.0.upgrade()?;
        let mut looks = inner.looks();
        // Before the first look the brake is on.
        let nobody_looks = looks.last.is_some_and(|(last, _)| now.since(last) > PATIENCE);
        let hung = looks
            .last
            .is_some_and(|(_, last)| awake.saturating_sub(last) > PATIENCE);
        looks.hung |= hung;
        if !nobody_looks || std::mem::replace(&mut looks.pulled, true) {
            return Some(false);
        }
        inner.on.send_if_modified(|on| !std::mem::replace(on, true));
        Some(true)
    }
}

/// Watches from a thread of its own, as long as there is a loop. `pulled` is called after each pull, for who follows the brake by a task that
/// may get no thread; it must not wait for a disk, and nothing here writes to the log: the loop says it when it is back.
pub fn watch(watched: Watched, clock: Arc<dyn Clock>, pulled: impl Fn() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new()
        .name("brake".to_owned())
        .stack_size(STACK)
        .spawn(move || {
            while let Some(now_pulled) = watched.look(clock.boottime(), clock.awake()) {
                if now_pulled {
                    pulled();
                }
                std::thread::sleep(LOOK);
            }
        })
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Boottime {
        Boottime(Duration::from_millis(ms))
    }

    #[test]
    fn brake_of_a_loop_that_looks_does_what_the_loop_says() {
        let brake = Brake::pulled();
        let (on, watched) = (brake.follow(), brake.watched());
        assert_eq!(
            (watched.look(at(60_000), at(60_000).0), *on.borrow()),
            (Some(false), true)
        );
        for ms in (0..60_000).step_by(900) {
            assert_eq!(brake.looks(at(ms), at(ms).0), None);
            brake.set(false);
            assert_eq!(
                (watched.look(at(ms + 899), at(ms + 899).0), *on.borrow()),
                (Some(false), false)
            );
        }
        brake.set(true);
        assert!(*on.borrow());
    }

    #[test]
    fn loop_that_does_not_look_has_its_brake_pulled_once_and_only_a_look_releases_it() {
        let brake = Brake::pulled();
        let (on, watched) = (brake.follow(), brake.watched());
        brake.looks(at(1000), at(1000).0);
        brake.set(false);
        assert_eq!((watched.look(at(4000), at(4000).0), *on.borrow()), (Some(false), false));
        assert_eq!((watched.look(at(4001), at(4001).0), *on.borrow()), (Some(true), true));
        assert_eq!(watched.look(at(5000), at(5000).0), Some(false), "once");
        // The look that hung says what it had found before.
        brake.set(false);
        assert!(*on.borrow(), "what was found before it was pulled counts no more");
        assert_eq!(
            brake.looks(at(9000), at(9000).0),
            Some(Missed::Hung(Duration::from_secs(8)))
        );
        brake.set(false);
        assert!(!*on.borrow());
        assert_eq!(brake.looks(at(9100), at(9100).0), None, "it is told once");
    }

    #[test]
    fn computer_that_sleeps_has_its_brake_pulled_and_is_not_taken_for_a_loop_that_hangs() {
        let brake = Brake::pulled();
        let (on, watched) = (brake.follow(), brake.watched());
        brake.looks(at(1000), at(1000).0);
        brake.set(false);
        assert_eq!(
            (watched.look(at(3_601_000), at(1100).0), *on.borrow()),
            (Some(true), true)
        );
        let slept = Missed::Slept(Duration::from_secs(3600));
        assert_eq!(brake.looks(at(3_601_000), at(1100).0), Some(slept));
        brake.set(false);
        // And then it hangs: of that nothing is owed to sleep.
        watched.look(at(3_605_000), at(5100).0);
        let hung = Missed::Hung(Duration::from_secs(4));
        assert_eq!(brake.looks(at(3_605_000), at(5100).0), Some(hung));
    }

    #[test]
    fn loop_that_is_gone_leaves_its_brake_on_and_is_watched_no_more() {
        let brake = Brake::pulled();
        let (on, watched) = (brake.follow(), brake.watched());
        drop(brake);
        assert_eq!((watched.look(at(0), at(0).0), on.has_changed().is_err()), (None, true));
    }

    /// By real time, for the thread has no other: a loop that hangs on all threads that there are.
    #[test]
    fn thread_of_its_own_pulls_though_nothing_else_gets_to_run() {
        #[derive(Debug)]
        struct Later;
        impl Clock for Later {
            fn boottime(&self) -> Boottime {
                at(60_000)
            }
            fn wall(&self) -> jiff::Timestamp {
                jiff::Timestamp::UNIX_EPOCH
            }
        }
        let brake = Brake::pulled();
        brake.looks(at(0), at(0).0);
        brake.set(false);
        let on = brake.follow();
        let (tell, told) = std::sync::mpsc::channel();
        let pulled = move || {
            // The test may be over.
            let _ = tell.send(*on.borrow());
        };
        watch(brake.watched(), Arc::new(Later), pulled).unwrap();
        assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(true));
    }
}
