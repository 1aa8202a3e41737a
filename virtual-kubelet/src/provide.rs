//! Gives a vehicle what the Pod of an attempt refers to, and keeps giving it what has changed.
//!
//! One task per attempt and session, begun by the vehicle's actor when the vehicle is told to run the attempt, or has connected anew with it.
//! With it goes what of the Pod changes while it runs: labels it shows, containers that were added. The pool's trust is asked here again: what it
//! does not allow is not even read. What must never happen: a Secret or a token of an account that goes to a vehicle whose pool denies it, a
//! pull secret that goes to any, or something that goes to another vehicle than the one that runs the Pod.

mod tokens;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kerbside_api::v1alpha1::{Access, Trust};
use kerbside_core::clock::Clock;
use kerbside_link::proto::{Metadata, Object, Provide, PullToken, ServiceAccountToken};
use kerbside_link::server::SessionHandle;
use kube::Client;
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use self::tokens::{Account, Tokens};
use crate::gate::Gate;
use crate::objects::{Key, Missing, Objects, Reading, any_news, told};
use crate::pull::{Exchange, Puller, Pulls};
use crate::references::{Kind, References};

/// After a token was not given.
pub(crate) const RETRY: Duration = Duration::from_secs(10);
/// A token is asked for anew when it has lived this part of its life, as by the kubelet.
pub(crate) const PART: f64 = 0.8;
/// A message is no larger: heartbeats and stops wait behind it, on a slow link too.
const MOST: usize = 256 << 10;

/// The task. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Provider {
    task: AbortHandle,
    pod: watch::Sender<Arc<Pod>>,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a provider works with.
pub(crate) struct Order {
    pub(crate) client: Client,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) exchange: Exchange,
    pub(crate) objects: Objects,
    pub(crate) session: SessionHandle,
    pub(crate) trust: Trust,
    pub(crate) host: String,
}

impl Provider {
    pub(crate) fn begin(order: Order, pod: Arc<Pod>) -> Self {
        let (pod, pods) = watch::channel(pod);
        let task = tokio::spawn(order.keep(pods)).abort_handle();
        Self { task, pod }
    }

    /// The Pod as it is now.
    pub(crate) fn update(&self, pod: &Arc<Pod>) {
        // The task ends with this, so it is there.
        self.pod.send_replace(Arc::clone(pod));
    }
}

/// A Pod and what it refers to.
struct Subject {
    pod: Arc<Pod>,
    references: References,
}

impl Subject {
    fn of(pod: &Arc<Pod>) -> Self {
        Self {
            pod: Arc::clone(pod),
            references: References::of(pod),
        }
    }
}

impl Order {
    async fn keep(self, mut pods: watch::Receiver<Arc<Pod>>) {
        let mut sent = None;
        loop {
            let subject = Subject::of(&pods.borrow_and_update());
            self.give(subject, &mut pods, &mut sent).await;
        }
    }

    /// Gives what the Pod refers to, until that is something else.
    async fn give(&self, mut subject: Subject, pods: &mut watch::Receiver<Arc<Pod>>, sent: &mut Option<Provide>) {
        let Subject { pod, references } = &subject;
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let mut wanted = references.objects.clone();
        if self.trust.secrets == Access::Deny {
            wanted.retain(|(kind, _)| *kind != Kind::Secret);
        }
        let key = |kind, namespace: &str, name: &str| Key {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let mut readings: Vec<_> = wanted
            .into_iter()
            .map(|(kind, name)| {
                let reading = self.objects.ask(key(kind, &namespace, &name));
                (kind, name, reading)
            })
            .collect();
        if references.services {
            // The API server's own, and then those of the Pod's namespace, which go before it.
            for key in [
                key(Kind::Service, "default", "kubernetes"),
                key(Kind::Services, &namespace, ""),
            ] {
                let reading = self.objects.ask(key.clone());
                readings.push((key.kind, key.name, reading));
            }
        }
        let (tokens, mut given) = watch::channel(Tokens::new());
        let mut tasks = JoinSet::new();
        let wanted = if self.trust.service_account_tokens == Access::Allow {
            references.tokens.len()
        } else {
            0
        };
        if wanted > 0 {
            for (audience, seconds) in references.tokens.clone() {
                let account = Account::of(&self.client, &self.clock, &self.gate, pod);
                tasks.spawn(account.renew(audience, seconds, tokens.clone()));
            }
        }
        let (pulls, mut pulled) = watch::channel(Pulls::new());
        for repository in &references.repositories {
            let secrets = references.pull_secrets.iter().map(|name| {
                let reading = self.objects.ask(key(Kind::Secret, &namespace, name));
                (name.clone(), reading)
            });
            let way = Puller {
                exchange: self.exchange.clone(),
                gate: Arc::clone(&self.gate),
                repository: repository.clone(),
                secrets: secrets.collect(),
            };
            tasks.spawn(way.keep(pulls.clone()));
        }
        let asked = references.repositories.len();
        loop {
            // What has not been read since the Pod came is waited for: the vehicle takes what it is given as all there is.
            for (.., reading) in &mut readings {
                reading.settled().await;
            }
            let _ = given.wait_for(|tokens| tokens.len() >= wanted).await;
            let _ = pulled.wait_for(|pulls| pulls.len() >= asked).await;
            let tokens = given.borrow_and_update().clone();
            let provide = self.provide(&subject, &mut readings, &tokens, &pulled.borrow_and_update());
            if sent.as_ref() != Some(&provide) {
                self.session.provide(provide.clone());
                *sent = Some(provide);
            }
            tokio::select! {
                () = any_news(readings.iter_mut().map(|(.., reading)| reading)) => {}
                _ = given.changed() => {}
                _ = pulled.changed() => {}
                // Whoever holds the other end ends this task with it.
                _ = pods.changed() => {
                    let now = Subject::of(&pods.borrow_and_update());
                    if now.references != subject.references {
                        return;
                    }
                    subject = now;
                }
            }
        }
    }

    fn provide(
        &self,
        Subject { pod, references }: &Subject,
        readings: &mut [(Kind, String, Reading)],
        tokens: &Tokens,
        pulls: &Pulls,
    ) -> Provide {
        let metadata = || Metadata {
            labels: pod.metadata.labels.clone().into_iter().flatten().collect(),
            annotations: pod.metadata.annotations.clone().into_iter().flatten().collect(),
        };
        let mut provide = Provide {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            ephemeral_containers_json: ephemeral(pod).into(),
            metadata: references.metadata.then(metadata),
            ..Provide::default()
        };
        if references.host {
            self.host.clone_into(&mut provide.host_ip);
        }
        for (kind, name, reading) in readings {
            let Some(read) = reading.now() else { continue };
            if matches!(kind, Kind::Service | Kind::Services) {
                let variables = read.as_ref().iter().flat_map(|data| &data.text);
                let text = variables.map(|(key, value)| (key.clone(), String::from_utf8_lossy(value).into_owned()));
                provide.services.extend(text);
            } else {
                provide.objects.push(told(*kind, name, &read));
            }
        }
        if self.trust.secrets == Access::Deny {
            let denied = references.objects.iter().filter(|(kind, _)| *kind == Kind::Secret);
            provide.objects.extend(denied.map(|(kind, name)| {
                let why = format!("secret \"{name}\": the pool lets no Secret into a car (trust.secrets)");
                told(*kind, name, &Arc::new(Err(Missing { why, absent: false })))
            }));
        }
        for key in &references.tokens {
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
        for (repository, pull) in pulls {
            let Some(pull) = pull.clone() else { continue };
            let (token, missing) = pull.map_or_else(|missing| (String::new(), missing), |token| (token, String::new()));
            provide.pull_tokens.push(PullToken {
                registry: repository.registry.clone(),
                repository: repository.name.clone(),
                token,
                missing,
            });
        }
        fitting(provide)
    }
}

/// The containers that were added to a Pod, as Kubernetes JSON; empty: none.
fn ephemeral(pod: &Pod) -> Vec<u8> {
    let spec = pod.spec.as_ref();
    let added = spec.and_then(|spec| spec.ephemeral_containers.as_ref());
    let json = added.filter(|added| !added.is_empty()).map(serde_json::to_vec);
    // They came as JSON.
    json.and_then(Result::ok).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{TestClock, client};

    fn order(trust: serde_json::Value) -> (Order, Subject) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u-1"},
            "spec": {"enableServiceLinks": false, "containers": [], "volumes": [
                {"name": "c", "configMap": {"name": "c"}}, {"name": "s", "secret": {"secretName": "s"}},
                {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
            ]},
        }))
        .unwrap();
        let (client, _) = client();
        let subject = Subject::of(&Arc::new(pod));
        let order = Order {
            clock: Arc::new(TestClock::default()),
            objects: Objects::new(client.clone(), Arc::default()),
            gate: Arc::default(),
            exchange: Exchange::default(),
            client,
            session: SessionHandle::detached(kerbside_core::ids::VehicleId::from_random([1; 10])),
            trust: serde_json::from_value(trust).unwrap(),
            host: "192.0.2.1".to_owned(),
        };
        (order, subject)
    }

    fn read(data: &str) -> Reading {
        let text = [("k".to_owned(), data.to_owned().into_bytes().into())].into();
        Reading::of(crate::objects::Data {
            text,
            ..crate::objects::Data::default()
        })
    }

    #[tokio::test]
    async fn what_the_pool_does_not_trust_the_car_with_is_missing_with_that_word() {
        let (order, subject) = order(json!({"secrets": "Deny", "serviceAccountTokens": "Deny"}));
        let mut readings = [(Kind::ConfigMap, "c".to_owned(), read("1"))];
        let provide = order.provide(&subject, &mut readings, &Tokens::new(), &Pulls::new());
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
        let (order, subject) = order(json!({"secrets": "Allow", "serviceAccountTokens": "Allow"}));
        let mut readings = [
            (Kind::ConfigMap, "c".to_owned(), read("1")),
            (Kind::Secret, "s".to_owned(), read("hush")),
        ];
        let tokens = [((String::new(), 3600), Ok("t".to_owned()))].into();
        let provide = order.provide(&subject, &mut readings, &tokens, &Pulls::new());
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
