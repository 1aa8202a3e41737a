//! Who may read results and ledgers: a TokenReview for who it is, a SubjectAccessReview for what they may, both remembered for a while.
//!
//! Called before anything is looked up, so that a stranger learns nothing, not even whether a job exists. Never: a token kept;
//! only its hash is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kerbside_core::ids::VehicleId;
use kerbside_core::names::GROUP;
use kerbside_k8s::client::{BRIEFLY, insist_for};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::Problem;

/// A yes holds this long: fetching a job's results is many requests. As long as kube-apiserver's own webhooks cache one.
const ALLOWED_FOR: Duration = Duration::from_secs(60);
/// A no holds only so long that a loop of requests does no harm: somebody may just be granting the right.
const DENIED_FOR: Duration = Duration::from_secs(5);
/// Bounds the memory that strangers can fill.
const MOST_ENTRIES: usize = 4_096;

/// What somebody wants to `get`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Asked {
    /// The results of a FleetJob: `fleetjobs/results` in its namespace.
    Results { namespace: String, job: String },
    /// The ledger of a vehicle, or which ledgers there are: `vehicles/ledger`, which is in no namespace.
    Ledger { vehicle: Option<VehicleId> },
}

impl Asked {
    fn attributes(&self) -> ResourceAttributes {
        let (resource, subresource, namespace, name) = match self {
            Self::Results { namespace, job } => ("fleetjobs", "results", Some(namespace.clone()), Some(job.clone())),
            Self::Ledger { vehicle } => ("vehicles", "ledger", None, vehicle.as_ref().map(ToString::to_string)),
        };
        ResourceAttributes {
            group: Some(GROUP.to_owned()),
            resource: Some(resource.to_owned()),
            subresource: Some(subresource.to_owned()),
            verb: Some("get".to_owned()),
            namespace,
            name,
            ..ResourceAttributes::default()
        }
    }

    fn forbidden(&self, user: String) -> Problem {
        match self {
            Self::Results { namespace, .. } => Problem::Forbidden {
                user,
                namespace: namespace.clone(),
            },
            Self::Ledger { .. } => Problem::ForbiddenLedger { user },
        }
    }
}

type Key = ([u8; 32], Asked);

/// Answers from memory or from the API server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Access {
    client: Client,
    seen: Arc<Mutex<HashMap<Key, Verdict>>>,
}

#[derive(Clone)]
struct Verdict {
    until: Instant,
    allowed: Result<(), Denial>,
}

#[derive(Clone)]
enum Denial {
    BadToken,
    Forbidden { user: String },
}

impl Access {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            seen: Arc::default(),
        }
    }

    /// Whether whoever sent `headers` may read what is asked for.
    pub(crate) async fn check(&self, headers: &HeaderMap, asked: &Asked) -> Result<(), Problem> {
        let token = bearer(headers).ok_or(Problem::NoToken)?;
        let key = (Sha256::digest(token.as_bytes()).into(), asked.clone());
        let allowed = if let Some(allowed) = self.remembered(&key) {
            allowed
        } else {
            let allowed = self
                .ask(token, asked)
                .await
                .map_err(|e| Problem::ApiServer(Box::new(e)))?;
            self.remember(key, allowed.clone());
            allowed
        };
        allowed.map_err(|denial| match denial {
            Denial::BadToken => Problem::BadToken,
            Denial::Forbidden { user } => asked.forbidden(user),
        })
    }

    fn remembered(&self, key: &Key) -> Option<Result<(), Denial>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(key)
            .filter(|v| v.until > Instant::now())
            .map(|v| v.allowed.clone())
    }

    fn remember(&self, key: Key, allowed: Result<(), Denial>) {
        let now = Instant::now();
        let until = now + if allowed.is_ok() { ALLOWED_FOR } else { DENIED_FOR };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MOST_ENTRIES {
            seen.retain(|_, v| v.until > now);
            if seen.len() >= MOST_ENTRIES {
                seen.clear();
            }
        }
        seen.insert(key, Verdict { until, allowed });
    }

    async fn ask(&self, token: &str, asked: &Asked) -> Result<Result<(), Denial>, kube::Error> {
        let Some(user) = self.who(token).await? else {
            return Ok(Err(Denial::BadToken));
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username.clone(),
                uid: user.uid,
                groups: user.groups,
                extra: user.extra,
                resource_attributes: Some(asked.attributes()),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let answer = insist_for(BRIEFLY, || api.create(&params, &review)).await?;
        if answer.status.is_some_and(|s| s.allowed && s.denied != Some(true)) {
            return Ok(Ok(()));
        }
        Ok(Err(Denial::Forbidden {
            user: user.username.unwrap_or_default(),
        }))
    }

    async fn who(&self, token: &str) -> Result<Option<UserInfo>, kube::Error> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: None,
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let answer = insist_for(BRIEFLY, || api.create(&params, &review)).await?;
        tracing::debug!(review = answer.name_any(), "a token was reviewed");
        Ok(answer
            .status
            .filter(|s| s.authenticated == Some(true))
            .and_then(|s| s.user))
    }
}

/// The token of an `Authorization: Bearer …` header; the scheme's case does not matter.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    Some(token.trim()).filter(|t| scheme.eq_ignore_ascii_case("bearer") && !t.is_empty())
}
