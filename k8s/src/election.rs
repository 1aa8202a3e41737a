//! Leader election on a Lease: at most one replica works at a time.
//!
//! Called by the operator's `run`. Expiry is judged on the observer's own clock, from the moment it saw the Lease *change*, so
//! skewed wall clocks do no harm. A leader that cannot renew for [`RENEW_DEADLINE`] stops being one before anybody else may take
//! over. Losing the claim is final for the process: its `run` ends and a fresh one starts, so that no half-done work of a
//! former leader goes on.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kerbside_core::clock::Clock;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::{BRIEFLY, insist_for};

/// A Lease not renewed for this long may be taken over.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for this long gives up; shorter than [`LEASE_DURATION`], so that two never overlap.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two tries, to renew or to take over.
pub const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// What a follower knows of the Lease: who held it, and when it last saw it change.
#[derive(Debug, Clone)]
struct Seen {
    version: Option<String>,
    at: Instant,
}

/// What to do with the Lease as it is now. Pure, so that every case is a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Renew,
    TakeOver,
    Wait,
}

fn decide(holder: Option<&str>, me: &str, unchanged_for: Duration, duration: Duration) -> Decision {
    match holder {
        Some(h) if h == me => Decision::Renew,
        None | Some("") => Decision::TakeOver,
        Some(_) if unchanged_for > duration => Decision::TakeOver,
        Some(_) => Decision::Wait,
    }
}

/// Stands for election as `identity` until `stop`; the receiver says whether this replica leads. When the task ends, the claim is
/// gone: on `stop` the Lease is given back, so that a successor need not wait for it to expire.
pub fn run(
    client: Client,
    namespace: &str,
    name: &str,
    identity: &str,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> (watch::Receiver<bool>, JoinHandle<()>) {
    let (tx, rx) = watch::channel(false);
    let candidate = Candidate {
        api: Api::namespaced(client, namespace),
        name: name.to_owned(),
        me: identity.to_owned(),
        clock,
        seen: Seen {
            version: None,
            at: Instant::now(),
        },
    };
    let task = tokio::spawn(candidate.stand(tx, stop));
    (rx, task)
}

struct Candidate {
    api: Api<Lease>,
    name: String,
    me: String,
    clock: Arc<dyn Clock>,
    seen: Seen,
}

impl Candidate {
    async fn stand(mut self, leads: watch::Sender<bool>, stop: CancellationToken) {
        let mut renewed: Option<Instant> = None;
        loop {
            let tried = Instant::now();
            match tokio::time::timeout(RETRY_PERIOD * 2, self.attempt()).await {
                Ok(Ok(true)) => {
                    if renewed.is_none() {
                        tracing::info!(lease = %self.name, identity = %self.me, "leading");
                    }
                    renewed = Some(tried);
                    leads.send_if_modified(|l| !std::mem::replace(l, true));
                }
                Ok(Ok(false)) if renewed.is_some() => {
                    tracing::error!(lease = %self.name, "another replica took the lease; ending");
                    break;
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(lease = %self.name, %error, "failed to renew the lease"),
                Err(_) => tracing::warn!(lease = %self.name, "the API server did not answer in time"),
            }
            if renewed.is_some_and(|r| r.elapsed() > RENEW_DEADLINE) {
                tracing::error!(lease = %self.name, "the lease could not be renewed in time; ending");
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY_PERIOD) => {}
                () = stop.cancelled() => {
                    if renewed.is_some() {
                        self.give_back().await;
                    }
                    break;
                }
            }
        }
        leads.send_replace(false);
    }

    /// One look at the Lease and at most one write; whether this replica holds it afterwards.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.spec(None)),
            };
            return won(self.api.create(&PostParams::default(), &lease).await);
        };
        if lease.metadata.resource_version != self.seen.version {
            self.seen = Seen {
                version: lease.metadata.resource_version.clone(),
                at: Instant::now(),
            };
        }
        let spec = lease.spec.as_ref();
        let duration = spec
            .and_then(|s| s.lease_duration_seconds)
            .and_then(|s| u64::try_from(s).ok());
        let duration = duration.map_or(LEASE_DURATION, Duration::from_secs);
        let holder = spec.and_then(|s| s.holder_identity.as_deref());
        if decide(holder, &self.me, self.seen.at.elapsed(), duration) == Decision::Wait {
            return Ok(false);
        }
        // The resourceVersion in the metadata makes this fail if anybody wrote in between.
        let next = Lease {
            spec: Some(self.spec(spec)),
            ..lease
        };
        won(self.api.replace(&self.name, &PostParams::default(), &next).await)
    }

    fn spec(&self, old: Option<&LeaseSpec>) -> LeaseSpec {
        let now: Timestamp = self.clock.wall();
        let mine = old.and_then(|o| o.holder_identity.as_deref()) == Some(self.me.as_str());
        let transitions = old.and_then(|o| o.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            acquire_time: if mine {
                old.and_then(|o| o.acquire_time.clone())
            } else {
                Some(MicroTime(now))
            },
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(if mine {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..LeaseSpec::default()
        }
    }

    /// Tried for some seconds: a successor would wait for longer.
    async fn give_back(&self) {
        let Ok(Some(mut lease)) = insist_for(BRIEFLY, || self.api.get_opt(&self.name)).await else {
            return;
        };
        if let Some(spec) = lease.spec.as_mut()
            && spec.holder_identity.as_deref() == Some(self.me.as_str())
        {
            spec.holder_identity = None;
            let params = PostParams::default();
            let given = insist_for(BRIEFLY, || self.api.replace(&self.name, &params, &lease)).await;
            if let Err(error) = given {
                tracing::debug!(%error, "failed to give the lease back; it will expire");
            }
        }
    }
}

fn won(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(s)) if s.is_conflict() || s.is_already_exists() => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower_test::mock;

    type Server = mock::Handle<Request<Body>, Response<Body>>;

    #[derive(Debug)]
    struct Epoch;

    impl Clock for Epoch {
        fn boottime(&self) -> kerbside_core::clock::Boottime {
            kerbside_core::clock::Boottime::default()
        }

        fn wall(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
    }

    /// Answers the next request; its method and the holder that it names.
    async fn respond(server: &mut Server, code: u16, body: &Value) -> (String, Value) {
        let next = tokio::time::timeout(Duration::from_secs(5), server.next_request()).await;
        let (asked, reply) = next.expect("a request in time").expect("a client that is there");
        let body = Body::from(body.to_string().into_bytes());
        reply.send_response(Response::builder().status(code).body(body).unwrap());
        let method = asked.method().to_string();
        let sent = asked.into_body().collect_bytes().await.unwrap();
        let sent: Value = serde_json::from_slice(&sent).unwrap_or_default();
        (method, sent["spec"]["holderIdentity"].clone())
    }

    #[tokio::test(start_paused = true)]
    async fn lease_is_given_back_to_an_api_server_that_refuses_for_a_moment() {
        let (service, mut server) = mock::pair::<Request<Body>, Response<Body>>();
        let candidate = Candidate {
            api: Api::namespaced(Client::new(service, "default"), "kerbside-system"),
            name: "operator".into(),
            me: "me".into(),
            clock: Arc::new(Epoch),
            seen: Seen {
                version: None,
                at: Instant::now(),
            },
        };
        let busy = |code: u16| json!({"kind": "Status", "status": "Failure", "code": code, "reason": "Refused", "message": "no"});
        let held = json!({"metadata": {"name": "operator", "resourceVersion": "7"}, "spec": {"holderIdentity": "me"}});
        let answers = async {
            respond(&mut server, 429, &busy(429)).await;
            respond(&mut server, 200, &held).await;
            let (_, refused) = respond(&mut server, 503, &busy(503)).await;
            let (method, given) = respond(&mut server, 200, &held).await;
            (method, refused, given)
        };
        let ((), (method, refused, given)) = futures::join!(candidate.give_back(), answers);
        assert_eq!((method.as_str(), refused, given), ("PUT", Value::Null, Value::Null));
    }

    const S: Duration = Duration::from_secs(1);

    #[rstest::rstest]
    #[case(None, 0, Decision::TakeOver)]
    #[case(Some(""), 0, Decision::TakeOver)]
    #[case(Some("me"), 100, Decision::Renew)]
    #[case(Some("other"), 15, Decision::Wait)]
    #[case(Some("other"), 16, Decision::TakeOver)]
    fn lease_is_taken_only_when_free_or_expired(#[case] holder: Option<&str>, #[case] s: u32, #[case] want: Decision) {
        assert_eq!(decide(holder, "me", S * s, LEASE_DURATION), want);
    }

    #[test]
    fn leader_gives_up_before_another_may_take_over() {
        assert!(RENEW_DEADLINE + RETRY_PERIOD < LEASE_DURATION);
    }
}
