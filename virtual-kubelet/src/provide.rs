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
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::context::PATIENCE;
use crate::objects::{Key, Objects, Read, Reader, told};
use crate::references::{Kind, References};

/// A vehicle takes no larger message, with some room for all that is not content.
const MOST: usize = 1 << 20;
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
        let mut readers: BTreeMap<(Kind, String), Arc<Reader>> = wanted
            .into_iter()
            .map(|(kind, name)| {
                let reader = self.objects.reader(key(kind, &namespace, &name));
                ((kind, name), reader)
            })
            .collect();
        if self.references.services {
            // Those of the API server itself, and of the Pod's own namespace.
            for namespace in ["default", namespace.as_str()] {
                let reader = self.objects.reader(key(Kind::Services, namespace, ""));
                readers.insert((Kind::Services, namespace.to_owned()), reader);
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
            .map(|((kind, name), reader)| (*kind, name.clone(), reader.newest()))
            .collect();
        let mut sent = None;
        loop {
            // What has not been read yet is waited for: the vehicle takes what it is given as all there is.
            for (.., read) in &mut newest {
                // An error would mean that the reader ends, which is held here.
                let _ = read.wait_for(Option::is_some).await;
            }
            let _ = given.wait_for(|tokens| tokens.len() >= wanted).await;
            let provide = self.provide(&newest, &given.borrow_and_update());
            if sent.as_ref() != Some(&provide) {
                self.session.provide(provide.clone());
                sent = Some(provide);
            }
            let changes = newest.iter_mut().map(|(.., read)| Box::pin(read.changed()));
            tokio::select! {
                () = any(changes.collect()) => {}
                _ = given.changed() => {}
            }
        }
    }

    fn provide(&self, newest: &[(Kind, String, watch::Receiver<Option<Read>>)], tokens: &Tokens) -> Provide {
        let mut provide = Provide {
            uid: self.pod.metadata.uid.clone().unwrap_or_default(),
            ..Provide::default()
        };
        if self.references.host {
            self.host.clone_into(&mut provide.host_ip);
        }
        let mut room = MOST;
        for (kind, name, read) in newest {
            let Some(read) = read.borrow().clone() else { continue };
            if *kind == Kind::Services {
                let variables = read.as_ref().iter().flatten();
                let text = variables.map(|(key, value)| (key.clone(), String::from_utf8_lossy(value).into_owned()));
                provide.services.extend(text);
                continue;
            }
            provide.objects.push(fitting(told(*kind, name, &read), &mut room));
        }
        if self.trust.secrets == Access::Deny {
            let denied = self.references.objects.iter().filter(|(kind, _)| *kind == Kind::Secret);
            provide.objects.extend(denied.map(|(kind, name)| {
                let missing = format!("secret \"{name}\": the pool lets no Secret into a car (trust.secrets)");
                told(*kind, name, &Arc::new(Err(missing)))
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
        provide
    }
}

/// The object, or why it does not fit into what a vehicle takes.
fn fitting(object: Object, room: &mut usize) -> Object {
    let size: usize = object.data.iter().map(|(key, value)| key.len() + value.len()).sum();
    if let Some(left) = room.checked_sub(size) {
        *room = left;
        return object;
    }
    let missing = format!(
        "\"{}\" does not fit: a vehicle takes {MOST} bytes of ConfigMaps and Secrets for a Pod",
        object.name
    );
    Object {
        missing,
        data: BTreeMap::new(),
        ..object
    }
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
    use super::*;

    #[test]
    fn object_that_does_not_fit_says_so_and_the_others_go() {
        let object = |name: &str, size: usize| Object {
            name: name.to_owned(),
            data: [("k".to_owned(), vec![0; size].into())].into(),
            ..Object::default()
        };
        let mut room = 100;
        assert_eq!(fitting(object("a", 60), &mut room).missing, "");
        let large = fitting(object("b", 60), &mut room);
        assert!(
            large.data.is_empty() && large.missing.contains("\"b\" does not fit"),
            "{}",
            large.missing
        );
        assert_eq!(fitting(object("c", 30), &mut room).missing, "");
    }
}
