//! `kubectl fleet enrol`: a one-time token for one car.
//!
//! The secret half is printed once and stored nowhere; the cluster keeps its hash, so that nobody who reads Secrets can enrol a
//! car with what is found there.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kerbside_api::v1alpha1::VehiclePool;
use kerbside_core::clock::Clock;
use kerbside_core::ids::PoolName;
use kerbside_core::{duration, names};
use kerbside_link::identity::{self, EnrolmentToken};
use kube::Client;
use kube::api::{Api, PostParams};

use crate::Error;
use crate::cli::Enrol;

/// Name of the ConfigMap that holds the link's CA.
const CA: &str = "kerbside-link-ca";

/// The Secret that the operator checks a car's token against; its hash opens nothing.
fn secret_of(token: &EnrolmentToken, pool: &PoolName, labels: &BTreeMap<String, String>, expires: Timestamp) -> Secret {
    let labels = serde_json::to_string(labels).unwrap_or_else(|_| "{}".to_owned());
    let data = [
        ("hash", token.secret_hash()),
        ("pool", pool.to_string()),
        ("labels", labels),
        ("expires", expires.to_string()),
    ];
    Secret {
        metadata: ObjectMeta {
            name: Some(format!("kerbside-token-{}", token.id())),
            labels: Some(BTreeMap::from([(
                names::label::ENROLMENT_TOKEN.to_owned(),
                "true".to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        type_: Some("kerbside.dev/enrolment-token".into()),
        data: Some(
            data.into_iter()
                .map(|(k, v)| (k.to_owned(), ByteString(v.into_bytes())))
                .collect(),
        ),
        ..Secret::default()
    }
}

/// Creates the token's Secret and prints the line to run in the car.
pub async fn run(client: &Client, system: &str, args: &Enrol, out: &mut impl Write) -> Result<(), Error> {
    let pool: PoolName = args.pool.parse().map_err(|e| Error::Refused(format!("{e}")))?;
    let labels = parse_labels(&args.labels)?;
    let ttl = duration::parse(&args.ttl).map_err(|e| Error::Refused(format!("--ttl: {e}")))?;
    if !args.link.starts_with("https://") {
        return Err(Error::Refused(format!("--link {}: write https://HOST:PORT", args.link)));
    }
    let pools: Api<VehiclePool> = Api::all(client.clone());
    let found = pools
        .get_opt(pool.as_str())
        .await
        .map_err(Error::api(format!("look up the pool {pool}")))?;
    if found.is_none() {
        return Err(Error::Refused(format!(
            "there is no VehiclePool '{pool}'; 'kubectl get vehiclepools' lists them"
        )));
    }
    let token = EnrolmentToken::generate(ca_sha256(client, system).await?);
    let expires = kerbside_link::SystemClock
        .wall()
        .saturating_add(ttl)
        .map_err(|e| Error::Refused(format!("--ttl: {e}")))?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), system);
    let object = secret_of(&token, &pool, &labels, expires);
    secrets
        .create(&PostParams::default(), &object)
        .await
        .map_err(Error::api("create the token"))?;
    if let Some(path) = &args.token_file {
        return write_secret(path, &token.to_string());
    }
    writeln!(
        out,
        "# Run this once in the car, before {expires:.0}. It is shown only now.\nkerbside-agent enrol --link {} --token {}",
        args.link, token
    )
    .map_err(Error::Print)
}

/// Writes the token where only its owner reads it.
fn write_secret(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |source| Error::Write {
        path: path.display().to_string(),
        source,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

/// SHA-256 of the link's CA, so that the car knows whom it talks to before it trusts anybody.
async fn ca_sha256(client: &Client, system: &str) -> Result<[u8; 32], Error> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), system);
    let missing = || {
        Error::Refused(format!(
            "there is no ConfigMap '{CA}' with a 'ca.crt' in namespace '{system}'; the operator makes it: is it running there?"
        ))
    };
    let map = maps
        .get_opt(CA)
        .await
        .map_err(Error::api("read the link's CA"))?
        .ok_or_else(missing)?;
    let pem = map.data.and_then(|d| d.get("ca.crt").cloned()).ok_or_else(missing)?;
    let chain =
        identity::chain_from_pem(&pem).map_err(|e| Error::Refused(format!("the link's CA is unusable: {e}")))?;
    chain.first().map(|der| identity::sha256(der)).ok_or_else(missing)
}

fn parse_labels(texts: &[String]) -> Result<BTreeMap<String, String>, Error> {
    let mut labels = BTreeMap::new();
    for text in texts {
        let Some((key, value)) = text.split_once('=').filter(|(k, _)| !k.is_empty()) else {
            return Err(Error::Refused(format!("--label {text}: write KEY=VALUE")));
        };
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_of_a_token_does_not_hold_its_secret_half() {
        let token = EnrolmentToken::generate([7; 32]);
        let object = secret_of(
            &token,
            &"demo".parse().unwrap(),
            &BTreeMap::new(),
            Timestamp::UNIX_EPOCH,
        );
        let stored = serde_json::to_string(&object).unwrap();
        let text = token.to_string();
        let secret = text.split('.').nth(2).unwrap();
        assert!(!stored.contains(secret));
        assert!(object.metadata.name.unwrap().ends_with(token.id()));
    }

    #[test]
    fn token_file_is_readable_by_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("kerbside-token-{}", std::process::id()));
        write_secret(&path, "kb1.secret").unwrap();
        let (text, mode) = (
            std::fs::read_to_string(&path).unwrap(),
            std::fs::metadata(&path).unwrap().permissions().mode(),
        );
        std::fs::remove_file(&path).unwrap();
        assert_eq!((text.as_str(), mode & 0o777), ("kb1.secret", 0o600));
    }

    #[rstest::rstest]
    #[case("fleet")]
    #[case("=acme")]
    fn label_that_is_no_pair_is_refused(#[case] text: &str) {
        let error = parse_labels(&[text.to_owned()]).unwrap_err().to_string();
        assert!(error.contains("write KEY=VALUE"), "{error}");
    }
}
