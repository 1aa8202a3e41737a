//! What pull secrets say: which credential is for which image. Pure.
//!
//! The rules are the kubelet's: a key is a registry, with a `*` for a label of its name if need be and with the beginning of a path; the
//! most specific one that fits goes first. What must never happen: a password in a message or in Debug output.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use data_encoding::BASE64;
use oci_client::Reference;
use secrecy::SecretString;
use serde::Deserialize;

/// An image's repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Repository {
    /// Host, or host:port.
    pub(crate) registry: String,
    /// The name within it.
    pub(crate) name: String,
}

impl Repository {
    /// The repository of an image, as the vehicle reads it. `None`: it is no image name.
    pub(crate) fn of(image: &str) -> Option<Self> {
        let image: Reference = image.parse().ok()?;
        Some(Self {
            registry: image.registry().to_owned(),
            name: image.repository().to_owned(),
        })
    }
}

/// The names by which the credentials of one registry are known.
const DOCKER_NAMES: [&str; 3] = ["index.docker.io", "registry-1.docker.io", "docker.io"];

/// How somebody shows a registry who he is.
#[derive(Debug, Clone)]
pub(crate) enum Credential {
    /// By a name and a password.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: SecretString,
    },
    /// By a token that other tokens are got with.
    Identity(SecretString),
}

/// Every credential of some pull secrets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keyring(Vec<(Key, Credential)>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    host: String,
    path: String,
}

#[derive(Deserialize)]
struct Config {
    auths: HashMap<String, Entry>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
}

impl Keyring {
    /// Adds what a Secret of type `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg` holds. `Err`: it holds nothing of that; no
    /// word of its content is in the message.
    pub(crate) fn add(&mut self, data: &BTreeMap<String, Bytes>) -> Result<(), String> {
        let entries = if let Some(text) = data.get(".dockerconfigjson") {
            serde_json::from_slice::<Config>(text).map(|config| config.auths)
        } else if let Some(text) = data.get(".dockercfg") {
            serde_json::from_slice(text)
        } else {
            return Err("it has neither .dockerconfigjson nor .dockercfg".to_owned());
        };
        // What serde says may quote what it read.
        let entries: HashMap<String, Entry> = entries.map_err(|_| "it is not the JSON that it should be".to_owned())?;
        for (key, entry) in entries {
            let key = Key::read(&key);
            let credential = entry
                .credential()
                .map_err(|why| format!("its entry for {} {why}", key.host))?;
            self.0.push((key, credential));
        }
        // The most specific first; among equals in an order that does not change.
        self.0
            .sort_by(|(a, _), (b, _)| (b.path.len(), &b.host).cmp(&(a.path.len(), &a.host)));
        Ok(())
    }

    /// The credentials that may be for a repository, the most specific first.
    pub(crate) fn of<'a>(&'a self, repository: &'a Repository) -> impl Iterator<Item = &'a Credential> {
        self.0
            .iter()
            .filter(|(key, _)| key.fits(repository))
            .map(|(_, credential)| credential)
    }
}

impl Key {
    /// `https://index.docker.io/v1/`, `registry.example/team`, `*.example:5000`.
    fn read(text: &str) -> Self {
        let text = text.trim_start_matches("https://").trim_start_matches("http://");
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        // Of the protocol, not of a repository.
        let path = path.trim_end_matches('/');
        let path = if matches!(path, "v1" | "v2") { "" } else { path };
        let path = path
            .strip_prefix("v1/")
            .or_else(|| path.strip_prefix("v2/"))
            .unwrap_or(path);
        Self {
            host: host.to_owned(),
            path: path.to_owned(),
        }
    }

    fn fits(&self, repository: &Repository) -> bool {
        let host = |known: &str| DOCKER_NAMES.contains(&known);
        let same = if host(&self.host) {
            host(&repository.registry)
        } else {
            labels_fit(&self.host, &repository.registry)
        };
        same && repository.name.starts_with(&self.path)
    }
}

/// Label by label, the port with the last one; a `*` stands for a part of one label.
fn labels_fit(pattern: &str, host: &str) -> bool {
    let (pattern, port) = pattern.split_once(':').unwrap_or((pattern, ""));
    let (host, of_host) = host.split_once(':').unwrap_or((host, ""));
    let (patterns, labels): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), host.split('.').collect());
    port == of_host
        && patterns.len() == labels.len()
        && patterns
            .iter()
            .zip(labels)
            .all(|(pattern, label)| label_fits(pattern, label))
}

fn label_fits(pattern: &str, label: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == label,
        Some((before, after)) => {
            let rest = label.strip_prefix(before);
            rest.is_some_and(|rest| {
                (0..=rest.len()).any(|at| rest.is_char_boundary(at) && label_fits(after, &rest[at..]))
            })
        }
    }
}

impl Entry {
    fn credential(self) -> Result<Credential, &'static str> {
        if !self.identitytoken.is_empty() {
            return Ok(Credential::Identity(self.identitytoken.into()));
        }
        if self.auth.is_empty() {
            if self.username.is_empty() {
                return Err("names nobody");
            }
            return Ok(Credential::Basic {
                user: self.username,
                password: self.password.into(),
            });
        }
        let unreadable = "has an auth that is not base64 of user:password";
        let text = BASE64.decode(self.auth.as_bytes()).map_err(|_| unreadable)?;
        let text = String::from_utf8(text).map_err(|_| unreadable)?;
        let (user, password) = text.split_once(':').ok_or(unreadable)?;
        Ok(Credential::Basic {
            user: user.to_owned(),
            password: password.trim_end_matches('\0').to_owned().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn secret(auths: &Value) -> BTreeMap<String, Bytes> {
        let text = json!({"auths": auths}).to_string();
        [(".dockerconfigjson".to_owned(), text.into_bytes().into())].into()
    }

    fn users(keys: &[&str], image: &str) -> Vec<String> {
        let entries = keys
            .iter()
            .map(|key| ((*key).to_owned(), json!({"username": key, "password": "hush"})));
        let mut ring = Keyring::default();
        ring.add(&secret(&entries.collect::<serde_json::Map<_, _>>().into()))
            .unwrap();
        let repository = Repository::of(image).unwrap();
        let user = |credential: &Credential| match credential {
            Credential::Basic { user, .. } => user.clone(),
            Credential::Identity(_) => "identity".to_owned(),
        };
        ring.of(&repository).map(user).collect()
    }

    #[rstest]
    #[case("nginx", "docker.io", "library/nginx")]
    #[case("team/app:1", "docker.io", "team/app")]
    #[case("registry.example/app", "registry.example", "app")]
    #[case("localhost/app:1", "localhost", "app")]
    #[case(
        "127.0.0.1:5000/a/b/c:1@sha256:0000000000000000000000000000000000000000000000000000000000000000",
        "127.0.0.1:5000",
        "a/b/c"
    )]
    fn image_name_has_a_registry_and_a_repository(#[case] image: &str, #[case] registry: &str, #[case] name: &str) {
        let repository = Repository::of(image).unwrap();
        assert_eq!(
            (repository.registry.as_str(), repository.name.as_str()),
            (registry, name)
        );
    }

    #[rstest]
    #[case::exact("registry.example", "registry.example/app", true)]
    #[case::other_host("registry.example", "other.example/app", false)]
    #[case::port("registry.example:5000", "registry.example:5000/app", true)]
    #[case::other_port("registry.example:5000", "registry.example/app", false)]
    #[case::path("registry.example/team", "registry.example/team/app", true)]
    #[case::other_path("registry.example/team", "registry.example/other/app", false)]
    #[case::any_label("*.example", "registry.example/app", true)]
    #[case::part_of_a_label("reg*.example", "registry.example/app", true)]
    #[case::one_label_only("*.example", "a.registry.example/app", false)]
    #[case::address("https://registry.example/v2/", "registry.example/app", true)]
    #[case::hub("https://index.docker.io/v1/", "nginx", true)]
    #[case::hub_by_its_name("docker.io", "team/app", true)]
    #[case::hub_is_no_other("docker.io", "registry.example/app", false)]
    fn key_fits_as_under_a_kubelet(#[case] key: &str, #[case] image: &str, #[case] fits: bool) {
        assert_eq!(!users(&[key], image).is_empty(), fits);
    }

    #[test]
    fn most_specific_key_goes_first() {
        let keys = [
            "registry.example",
            "registry.example/team/app",
            "registry.example/team",
            "*.example",
        ];
        let found = users(&keys, "registry.example/team/app:1");
        assert_eq!(found[..2], ["registry.example/team/app", "registry.example/team"]);
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn every_form_of_a_credential_is_read_and_none_is_shown() {
        let mut ring = Keyring::default();
        let basic = BASE64.encode(b"ann:hush:hush");
        ring.add(&secret(
            &json!({"a.example": {"auth": basic}, "b.example": {"identitytoken": "hush"}}),
        ))
        .unwrap();
        let old = json!({"c.example": {"username": "cy", "password": "hush", "email": "x"}}).to_string();
        ring.add(&[(".dockercfg".to_owned(), old.into_bytes().into())].into())
            .unwrap();
        assert!(!format!("{ring:?}").contains("hush"));
        let of = |image| ring.of(&Repository::of(image).unwrap()).next().cloned();
        assert!(matches!(of("a.example/x"), Some(Credential::Basic { user, .. }) if user == "ann"));
        assert!(matches!(of("b.example/x"), Some(Credential::Identity(_))));
        assert!(matches!(of("c.example/x"), Some(Credential::Basic { user, .. }) if user == "cy"));
        assert!(of("d.example/x").is_none());
    }

    #[rstest]
    #[case::nothing(json!(null), "neither")]
    #[case::no_json(json!("hush{"), "JSON")]
    #[case::nobody(json!({"auths": {"a.example": {}}}), "a.example names nobody")]
    #[case::no_base64(json!({"auths": {"a.example": {"auth": "hush!"}}}), "base64")]
    fn secret_that_is_none_says_so_and_nothing_of_what_it_holds(#[case] value: Value, #[case] says: &str) {
        let data = match value {
            Value::Null => BTreeMap::new(),
            Value::String(text) => [(".dockerconfigjson".to_owned(), text.into_bytes().into())].into(),
            other => [(".dockerconfigjson".to_owned(), other.to_string().into_bytes().into())].into(),
        };
        let message = Keyring::default().add(&data).unwrap_err();
        assert!(message.contains(says) && !message.contains("hush"), "{message}");
    }
}
