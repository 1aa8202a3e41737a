//! Who may ask the kubelet port what: tokens by TokenReview, rights by SubjectAccessReview on `nodes/…`, each answer kept for a
//! while.
//!
//! Called for every request. Times are the kubelet's: a token's owner and an allowance are trusted for minutes, a refusal for half a
//! minute, so that a right just given works soon. A question that the API server refuses for now is asked again for some seconds, as
//! somebody waits. Nothing is ever allowed because a question could not be asked.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kerbside_core::clock::{Boottime, Clock};
use kerbside_k8s::client::{BRIEFLY, insist_for};
use kube::api::PostParams;
use kube::{Api, Client};
use sha2::{Digest, Sha256};

const TOKEN_FOR: Duration = Duration::from_mins(2);
const ALLOW_FOR: Duration = Duration::from_mins(5);
const DENY_FOR: Duration = Duration::from_secs(30);
/// More than any cluster's operators; strangers' tokens must not fill the memory.
const MOST_ENTRIES: usize = 4096;

/// Somebody who has shown who they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
    pub(crate) uid: Option<String>,
    pub(crate) extra: Vec<(String, Vec<String>)>,
}

/// Whether somebody may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    Allow,
    Deny,
}

/// Reviews with a memory.
pub(crate) struct Auth {
    client: Client,
    clock: Arc<dyn Clock>,
    tokens: Cache<[u8; 32], Option<User>>,
    rights: Cache<(User, &'static str, String, String), Decision>,
}

impl Auth {
    pub(crate) fn new(client: Client, clock: Arc<dyn Clock>) -> Self {
        Self {
            client,
            clock,
            tokens: Cache::default(),
            rights: Cache::default(),
        }
    }

    /// Whose token this is; None: nobody's.
    pub(crate) async fn token(&self, token: &str) -> Result<Option<User>, kube::Error> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(known) = self.tokens.get(&key, self.clock.boottime()) {
            return Ok(known);
        }
        let spec = TokenReviewSpec {
            token: token.to_owned(),
            audiences: None,
        };
        let review = TokenReview {
            spec,
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let status = insist_for(BRIEFLY, || api.create(&params, &review))
            .await?
            .status
            .unwrap_or_default();
        let user = status
            .user
            .filter(|_| status.authenticated == Some(true))
            .map(|u| User {
                name: u.username.unwrap_or_default(),
                groups: u.groups.unwrap_or_default(),
                uid: u.uid,
                extra: u.extra.unwrap_or_default().into_iter().collect(),
            });
        let keep = if user.is_some() { TOKEN_FOR } else { DENY_FOR };
        let now = self.clock.boottime();
        self.tokens.put(key, user.clone(), now + keep, now);
        Ok(user)
    }

    /// Whether the user may do this (`get`, `create`) with `nodes/<subresource>` of this node; an empty node is all of them.
    pub(crate) async fn authorise(
        &self,
        user: &User,
        verb: &'static str,
        node: &str,
        subresource: &str,
    ) -> Result<Decision, kube::Error> {
        let key = (user.clone(), verb, node.to_owned(), subresource.to_owned());
        if let Some(known) = self.rights.get(&key, self.clock.boottime()) {
            return Ok(known);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                uid: user.uid.clone(),
                extra: Some(user.extra.iter().cloned().collect()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.into()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(subresource.to_owned()),
                    name: (!node.is_empty()).then(|| node.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let status = insist_for(BRIEFLY, || api.create(&params, &review))
            .await?
            .status
            .unwrap_or_default();
        let allowed = status.allowed && status.denied != Some(true);
        let (decision, keep) = if allowed {
            (Decision::Allow, ALLOW_FOR)
        } else {
            (Decision::Deny, DENY_FOR)
        };
        let now = self.clock.boottime();
        self.rights.put(key, decision, now + keep, now);
        Ok(decision)
    }
}

/// Answers with the time until which they hold.
#[derive(Debug)]
struct Cache<K, V>(Mutex<HashMap<K, (V, Boottime)>>);

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    fn get(&self, key: &K, now: Boottime) -> Option<V> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .get(key)
            .filter(|(_, until)| now < *until)
            .map(|(v, _)| v.clone())
    }

    fn put(&self, key: K, value: V, until: Boottime, now: Boottime) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MOST_ENTRIES {
            entries.retain(|_, (_, until)| now < *until);
        }
        if entries.len() >= MOST_ENTRIES {
            entries.clear();
        }
        entries.insert(key, (value, until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestClock, respond};
    use kube::client::Body;
    use serde_json::json;

    fn auth() -> (Auth, crate::testing::Server, Arc<TestClock>) {
        let (client, server) = crate::testing::client();
        let clock = Arc::new(TestClock::default());
        (Auth::new(client, clock.clone() as Arc<dyn Clock>), server, clock)
    }

    fn user() -> User {
        User {
            name: "ann".into(),
            groups: vec!["dev".into()],
            ..User::default()
        }
    }

    async fn review(server: &mut crate::testing::Server, allowed: bool) -> serde_json::Value {
        let (_, path, body) = respond(server, 201, json!({"spec": {}, "status": {"allowed": allowed}})).await;
        assert_eq!(path, "/apis/authorization.k8s.io/v1/subjectaccessreviews");
        body
    }

    #[rstest::rstest]
    #[case::allowed(true, 299, 301)]
    #[case::denied(false, 29, 31)]
    #[tokio::test]
    async fn decision_is_asked_once_and_again_when_it_is_old(
        #[case] allowed: bool,
        #[case] before: u64,
        #[case] after: u64,
    ) {
        let (auth, mut server, clock) = auth();
        let expected = if allowed { Decision::Allow } else { Decision::Deny };
        let who = user();
        let (decision, body) = futures::join!(
            auth.authorise(&who, "get", "car-a", "proxy"),
            review(&mut server, allowed)
        );
        assert_eq!(decision.unwrap(), expected);
        let asked = &body["spec"]["resourceAttributes"];
        assert_eq!(asked["subresource"], "proxy");
        assert_eq!(
            (&asked["name"], &body["spec"]["groups"]),
            (&json!("car-a"), &json!(["dev"]))
        );
        clock.set(before);
        assert_eq!(
            auth.authorise(&user(), "get", "car-a", "proxy").await.unwrap(),
            expected,
            "from memory"
        );
        clock.set(after);
        let (again, _) = futures::join!(
            auth.authorise(&who, "get", "car-a", "proxy"),
            review(&mut server, !allowed)
        );
        assert_ne!(again.unwrap(), expected);
    }

    #[tokio::test]
    async fn right_on_one_node_is_no_right_on_another() {
        let (auth, mut server, _) = auth();
        let who = user();
        let (a, _) = futures::join!(auth.authorise(&who, "get", "car-a", "proxy"), review(&mut server, true));
        let (b, _) = futures::join!(
            auth.authorise(&who, "get", "car-b", "proxy"),
            review(&mut server, false)
        );
        assert_eq!((a.unwrap(), b.unwrap()), (Decision::Allow, Decision::Deny));
    }

    #[tokio::test]
    async fn token_of_nobody_is_nobody_and_remembered() {
        let (auth, mut server, _) = auth();
        let nobody = json!({"spec": {}, "status": {"authenticated": false, "user": {"username": "x"}}});
        let (user, _) = futures::join!(auth.token("t"), respond(&mut server, 201, nobody));
        assert_eq!(user.unwrap(), None);
        assert_eq!(auth.token("t").await.unwrap(), None, "from memory");
    }

    #[tokio::test]
    async fn token_is_its_owner() {
        let (auth, mut server, _) = auth();
        let ann =
            json!({"spec": {}, "status": {"authenticated": true, "user": {"username": "ann", "groups": ["dev"]}}});
        let (user, _) = futures::join!(auth.token("t"), respond(&mut server, 201, ann));
        assert_eq!(user.unwrap().unwrap().name, "ann");
    }

    #[rstest::rstest]
    #[case(429)]
    #[case(503)]
    #[case(504)]
    #[tokio::test(start_paused = true)]
    async fn question_that_is_refused_for_now_is_asked_again(#[case] code: u16) {
        let (auth, mut server, _) = auth();
        let refusal =
            json!({"kind": "Status", "status": "Failure", "code": code, "reason": "Refused", "message": "not now"});
        let ann =
            json!({"spec": {}, "status": {"authenticated": true, "user": {"username": "ann", "groups": ["dev"]}}});
        let answers = async {
            respond(&mut server, code, refusal.clone()).await;
            respond(&mut server, 201, ann).await;
            respond(&mut server, code, refusal.clone()).await;
            review(&mut server, true).await
        };
        let asks = async {
            let who = auth.token("t").await.unwrap().unwrap();
            auth.authorise(&who, "get", "car-a", "proxy").await.unwrap()
        };
        let (decision, _) = futures::join!(asks, answers);
        assert_eq!(decision, Decision::Allow);
    }

    #[tokio::test]
    async fn question_that_cannot_be_asked_is_an_error_and_not_an_allowance() {
        let (auth, mut server, _) = auth();
        let who = user();
        let fails = async {
            let (_, reply) = server.next_request().await.unwrap();
            reply.send_response(hyper::Response::builder().status(500).body(Body::empty()).unwrap());
        };
        let (decision, ()) = futures::join!(auth.authorise(&who, "get", "car-a", "proxy"), fails);
        assert!(decision.is_err());
    }

    #[test]
    fn cache_that_is_full_forgets_instead_of_growing() {
        let cache = Cache::default();
        for n in 0..=MOST_ENTRIES {
            cache.put(n, n, Boottime(Duration::from_secs(9)), Boottime::default());
        }
        assert!(cache.0.lock().unwrap().len() <= MOST_ENTRIES);
    }
}
