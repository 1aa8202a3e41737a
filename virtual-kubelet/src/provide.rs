//! Gives a vehicle what the Pod of an attempt refers to, and keeps giving it what has changed.
//!
//! One task per attempt and session, begun by the vehicle's actor when the vehicle is told to run the attempt, or has connected anew with it.
//! The pool's trust is asked here again: what it does not allow is not even read. What must never happen: a Secret or a token that
//! goes to a vehicle whose pool denies it, or to another vehicle than the one that runs the Pod.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kerbside_api::v1alpha1::{Access, Trust};
use kerbside_core::clock::Clock;
use kerbside_link::proto::{Object, Provide, ServiceAccountToken};
use kerbside_link::server::SessionHandle;
use kube::Client;
use kube::api::{Api, PostParams};
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::context::PATIENCE;
use crate::objects::{Key, Missing, Newest, Objects, told};
use crate::references::{Kind, References};

/// A message is no larger: heartbeats and stops wait behind it, on a slow link too.
const MOST: usize = 256 << 10;
/// After a token was not given.
const RETRY: Duration = Duration::from_secs(10);
/// A token is asked for anew when it has lived this part of its life, and a day at the latest, as by the kubelet.
const PART: f64 = 0.8;
const DAY: Duration = Duration::from_hours(24);

/// The task. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Provider(AbortHandle);

impl Drop for Provider {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a provider works with.
pub(crate) struct Order {
    pub(crate) client: Client,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) objects: Objects,
    pub(crate) session: SessionHandle,
    pub(crate) pod: Arc<Pod>,
    pub(crate) references: References,
    pub(crate) trust: Trust,
    pub(crate) host: String,
}

impl Provider {
    pub(crate) fn begin(order: Order) -> Self {
        Self(tokio::spawn(order.keep()).abort_handle())
    }
}

/// The tokens of an attempt, by audience and lifetime.
type Tokens = BTreeMap<(String, i64), Result<String, String>>;

impl Order {
    async fn keep(self) {
        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
        let mut wanted = self.references.objects.clone();
        if self.trust.secrets == Access::Deny {
            wanted.retain(|(kind, _)| *kind != Kind::Secret);
        }
        let key = |kind, namespace: &str, name: &str| Key {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let mut readers: Vec<_> = wanted
            .into_iter()
            .map(|(kind, name)| {
                let (reader, number) = self.objects.reader(key(kind, &namespace, &name));
                (kind, name, reader, number)
            })
            .collect();
        if self.references.services {
            // The API server's own, and then those of the Pod's namespace, which go before it.
            for key in [
                key(Kind::Service, "default", "kubernetes"),
                key(Kind::Services, &namespace, ""),
            ] {
                let (reader, number) = self.objects.reader(key.clone());
                readers.push((key.kind, key.name, reader, number));
            }
        }
        let (tokens, mut given) = watch::channel(Tokens::new());
        let mut tasks = JoinSet::new();
        let wanted = if self.trust.service_account_tokens == Access::Allow {
            self.references.tokens.len()
        } else {
            0
        };
        if wanted > 0 {
            for (audience, seconds) in self.references.tokens.clone() {
                let account = Account::of(&self.client, &self.clock, &self.pod);
                tasks.spawn(account.renew(audience, seconds, tokens.clone()));
            }
        }
        let mut newest: Vec<_> = readers
            .iter()
            .map(|(kind, name, reader, number)| (*kind, name.clone(), reader.newest(), *number))
            .collect();
        let mut sent = None;
        loop {
            // What has not been read since the Pod came is waited for: the vehicle takes what it is given as all there is.
            for (.., read, number) in &mut newest {
                // An error would mean that the reader ends, which is held here.
                let _ = read
                    .wait_for(|(read, newest)| *read >= *number && newest.is_some())
                    .await;
            }
            let _ = given.wait_for(|tokens| tokens.len() >= wanted).await;
            let provide = self.provide(&newest, &given.borrow_and_update());
            if sent.as_ref() != Some(&provide) {
                self.session.provide(provide.clone());
                sent = Some(provide);
            }
            let changes = newest.iter_mut().map(|(.., read, _)| Box::pin(read.changed()));
            tokio::select! {
                () = any(changes.collect()) => {}
                _ = given.changed() => {}
            }
        }
    }

    fn provide(&self, newest: &[(Kind, String, watch::Receiver<Newest>, u64)], tokens: &Tokens) -> Provide {
        let mut provide = Provide {
            uid: self.pod.metadata.uid.clone().unwrap_or_default(),
            ..Provide::default()
        };
        if self.references.host {
            self.host.clone_into(&mut provide.host_ip);
        }
        for (kind, name, read, _) in newest {
            let Some(read) = read.borrow().1.clone() else { continue };
            if matches!(kind, Kind::Service | Kind::Services) {
                let variables = read.as_ref().iter().flat_map(|data| &data.text);
                let text = variables.map(|(key, value)| (key.clone(), String::from_utf8_lossy(value).into_owned()));
                provide.services.extend(text);
            } else {
                provide.objects.push(told(*kind, name, &read));
            }
        }
        if self.trust.secrets == Access::Deny {
            let denied = self.references.objects.iter().filter(|(kind, _)| *kind == Kind::Secret);
            provide.objects.extend(denied.map(|(kind, name)| {
                let why = format!("secret \"{name}\": the pool lets no Secret into a car (trust.secrets)");
                told(*kind, name, &Arc::new(Err(Missing { why, absent: false })))
            }));
        }
        for key in &self.references.tokens {
            let token = tokens.get(key).cloned().unwrap_or_else(|| {
                Err("the pool lets no ServiceAccount token into a car (trust.serviceAccountTokens)".to_owned())
            });
            let (token, missing) = match token {
                Ok(token) => (token, String::new()),
                Err(missing) => (String::new(), missing),
            };
            provide.tokens.push(ServiceAccountToken {
                audience: key.0.clone(),
                expiration_seconds: key.1,
                token,
                missing,
            });
        }
        fitting(provide)
    }
}

/// As much of it as a vehicle takes: first the variables of Services go, then the largest objects, each with a word.
fn fitting(mut provide: Provide) -> Provide {
    if provide.encoded_len() > MOST && !provide.services.is_empty() {
        tracing::warn!(
            attempt = provide.uid,
            "the variables of Services are too many for a vehicle; it gets none"
        );
        provide.services.clear();
    }
    while provide.encoded_len() > MOST {
        let Some(largest) = provide.objects.iter_mut().max_by_key(|object| object.encoded_len()) else {
            break;
        };
        let missing = format!(
            "\"{}\" does not fit: a vehicle takes {MOST} bytes of ConfigMaps and Secrets for a Pod",
            largest.name
        );
        if largest.missing == missing {
            break;
        }
        *largest = Object {
            kind: largest.kind,
            name: std::mem::take(&mut largest.name),
            missing,
            ..Object::default()
        };
    }
    provide
}

/// The first of them; never, if there is none.
async fn any<F: Future + Unpin>(futures: Vec<F>) {
    if futures.is_empty() {
        std::future::pending::<()>().await;
    }
    futures::future::select_all(futures).await;
}

/// The ServiceAccount of a Pod.
struct Account {
    clock: Arc<dyn Clock>,
    api: Api<ServiceAccount>,
    name: String,
    pod: BoundObjectReference,
}

impl Account {
    fn of(client: &Client, clock: &Arc<dyn Clock>, pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        let name = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        Self {
            clock: Arc::clone(clock),
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
    async fn renew(self, audience: String, seconds: i64, tokens: watch::Sender<Tokens>) {
        loop {
            let asked = timeout(PATIENCE, self.ask(&audience, seconds)).await;
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

    use super::*;
    use crate::testing::{TestClock, client};

    fn order(trust: serde_json::Value) -> Order {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u-1"},
            "spec": {"enableServiceLinks": false, "containers": [], "volumes": [
                {"name": "c", "configMap": {"name": "c"}}, {"name": "s", "secret": {"secretName": "s"}},
                {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
            ]},
        }))
        .unwrap();
        let (client, _) = client();
        Order {
            clock: Arc::new(TestClock::default()),
            objects: Objects::new(client.clone()),
            client,
            session: SessionHandle::detached(kerbside_core::ids::VehicleId::from_random([1; 10])),
            references: References::of(&pod),
            pod: Arc::new(pod),
            trust: serde_json::from_value(trust).unwrap(),
            host: "192.0.2.1".to_owned(),
        }
    }

    fn read(data: &str) -> watch::Receiver<Newest> {
        let text = [("k".to_owned(), data.to_owned().into_bytes().into())].into();
        let data = crate::objects::Data {
            text,
            ..crate::objects::Data::default()
        };
        watch::channel((1, Some(Arc::new(Ok(data))))).1
    }

    #[tokio::test]
    async fn what_the_pool_does_not_trust_the_car_with_is_missing_with_that_word() {
        let order = order(json!({"secrets": "Deny", "serviceAccountTokens": "Deny"}));
        let newest = [(Kind::ConfigMap, "c".to_owned(), read("1"), 1)];
        let provide = order.provide(&newest, &Tokens::new());
        let missing: Vec<_> = provide
            .objects
            .iter()
            .map(|o| (o.name.as_str(), o.missing.contains("trust.secrets")))
            .collect();
        assert_eq!(missing, [("c", false), ("s", true)]);
        assert!(!provide.objects[1].absent, "nobody does without it");
        assert!(provide.tokens[0].token.is_empty() && provide.tokens[0].missing.contains("trust.serviceAccountTokens"));
    }

    #[tokio::test]
    async fn token_and_secret_go_where_the_pool_allows_them() {
        let order = order(json!({"secrets": "Allow", "serviceAccountTokens": "Allow"}));
        let newest = [
            (Kind::ConfigMap, "c".to_owned(), read("1"), 1),
            (Kind::Secret, "s".to_owned(), read("hush"), 1),
        ];
        let tokens = [((String::new(), 3600), Ok("t".to_owned()))].into();
        let provide = order.provide(&newest, &tokens);
        assert!(provide.objects.iter().all(|object| object.missing.is_empty()));
        assert_eq!(provide.tokens[0].token, "t");
    }

    #[test]
    fn message_is_bounded_as_a_whole_and_what_does_not_fit_says_so() {
        let object = |name: &str, size: usize| Object {
            name: name.to_owned(),
            data: [("k".to_owned(), vec![0; size].into())].into(),
            ..Object::default()
        };
        let many = (0..9000).map(|n| (format!("SERVICE_{n}_HOST"), "192.0.2.1".to_owned()));
        let provide = fitting(Provide {
            objects: vec![object("small", 1000), object("large", MOST)],
            services: many.collect(),
            ..Provide::default()
        });
        assert!(provide.encoded_len() <= MOST && provide.services.is_empty());
        assert_eq!(provide.objects[0].missing, "");
        assert!(provide.objects[1].missing.contains("\"large\" does not fit"));
    }
}
