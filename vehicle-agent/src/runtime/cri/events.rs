//! What the engine tells by itself: something has happened to a container, go and look.
//!
//! One stream for all containers of a car. What it says is only a reason to ask: a lost event is made up for by the next look. An engine
//! that does not tell (containerd before 1.7) is asked more often.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::client::Engine;

/// Between two looks at a container whose engine tells, and at one whose engine does not.
const LOOK: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(100));
const RETRY: Duration = Duration::from_secs(1);

/// Who waits for news of which container.
#[derive(Debug, Clone, Default)]
pub(super) struct Wakes {
    waiting: Arc<Mutex<HashMap<String, Arc<Notify>>>>,
    /// The stream is open.
    told: Arc<AtomicBool>,
}

impl Wakes {
    /// Waits for news of a container from now on, until what is returned is dropped.
    pub(super) fn of(&self, container: &str) -> Wake {
        let news = Arc::new(Notify::new());
        self.lock().insert(container.to_owned(), Arc::clone(&news));
        Wake {
            wakes: self.clone(),
            container: container.to_owned(),
            news,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Notify>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, container: &str) {
        if let Some(news) = self.lock().get(container) {
            news.notify_one();
        }
    }

    /// Something may have been missed.
    fn wake_all(&self) {
        self.lock().values().for_each(|news| news.notify_one());
    }
}

/// One who waits.
#[derive(Debug)]
pub(super) struct Wake {
    wakes: Wakes,
    container: String,
    news: Arc<Notify>,
}

impl Wake {
    /// News, or enough time without any that it is better to look.
    pub(super) async fn news(&self) {
        let wait = if self.wakes.told.load(Ordering::Relaxed) {
            LOOK.0
        } else {
            LOOK.1
        };
        tokio::select! {
            () = self.news.notified() => {}
            () = sleep(wait) => {}
        }
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.wakes.lock().remove(&self.container);
    }
}

/// Listens for ever; returns if the engine does not tell.
pub(super) async fn listen(engine: Engine, wakes: Wakes) {
    loop {
        match engine.container_events().await {
            Ok(mut stream) => {
                wakes.told.store(true, Ordering::Relaxed);
                wakes.wake_all();
                while let Ok(Some(event)) = stream.message().await {
                    wakes.wake(&event.container_id);
                }
                wakes.told.store(false, Ordering::Relaxed);
            }
            Err(error) if error.is_unimplemented() => {
                tracing::info!("the container engine does not tell of its containers; they are looked at instead");
                return;
            }
            Err(error) => tracing::debug!(%error, "the container engine does not tell of its containers yet"),
        }
        sleep(RETRY).await;
    }
}
