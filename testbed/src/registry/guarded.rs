//! A second registry, which lets in only who has a token, and the giver of its tokens.
//!
//! The registry shows what is in the first one, and is started by `up` where containers are to run. The giver is started by the test that
//! needs it, at the address that the registry names, and ends with it. Its tokens are those of the distribution project: signed, for one
//! repository.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use data_encoding::{BASE64, BASE64URL_NOPAD};
use kerbside_core::clock::Clock as _;
use kerbside_link::SystemClock;
use rcgen::{CertificateParams, KeyPair, SigningKey as _};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::layout::Layout;
use crate::{ports, process};

/// Who the registry believes, and what it is called.
const ISSUER: &str = "kerbside-testbed";
const SERVICE: &str = "guarded";
/// Of its process, and of the directory that it shares with the giver.
const DIRECTORY: &str = "registry-guarded";

/// Where both are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guarded {
    /// `host:port` of the registry, as in image references.
    pub registry: String,
    /// `host:port` of the giver of tokens.
    pub giver: String,
}

/// Starts the registry, over the storage of the first one.
pub async fn start(layout: &Layout) -> Result<Guarded> {
    let guarded = Guarded {
        registry: format!("127.0.0.1:{}", ports::free()?),
        giver: format!("127.0.0.1:{}", ports::free()?),
    };
    let dir = layout.dir(DIRECTORY)?;
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).context("failed to make a key")?;
    let certificate = CertificateParams::new(Vec::new())?.self_signed(&key)?;
    let trusted = dir.join("certificate.pem");
    std::fs::write(&trusted, certificate.pem()).context("failed to write the giver's certificate")?;
    std::fs::write(dir.join("certificate.der"), certificate.der())
        .context("failed to write the giver's certificate")?;
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).context("failed to write the giver's key")?;
    let own = json!({
        "storage": {
            "filesystem": {"rootdirectory": layout.dir("registry")?.join("data")},
            "maintenance": {"readonly": {"enabled": true}},
        },
        "http": {"addr": guarded.registry},
        "auth": {"token": {
            "realm": format!("http://{}/token", guarded.giver), "service": SERVICE, "issuer": ISSUER, "rootcertbundle": trusted,
        }},
    });
    let record = super::serve(layout, DIRECTORY, own)?;
    process::ready(&record, Duration::from_secs(30), || async {
        // It listens; to a question it would answer that nobody is let in.
        TcpStream::connect(&guarded.registry)
            .await
            .map(drop)
            .context("nobody listens")
    })
    .await?;
    Ok(guarded)
}

/// What the giver was asked, and what it gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// By whom; empty: by nobody that it knows.
    pub user: String,
    /// For what.
    pub scope: String,
    /// The token; empty: none.
    pub token: String,
}

/// The giver of tokens. It ends when this is dropped.
#[derive(Debug)]
pub struct Giver {
    asked: Arc<Mutex<Vec<Asked>>>,
    task: AbortHandle,
}

impl Drop for Giver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Shared {
    user: String,
    password: String,
    key: KeyPair,
    certificate: Vec<u8>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Giver {
    /// Starts it. It gives tokens to one user.
    pub async fn start(layout: &Layout, guarded: &Guarded, user: &str, password: &str) -> Result<Self> {
        let dir = layout.dir(DIRECTORY)?;
        let key = std::fs::read_to_string(dir.join("key.pem")).context("the guarded registry was started")?;
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let shared = Shared {
            user: user.to_owned(),
            password: password.to_owned(),
            key: KeyPair::from_pem(&key)?,
            certificate: std::fs::read(dir.join("certificate.der"))?,
            asked: Arc::clone(&asked),
        };
        let listener = TcpListener::bind(&guarded.giver).await;
        let listener = listener.with_context(|| format!("failed to listen on {}", guarded.giver))?;
        let routes = Router::new().route("/token", get(answer)).with_state(Arc::new(shared));
        let task = tokio::spawn(async move { axum::serve(listener, routes).await }).abort_handle();
        Ok(Self { asked, task })
    }

    /// Everything that it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Deserialize)]
struct Question {
    #[serde(default)]
    scope: String,
}

async fn answer(State(shared): State<Arc<Shared>>, Query(question): Query<Question>, headers: HeaderMap) -> Response {
    let said = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let wanted = format!("{}:{}", shared.user, shared.password);
    let known = said == Some(format!("Basic {}", BASE64.encode(wanted.as_bytes())).as_str());
    let token = if known {
        token(&shared, &question.scope)
    } else {
        Ok(String::new())
    };
    let Ok(token) = token else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let asked = Asked {
        user: if known { shared.user.clone() } else { String::new() },
        scope: question.scope,
        token: token.clone(),
    };
    shared.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    if !known {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    axum::Json(json!({"token": token, "expires_in": 300})).into_response()
}

/// A token for `repository:NAME:ACTION`.
fn token(shared: &Shared, scope: &str) -> Result<String> {
    let mut parts = scope.splitn(3, ':');
    let (kind, name, actions) = (parts.next(), parts.next(), parts.next());
    let actions: Vec<_> = actions.unwrap_or_default().split(',').collect();
    let now = SystemClock.wall().as_second();
    let header = json!({"typ": "JWT", "alg": "EdDSA", "x5c": [BASE64.encode(&shared.certificate)]});
    let claims = json!({
        "iss": ISSUER, "aud": SERVICE, "sub": shared.user, "iat": now, "nbf": now, "exp": now + 300, "jti": format!("{:x}", rand::random::<u64>()),
        "access": [{"type": kind, "name": name, "actions": actions}],
    });
    let part = |value: &serde_json::Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let signature = shared.key.sign(signed.as_bytes())?;
    Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
}
