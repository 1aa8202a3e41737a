//! Waiting for conditions, always with a deadline and always with a text that says what was waited for.
//!
//! Called everywhere. There is no waiting for a time to pass anywhere in the testbed: a probe is asked again, or a watch tells.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures::StreamExt;
use kube::Api;
use kube::runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// Between two questions of a probe: short against what is waited for, long against what a probe costs.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks `probe` until it gives something; an error of it ends the waiting.
pub async fn until<T, F, Fut>(what: &str, deadline: Duration, mut probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = probe().await? {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("waited {} s in vain for {what}", deadline.as_secs());
        }
        sleep_until(Instant::now() + PAUSE).await;
    }
}

/// Like [`until`], for a probe whose errors mean "not yet"; the last one becomes the cause when time is up.
pub async fn until_ok<T, F, Fut>(what: &str, deadline: Duration, mut probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let end = Instant::now() + deadline;
    loop {
        match timeout_at(end, probe()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(e)) if Instant::now() >= end => {
                return Err(e.context(format!("waited {} s in vain for {what}", deadline.as_secs())));
            }
            Ok(Err(_)) => sleep_until(Instant::now() + PAUSE).await,
            Err(_) => bail!("waited {} s in vain for {what}: no answer", deadline.as_secs()),
        }
    }
}

/// Watches one object until `condition` gives something. It is asked with `None` while there is no such object.
pub async fn object<K, T, F>(api: &Api<K>, name: &str, what: &str, deadline: Duration, condition: F) -> Result<T>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + serde::Serialize + 'static,
    F: Fn(Option<&K>) -> Option<T>,
{
    let field = format!("metadata.name={name}");
    objects(api, watcher::Config::default().fields(&field), what, deadline, |all| {
        condition(all.first())
    })
    .await
}

/// Watches the objects that `config` selects until `condition` over all of them gives something.
pub async fn objects<K, T, F>(
    api: &Api<K>,
    config: watcher::Config,
    what: &str,
    deadline: Duration,
    condition: F,
) -> Result<T>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + serde::Serialize + 'static,
    F: Fn(&[K]) -> Option<T>,
{
    let end = Instant::now() + deadline;
    let mut stream = Box::pin(watcher(api.clone(), config));
    let mut seen: Vec<K> = Vec::new();
    let mut fresh: Vec<K> = Vec::new();
    let mut listed = false;
    let mut last_error = None;
    loop {
        let event = match timeout_at(end, stream.next()).await {
            Ok(Some(Ok(event))) => event,
            // The watch mends itself; what went wrong is told only if it never did.
            Ok(Some(Err(e))) => {
                last_error = Some(e);
                continue;
            }
            Ok(None) => bail!("the watch ended while waiting for {what}"),
            Err(_) => {
                let state = last_seen(&seen);
                let error = last_error.map_or_else(String::new, |e| format!("; the last error of the watch: {e}"));
                return Err(anyhow!("{state}{error}"))
                    .with_context(|| format!("waited {} s in vain for {what}", deadline.as_secs()));
            }
        };
        match event {
            Event::Init => fresh.clear(),
            Event::InitApply(k) => fresh.push(k),
            Event::InitDone => {
                seen = std::mem::take(&mut fresh);
                listed = true;
            }
            Event::Apply(k) => {
                seen.retain(|s| uid(s) != uid(&k) && s.meta().name != k.meta().name);
                seen.push(k);
            }
            Event::Delete(k) => seen.retain(|s| uid(s) != uid(&k)),
        }
        if listed && let Some(found) = condition(&seen) {
            return Ok(found);
        }
    }
}

fn uid<K: kube::Resource>(k: &K) -> (Option<&str>, Option<&str>) {
    (k.meta().uid.as_deref(), k.meta().namespace.as_deref())
}

/// What there was, short enough to read: name and status of each.
fn last_seen<K: kube::Resource + serde::Serialize>(seen: &[K]) -> String {
    if seen.is_empty() {
        return "there was no such object".into();
    }
    let lines = seen.iter().take(20).map(|k| {
        let status = serde_json::to_value(k)
            .ok()
            .and_then(|v| v.get("status").map(ToString::to_string));
        let name = k.meta().name.clone().unwrap_or_default();
        format!("{name}: {}", status.unwrap_or_else(|| "no status".into()))
    });
    format!("last seen: {}", lines.collect::<Vec<_>>().join("\n  "))
}

/// Waits until `condition` gives something for what a task of one's own keeps writing down.
pub async fn seen<S, T>(
    seen: &watch::Receiver<S>,
    what: &str,
    deadline: Duration,
    condition: impl Fn(&S) -> Option<T>,
) -> Result<T> {
    let mut seen = seen.clone();
    let found = timeout(deadline, async {
        loop {
            let found = condition(&seen.borrow_and_update());
            if let Some(found) = found {
                return anyhow::Ok(found);
            }
            seen.changed().await.context("the watch ended")?;
        }
    });
    found
        .await
        .with_context(|| format!("waited {} s in vain for {what}", deadline.as_secs()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn until_past_the_deadline_says_what_was_waited_for() {
        let error = until("rain", Duration::from_secs(3), || async { Ok(None::<()>) })
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "waited 3 s in vain for rain");
    }

    #[tokio::test(start_paused = true)]
    async fn until_ok_past_the_deadline_keeps_the_last_error() {
        let error = until_ok("rain", Duration::from_secs(1), || async {
            Err::<(), _>(anyhow!("dry"))
        })
        .await;
        assert_eq!(format!("{:#}", error.unwrap_err()), "waited 1 s in vain for rain: dry");
    }

    #[tokio::test(start_paused = true)]
    async fn until_ok_with_a_probe_that_hangs_still_ends() {
        let error = until_ok("rain", Duration::from_secs(1), || async {
            std::future::pending::<()>().await;
            Ok(())
        });
        assert!(error.await.unwrap_err().to_string().contains("no answer"));
    }
}
