//! Tokens of a Pod's ServiceAccount, bound to the Pod, asked for anew in time.
//!
//! One task per token, begun by the provider of an attempt and ended with it. What must never happen: a token that is not bound to its Pod.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kerbside_core::clock::Clock;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{PART, RETRY};
use crate::context::PATIENCE;
use crate::gate::{Gate, Lane};

/// A token is asked for anew after a day at the latest, as by the kubelet.
const DAY: Duration = Duration::from_hours(24);

/// The tokens of an attempt, by audience and lifetime.
pub(super) type Tokens = BTreeMap<(String, i64), Result<String, String>>;

/// The ServiceAccount of a Pod.
pub(super) struct Account {
    clock: Arc<dyn Clock>,
    gate: Arc<Gate>,
    api: Api<ServiceAccount>,
    name: String,
    pod: BoundObjectReference,
}

impl Account {
    pub(super) fn of(client: &Client, clock: &Arc<dyn Clock>, gate: &Arc<Gate>, pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        let name = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        Self {
            clock: Arc::clone(clock),
            gate: Arc::clone(gate),
            api: Api::namespaced(client.clone(), metadata.namespace.as_deref().unwrap_or_default()),
            name: name.unwrap_or_else(|| "default".to_owned()),
            pod: BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: metadata.name.clone(),
                uid: metadata.uid.clone(),
            },
        }
    }

    /// Asks for a token, and for the next one in time, for ever.
    pub(super) async fn renew(self, audience: String, seconds: i64, tokens: watch::Sender<Tokens>) {
        loop {
            let asked = {
                let _place = self.gate.enter(Lane::Object).await;
                timeout(PATIENCE, self.ask(&audience, seconds)).await
            };
            let token = asked.unwrap_or_else(|_| Err("the API server did not answer in time".to_owned()));
            let wait = match &token {
                Ok((_, life)) => life.mul_f64(PART).min(DAY),
                Err(error) => {
                    tracing::warn!(account = self.name, error, "no token is given for a Pod on a vehicle");
                    RETRY
                }
            };
            let key = (audience.clone(), seconds);
            tokens.send_modify(|tokens| match token {
                Ok((token, _)) => {
                    tokens.insert(key, Ok(token));
                }
                // The one before is good for a while.
                Err(error) => {
                    tokens.entry(key).or_insert(Err(error));
                }
            });
            sleep(wait).await;
        }
    }

    /// A token, and how long it lives.
    async fn ask(&self, audience: &str, seconds: i64) -> Result<(String, Duration), String> {
        let spec = TokenRequestSpec {
            audiences: (!audience.is_empty()).then(|| vec![audience.to_owned()]),
            expiration_seconds: Some(seconds),
            bound_object_ref: Some(self.pod.clone()),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest {
            spec: Some(spec),
            ..TokenRequest::default()
        };
        let answer = self
            .api
            .create_token_request(&self.name, &PostParams::default(), &request)
            .await;
        let status = match answer {
            Ok(answer) => answer.status.ok_or("the API server gave no token")?,
            Err(kube::Error::Api(status)) if status.code == 403 => {
                return Err(
                    "no token may be asked for Pods on vehicles: add the namespace to the chart's workloadNamespaces"
                        .to_owned(),
                );
            }
            Err(error) => return Err(error.to_string()),
        };
        let token = status.token.ok_or("the API server gave no token")?;
        let end = status
            .expiration_timestamp
            .map(|end| end.0.duration_since(self.clock.wall()));
        let life = end.and_then(|life| Duration::try_from(life).ok());
        Ok((token, life.unwrap_or(RETRY)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::testing::{Server, TestClock, client};

    /// Awaits the next request, however long that takes, and answers it. What was asked, and when.
    async fn answer(server: &mut Server, code: u16, body: serde_json::Value) -> (serde_json::Value, Instant) {
        let (request, reply) = server.next_request().await.unwrap();
        let at = Instant::now();
        assert_eq!(
            request.uri().path(),
            "/api/v1/namespaces/ns/serviceaccounts/reader/token"
        );
        let sent = http_body_util::BodyExt::collect(request.into_body()).await.unwrap();
        let body = kube::client::Body::from(body.to_string().into_bytes());
        reply.send_response(hyper::Response::builder().status(code).body(body).unwrap());
        (serde_json::from_slice(&sent.to_bytes()).unwrap(), at)
    }

    fn token(name: &str, expires: &str) -> serde_json::Value {
        json!({"spec": {"audiences": []}, "status": {"token": name, "expirationTimestamp": expires}})
    }

    async fn is(given: &mut watch::Receiver<Tokens>, wanted: Result<&str, &str>) {
        let key = (String::new(), 3600);
        let fits = |tokens: &Tokens| match (tokens.get(&key), wanted) {
            (Some(Ok(token)), Ok(wanted)) => token == wanted,
            (Some(Err(why)), Err(wanted)) => why.contains(wanted),
            _ => false,
        };
        given.wait_for(fits).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn token_is_bound_to_its_pod_and_asked_for_anew_at_four_fifths_of_its_life() {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u-1"},
            "spec": {"serviceAccountName": "reader", "containers": []},
        });
        let (client, mut server) = client();
        let clock: Arc<dyn Clock> = Arc::new(TestClock::default());
        let account = Account::of(&client, &clock, &Arc::default(), &serde_json::from_value(pod).unwrap());
        let (tokens, mut given) = watch::channel(Tokens::new());
        let task = tokio::spawn(account.renew(String::new(), 3600, tokens));
        // Nothing is there yet, and whoever waits is told why.
        answer(
            &mut server,
            403,
            json!({"kind": "Status", "code": 403, "reason": "Forbidden", "message": "no"}),
        )
        .await;
        is(&mut given, Err("workloadNamespaces")).await;
        // By the test's clock it is twelve.
        let (asked, first) = answer(&mut server, 201, token("first", "2026-11-23T13:00:00Z")).await;
        let bound = &asked["spec"]["boundObjectRef"];
        assert_eq!(
            (&bound["kind"], &bound["name"], &bound["uid"]),
            (&json!("Pod"), &json!("p"), &json!("u-1"))
        );
        assert_eq!(asked["spec"]["expirationSeconds"], 3600);
        is(&mut given, Ok("first")).await;
        let (_, second) = answer(
            &mut server,
            500,
            json!({"kind": "Status", "code": 500, "message": "busy"}),
        )
        .await;
        assert_eq!((second - first).as_secs(), 2880);
        // The first one is good for a while.
        let (_, third) = answer(&mut server, 201, token("second", "2026-11-26T12:00:00Z")).await;
        assert_eq!((third - second).as_secs(), RETRY.as_secs());
        is(&mut given, Ok("second")).await;
        let (_, fourth) = answer(&mut server, 201, token("third", "2026-11-23T13:00:00Z")).await;
        assert_eq!((fourth - third).as_secs(), DAY.as_secs(), "however long it lives");
        task.abort();
    }
}
