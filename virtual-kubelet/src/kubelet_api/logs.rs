//! What of a log is asked for, and the logs of ended attempts from the store.
//!
//! The options are the kubelet's, with its checks. A stored log is plain text without times: of an ended attempt, `sinceTime` decides by
//! when its container ended, and `timestamps` has nothing to show.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kerbside_core::clock::Clock;
use kerbside_core::names::store::{attempt_file, attempt_manifest};
use kerbside_k8s::store::{Store, StoreError};
use kerbside_link::fault::Fault;
use kerbside_link::proto::ReadLogs;
use serde::Deserialize;

/// What of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LogOptions {
    pub(crate) follow: bool,
    pub(crate) previous: bool,
    pub(crate) timestamps: bool,
    pub(crate) tail_lines: Option<i64>,
    pub(crate) limit_bytes: Option<i64>,
    pub(crate) since_seconds: Option<i64>,
    pub(crate) since_time: Option<Timestamp>,
}

/// Options that make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionsError {
    #[error("{option}={value}: this cannot be read; {expected}")]
    Unreadable {
        option: String,
        value: String,
        expected: &'static str,
    },
    #[error("{option}: {why}")]
    Invalid { option: &'static str, why: &'static str },
}

impl LogOptions {
    /// Reads a query string, as kube-apiserver sends it.
    pub(crate) fn parse(query: &str) -> Result<Self, OptionsError> {
        let mut options = Self::default();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let unreadable = |expected| OptionsError::Unreadable {
                option: key.to_string(),
                value: value.to_string(),
                expected,
            };
            let flag = || match value.as_ref() {
                "" | "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(unreadable("true or false")),
            };
            let number = || value.parse::<i64>().map(Some).map_err(|_| unreadable("a whole number"));
            match key.as_ref() {
                "follow" => options.follow = flag()?,
                "previous" => options.previous = flag()?,
                "timestamps" => options.timestamps = flag()?,
                "tailLines" => options.tail_lines = number()?,
                "limitBytes" => options.limit_bytes = number()?,
                "sinceSeconds" => options.since_seconds = number()?,
                "sinceTime" => {
                    let time = value
                        .parse()
                        .map_err(|_| unreadable("a time such as 2026-01-31T12:00:00Z"))?;
                    options.since_time = Some(time);
                }
                // A newer kube-apiserver may know more; what is not known changes nothing.
                _ => {}
            }
        }
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<(), OptionsError> {
        let invalid = |option, why| Err(OptionsError::Invalid { option, why });
        if self.tail_lines.is_some_and(|n| n < 0) {
            return invalid("tailLines", "must be 0 or more");
        }
        if self.limit_bytes.is_some_and(|n| n < 1) {
            return invalid("limitBytes", "must be 1 or more");
        }
        if self.since_seconds.is_some_and(|n| n < 1) {
            return invalid("sinceSeconds", "must be 1 or more");
        }
        if self.since_seconds.is_some() && self.since_time.is_some() {
            return invalid("sinceTime", "give sinceTime or sinceSeconds, not both");
        }
        Ok(())
    }

    /// The question to the car.
    pub(crate) fn request(&self, uid: String, container: String) -> ReadLogs {
        ReadLogs {
            request_id: String::new(),
            uid,
            container,
            follow: self.follow,
            timestamps: self.timestamps,
            previous: self.previous,
            tail_lines: self.tail_lines,
            since_time_ms: self.since_time.map(Timestamp::as_millisecond),
            limit_bytes: self.limit_bytes,
            since_ms: self.since_seconds.map(|s| s.saturating_mul(1000)),
        }
    }

    /// Everything older than this is not wanted.
    fn since(&self, now: Timestamp) -> Option<Timestamp> {
        let seconds = self
            .since_seconds
            .map(|s| Timestamp::from_second(now.as_second().saturating_sub(s)).unwrap_or(now));
        self.since_time.or(seconds)
    }
}

/// The logs of ended attempts.
pub(crate) struct StoredLogs {
    store: Store,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(default)]
    logs: Vec<File>,
}

#[derive(Debug, Deserialize)]
struct File {
    path: String,
    sha256: String,
}

impl StoredLogs {
    pub(crate) fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// The container's log; None: there is none in the store.
    pub(crate) async fn read(
        &self,
        pod: &Pod,
        container: &str,
        options: &LogOptions,
    ) -> Result<Option<BoxStream<'static, Result<Bytes, Fault>>>, Fault> {
        let (Some(namespace), Some(uid)) = (&pod.metadata.namespace, &pod.metadata.uid) else {
            return Ok(None);
        };
        let manifest = match self.store.get(&attempt_manifest(namespace, uid)).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(unavailable(&error)),
        };
        let manifest: Manifest =
            serde_json::from_slice(&manifest).map_err(|_| Fault::internal("the attempt's manifest cannot be read"))?;
        let Some(file) = manifest.logs.into_iter().find(|f| f.path == container) else {
            return Ok(None);
        };
        if options.previous {
            let message = format!("previous terminated container \"{container}\" not found: only the last log is kept");
            return Err(Fault::invalid(message));
        }
        if let (Some(since), Some(ended)) = (options.since(self.clock.wall()), ended_at(pod, container))
            && ended < since
        {
            return Ok(Some(futures::stream::empty().boxed()));
        }
        let path = attempt_file(namespace, uid, &file.sha256);
        let skip = match options.tail_lines {
            Some(tail) => self.start_of_tail(&path, tail).await?,
            None => 0,
        };
        let (_, stream) = self.store.get_stream(&path).await.map_err(|e| unavailable(&e))?;
        let left = options
            .limit_bytes
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or(u64::MAX);
        Ok(Some(part(
            stream.map(|piece| piece.map_err(|e| unavailable(&e))).boxed(),
            skip,
            left,
        )))
    }

    /// The offset of the first of the last `tail` lines.
    async fn start_of_tail(&self, path: &str, tail: i64) -> Result<u64, Fault> {
        let (_, mut stream) = self.store.get_stream(path).await.map_err(|e| unavailable(&e))?;
        let tail = usize::try_from(tail).unwrap_or(usize::MAX);
        // The starts of the last lines; one more, as a log that ends with a newline has an empty rest.
        let mut starts = std::collections::VecDeque::from([0_u64]);
        let mut at = 0_u64;
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|e| unavailable(&e))?;
            for (i, _) in piece.iter().enumerate().filter(|(_, b)| **b == b'\n') {
                starts.push_back(at + i as u64 + 1);
                if starts.len() > tail.saturating_add(1) {
                    starts.pop_front();
                }
            }
            at += piece.len() as u64;
        }
        if starts.back() == Some(&at) {
            starts.pop_back();
        }
        let from = starts.len().saturating_sub(tail);
        Ok(starts.get(from).copied().unwrap_or(at))
    }
}

/// Of a stream, what comes after `skip` bytes, and at most `left`.
fn part(
    stream: BoxStream<'static, Result<Bytes, Fault>>,
    skip: u64,
    left: u64,
) -> BoxStream<'static, Result<Bytes, Fault>> {
    let cut = futures::stream::unfold((stream, skip, left), |(mut stream, mut skip, left)| async move {
        loop {
            if left == 0 {
                return None;
            }
            let mut piece = match stream.next().await? {
                Ok(piece) => piece,
                Err(fault) => return Some((Err(fault), (stream, 0, 0))),
            };
            let drop = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            skip -= drop as u64;
            let _ = piece.split_to(drop);
            piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            if !piece.is_empty() {
                let left = left - piece.len() as u64;
                return Some((Ok(piece), (stream, skip, left)));
            }
        }
    });
    cut.boxed()
}

fn ended_at(pod: &Pod, container: &str) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let mut all = status
        .container_statuses
        .iter()
        .flatten()
        .chain(status.init_container_statuses.iter().flatten());
    let found = all.find(|c| c.name == container)?;
    found
        .state
        .as_ref()?
        .terminated
        .as_ref()?
        .finished_at
        .as_ref()
        .map(|t| t.0)
}

fn unavailable(error: &StoreError) -> Fault {
    tracing::warn!(%error, "a stored log cannot be read");
    Fault::unavailable("the store is not reachable; try again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestClock;
    use serde_json::json;

    #[test]
    fn options_of_kubectl_are_read() {
        let options =
            LogOptions::parse("follow=true&tailLines=5&timestamps=true&limitBytes=10&sinceSeconds=3&stream=All")
                .unwrap();
        let request = options.request("u".into(), "main".into());
        assert!(request.follow && request.timestamps && !request.previous);
        assert_eq!(
            (request.tail_lines, request.limit_bytes, request.since_ms),
            (Some(5), Some(10), Some(3000))
        );
        let time = LogOptions::parse("sinceTime=2026-11-23T12%3A00%3A00Z").unwrap();
        assert_eq!(
            time.request(String::new(), String::new()).since_time_ms,
            Some(1_795_435_200_000)
        );
    }

    #[rstest::rstest]
    #[case("tailLines=x", "tailLines=x: this cannot be read; a whole number")]
    #[case("follow=maybe", "follow=maybe: this cannot be read; true or false")]
    #[case("tailLines=-1", "tailLines: must be 0 or more")]
    #[case("limitBytes=0", "limitBytes: must be 1 or more")]
    #[case("sinceSeconds=0", "sinceSeconds: must be 1 or more")]
    #[case(
        "sinceSeconds=1&sinceTime=2026-11-23T12:00:00Z",
        "sinceTime: give sinceTime or sinceSeconds, not both"
    )]
    fn options_that_make_no_sense_are_refused(#[case] query: &str, #[case] message: &str) {
        assert_eq!(LogOptions::parse(query).unwrap_err().to_string(), message);
    }

    async fn stored(text: &str) -> (tempfile::TempDir, StoredLogs, Pod) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("file://{}", directory.path().display())).unwrap();
        let manifest =
            json!({"uid": "u", "files": [], "logs": [{"path": "main", "size": 0, "sha256": "aa"}]}).to_string();
        store
            .put("ns/attempts/u/manifest.json", Bytes::from(manifest))
            .await
            .unwrap();
        store
            .put("ns/attempts/u/aa", Bytes::from(text.to_owned()))
            .await
            .unwrap();
        let pod = json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "status": {"containerStatuses": [{
                "name": "main", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                "state": {"terminated": {"exitCode": 0, "finishedAt": "2026-11-23T11:59:00Z"}},
            }]},
        });
        let clock: Arc<dyn Clock> = Arc::new(TestClock::default());
        (
            directory,
            StoredLogs::new(store, clock),
            serde_json::from_value(pod).unwrap(),
        )
    }

    async fn text(query: &str, log: &str) -> String {
        let (_directory, logs, pod) = stored(log).await;
        let options = LogOptions::parse(query).unwrap();
        let stream = logs.read(&pod, "main", &options).await.unwrap().unwrap();
        let pieces: Vec<Bytes> = stream.map(Result::unwrap).collect().await;
        String::from_utf8(pieces.concat()).unwrap()
    }

    #[rstest::rstest]
    #[case("", "1\n2\n3\n", "1\n2\n3\n")]
    #[case("tailLines=2", "1\n2\n3\n", "2\n3\n")]
    #[case("tailLines=2", "1\n2\n3", "2\n3")]
    #[case("tailLines=9", "1\n2\n3\n", "1\n2\n3\n")]
    #[case("tailLines=0", "1\n2\n3\n", "")]
    #[case("tailLines=0", "", "")]
    #[case("limitBytes=3", "1\n2\n3\n", "1\n2")]
    #[case("tailLines=2&limitBytes=1", "1\n2\n3\n", "2")]
    #[case::ended_before("sinceSeconds=30", "1\n", "")]
    #[case::ended_since("sinceSeconds=90", "1\n", "1\n")]
    #[tokio::test]
    async fn stored_log_is_given_in_part(#[case] query: &str, #[case] log: &str, #[case] expected: &str) {
        assert_eq!(text(query, log).await, expected);
    }

    #[tokio::test]
    async fn stored_log_of_a_container_without_one_is_none_and_an_earlier_run_is_not_kept() {
        let (_directory, logs, pod) = stored("1\n").await;
        assert!(
            logs.read(&pod, "other", &LogOptions::default())
                .await
                .unwrap()
                .is_none()
        );
        let previous = LogOptions {
            previous: true,
            ..LogOptions::default()
        };
        let fault = logs.read(&pod, "main", &previous).await.map(drop).unwrap_err();
        assert!(fault.message().contains("previous terminated container"));
    }
}
