//! Programs that were loaded a short while ago: the next attempt of the same job begins without loading its module again.
//!
//! Asked by [`super::Wasm`] before it loads. What must never happen: an idle car that keeps the code of programs, or one that keeps more of it
//! than [`MOST`].

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Bytes of machine code that are kept. A larger program is loaded each time.
const MOST: usize = 64 << 20;
/// What nobody has started for so long is dropped.
const KEEP: Duration = Duration::from_mins(5);

/// What is kept, by the file of its module. A file of this name never changes: it is named by its digest.
pub(super) struct Recent<P>(Arc<Mutex<State<P>>>);

struct State<P> {
    kept: Vec<Entry<P>>,
    /// Somebody drops what is old.
    swept: bool,
}

struct Entry<P> {
    module: PathBuf,
    program: Arc<P>,
    bytes: usize,
    used: Instant,
}

impl<P> Default for Recent<P> {
    fn default() -> Self {
        let state = State {
            kept: Vec::new(),
            swept: false,
        };
        Self(Arc::new(Mutex::new(state)))
    }
}

fn lock<P>(state: &Mutex<State<P>>) -> MutexGuard<'_, State<P>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<P: Send + Sync + 'static> Recent<P> {
    /// The program of a module, if it is kept.
    pub(super) fn get(&self, module: &Path) -> Option<Arc<P>> {
        let mut state = lock(&self.0);
        let entry = state.kept.iter_mut().find(|entry| entry.module == module)?;
        entry.used = Instant::now();
        Some(Arc::clone(&entry.program))
    }

    /// Keeps a program with so many bytes of code, and drops what was used longest ago if that is too much.
    pub(super) fn put(&self, module: PathBuf, program: Arc<P>, bytes: usize) {
        if bytes > MOST {
            return;
        }
        let mut state = lock(&self.0);
        state.kept.retain(|entry| entry.module != module);
        state.kept.push(Entry {
            module,
            program,
            bytes,
            used: Instant::now(),
        });
        while state.kept.iter().map(|entry| entry.bytes).sum::<usize>() > MOST {
            let oldest = state.kept.iter().enumerate().min_by_key(|(_, entry)| entry.used);
            let Some((oldest, _)) = oldest else { break };
            state.kept.swap_remove(oldest);
        }
        if !std::mem::replace(&mut state.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
    }
}

/// Drops what is old, until nothing is left.
async fn sweep<P>(state: Weak<Mutex<State<P>>>) {
    loop {
        let next = {
            let Some(state) = state.upgrade() else { return };
            let mut state = lock(&state);
            let now = Instant::now();
            state.kept.retain(|entry| entry.used + KEEP > now);
            let Some(oldest) = state.kept.iter().map(|entry| entry.used).min() else {
                state.swept = false;
                return;
            };
            oldest + KEEP
        };
        sleep_until(next).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn of(name: &str) -> PathBuf {
        PathBuf::from(name)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_used_is_kept_and_what_is_not_goes() {
        let recent = Recent::default();
        recent.put(of("a"), Arc::new(1), 10);
        recent.put(of("b"), Arc::new(2), 10);
        tokio::time::sleep(KEEP / 2).await;
        assert_eq!(recent.get(&of("a")).as_deref(), Some(&1));
        tokio::time::sleep(KEEP / 2 + Duration::from_secs(1)).await;
        assert_eq!(lock(&recent.0).kept.len(), 1, "b was not used");
        let program = recent.get(&of("a")).unwrap();
        tokio::time::sleep(KEEP + Duration::from_secs(1)).await;
        assert_eq!(Arc::strong_count(&program), 1, "an idle car keeps nothing");
        // And begins anew.
        recent.put(of("c"), Arc::new(3), 10);
        advance(KEEP / 2).await;
        assert!(recent.get(&of("c")).is_some());
        tokio::time::sleep(KEEP + Duration::from_secs(1)).await;
        assert!(recent.get(&of("c")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_used_longest_ago_makes_room() {
        let recent = Recent::default();
        for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
            recent.put(of(name), Arc::new(number), MOST / 3);
            advance(Duration::from_secs(1)).await;
        }
        recent.get(&of("a")).unwrap();
        recent.put(of("d"), Arc::new(3), MOST / 3);
        assert!(recent.get(&of("b")).is_none());
        assert!(recent.get(&of("a")).is_some() && recent.get(&of("c")).is_some() && recent.get(&of("d")).is_some());
        recent.put(of("large"), Arc::new(4), MOST + 1);
        assert!(recent.get(&of("large")).is_none() && recent.get(&of("d")).is_some());
        recent.put(of("d"), Arc::new(5), MOST / 3);
        assert_eq!(recent.get(&of("d")).as_deref(), Some(&5));
        assert!(recent.get(&of("a")).is_some(), "one module is kept once");
    }
}
