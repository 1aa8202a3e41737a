//! The cache, with a registry of a few lines of HTTP: what a real one does is tested by the cluster tests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

mod containers;
pub(crate) mod signing;

const WASM: &[u8] = b"\0asm\x01\0\0\0";

/// Paths and what is answered; counts the requests.
pub(crate) struct FakeRegistry {
    pub(crate) host: String,
    requests: Arc<AtomicUsize>,
    answers: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    /// Paths that are answered with another status.
    failing: Arc<Mutex<BTreeMap<String, &'static str>>>,
    /// The token that came with each request.
    shown: Arc<Mutex<Vec<Option<String>>>>,
    /// Every request as it came.
    asked: Arc<Mutex<Vec<String>>>,
}

impl FakeRegistry {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(AtomicUsize::new(0));
        let answers: Arc<Mutex<BTreeMap<String, Vec<u8>>>> = Arc::default();
        let shown: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (count, known, tokens) = (Arc::clone(&requests), Arc::clone(&answers), Arc::clone(&shown));
        let record = Arc::clone(&asked);
        let failing: Arc<Mutex<BTreeMap<String, &'static str>>> = Arc::default();
        let broken = Arc::clone(&failing);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut request = vec![0; 8192];
                let length = socket.read(&mut request).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&request[..length]).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
                record.lock().unwrap().push(text.clone());
                if path != "/v2/" {
                    count.fetch_add(1, Ordering::SeqCst);
                    let token = text.lines().find_map(|line| {
                        let (name, value) = line.split_once(": ")?;
                        name.eq_ignore_ascii_case("authorization").then(|| value.to_owned())
                    });
                    tokens.lock().unwrap().push(token);
                }
                let answer = if path == "/v2/" {
                    Some(Vec::new())
                } else {
                    known.lock().unwrap().get(&path).cloned()
                };
                let (mut status, body) = answer.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
                if let Some(other) = broken.lock().unwrap().get(&path).copied() {
                    status = other;
                }
                let head = format!(
                    "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                let _ = socket.write_all(head.as_bytes()).await;
                let _ = socket.write_all(&body).await;
            }
        });
        Self {
            host,
            requests,
            answers,
            failing,
            shown,
            asked,
        }
    }

    /// Whether a path is answered with 500.
    pub(crate) fn fail(&self, path: &str, fails: bool) {
        if fails {
            self.answer_by(path, "500 Internal Server Error");
        } else {
            self.failing.lock().unwrap().remove(path);
        }
    }

    /// With which status a path is answered.
    pub(crate) fn answer_by(&self, path: &str, status: &'static str) {
        self.failing.lock().unwrap().insert(path.to_owned(), status);
    }

    /// What a path is answered with.
    pub(crate) fn given(&self, path: &str) -> Vec<u8> {
        self.answers.lock().unwrap()[path].clone()
    }

    pub(crate) fn answer(&self, path: &str, body: &[u8]) {
        self.answers.lock().unwrap().insert(path.to_owned(), body.to_vec());
    }

    pub(crate) fn blob(&self, content: &[u8]) -> serde_json::Value {
        let digest = digest_of(content);
        self.answer(&format!("/v2/app/blobs/{digest}"), content);
        json!({"digest": digest, "size": content.len()})
    }

    pub(crate) fn manifest(&self, tag: &str, config: &str, layers: &[(&str, &[u8])]) -> String {
        let with = |mut blob: serde_json::Value, media_type: &str| {
            blob["mediaType"] = json!(media_type);
            blob
        };
        let layers: Vec<_> = layers
            .iter()
            .map(|(media_type, bytes)| with(self.blob(bytes), media_type))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": with(self.blob(b"{}"), config),
            "layers": layers,
        });
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let digest = digest_of(&bytes);
        self.answer(&format!("/v2/app/manifests/{tag}"), &bytes);
        self.answer(&format!("/v2/app/manifests/{digest}"), &bytes);
        digest
    }

    pub(crate) fn wasm(&self, tag: &str) -> String {
        self.manifest(
            tag,
            "application/vnd.wasm.config.v0+json",
            &[("application/wasm", WASM)],
        )
    }

    pub(crate) fn images(&self, root: &Path) -> Images {
        Images::open(root, vec![self.host.clone()], 1 << 30).unwrap()
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

pub(crate) fn nobody() -> BTreeMap<String, String> {
    BTreeMap::new()
}

async fn not_ready(images: &Images, reference: &str) -> NotReady {
    NotReady::from(
        images
            .module(reference, PullPolicy::IfNotPresent, &nobody())
            .await
            .unwrap_err(),
    )
}

#[tokio::test]
async fn module_is_fetched_once_and_then_found_by_tag_and_digest() {
    let (registry, temp) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let digest = registry.wasm("v1");
    let images = registry.images(temp.path());
    let tagged = format!("{}/app:v1", registry.host);
    let module = images
        .module(&tagged, PullPolicy::IfNotPresent, &nobody())
        .await
        .unwrap();
    assert_eq!(std::fs::read(&module.path).unwrap(), WASM);
    assert_eq!(module.image_id, format!("{}/app@{digest}", registry.host));
    let requests = registry.requests();
    assert_eq!(
        images
            .module(&tagged, PullPolicy::IfNotPresent, &nobody())
            .await
            .unwrap(),
        module
    );
    assert_eq!(
        images.module(&tagged, PullPolicy::Never, &nobody()).await.unwrap(),
        module
    );
    assert_eq!(registry.requests(), requests, "nothing is asked for what is there");
    images.module(&tagged, PullPolicy::Always, &nobody()).await.unwrap();
    assert_eq!(
        registry.requests(),
        requests + 1,
        "Always asks for the manifest, and only for that"
    );
    let pinned = format!("{}/app@{digest}", registry.host);
    images.module(&pinned, PullPolicy::Always, &nobody()).await.unwrap();
    images.module(&pinned, PullPolicy::Always, &nobody()).await.unwrap();
    assert_eq!(
        registry.requests(),
        requests + 2,
        "a digest is asked for once, whatever the policy"
    );
}

#[tokio::test]
async fn nothing_is_fetched_that_the_owner_does_not_let_through_and_all_of_it_counts() {
    let (registry, temp) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    registry.wasm("v1");
    let images = registry.images(temp.path());
    let directory = directory::Directory::open(&temp.path().join("car")).unwrap();
    let clock: Arc<dyn kerbside_core::clock::Clock> = Arc::new(kerbside_link::SystemClock);
    let uplink = Uplink::open(&crate::config::Car::default(), &directory, &clock);
    images.count_by(&uplink);
    let reference = format!("{}/app:v1", registry.host);
    let why = not_ready(&images, &reference).await;
    assert_eq!((why.reason.as_str(), why.retry), ("ErrImagePull", true));
    assert!(why.message.contains("lets it fetch no images now"), "{}", why.message);
    assert_eq!((registry.requests(), uplink.now(false).moved.bytes), (0, 0));
    uplink.look(crate::uplink::Seen {
        date: None,
        may_move: true,
    });
    images
        .module(&reference, PullPolicy::IfNotPresent, &nobody())
        .await
        .unwrap();
    let moved = uplink.now(false).moved.bytes;
    assert!(
        moved > u64::try_from(WASM.len()).unwrap(),
        "{moved} bytes, of the manifest and the module"
    );
}

#[tokio::test]
async fn image_that_is_not_there_backs_off() {
    let (registry, temp) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let images = registry.images(temp.path());
    let why = not_ready(&images, &format!("{}/app:none", registry.host)).await;
    assert_eq!(
        (why.reason.as_str(), why.meanwhile.as_deref(), why.retry),
        ("ErrImagePull", Some("ImagePullBackOff"), true)
    );
    assert!(why.message.contains("app:none"), "{}", why.message);
}

#[tokio::test]
async fn registry_that_is_down_backs_off_with_the_cause() {
    let temp = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let images = Images::open(temp.path(), vec![host.clone()], 1).unwrap();
    let why = not_ready(&images, &format!("{host}/app:v1")).await;
    assert_eq!(why.reason, "ErrImagePull");
    assert!(why.message.to_lowercase().contains("connect"), "{}", why.message);
}

#[tokio::test]
async fn image_that_may_not_be_fetched_says_so() {
    let (registry, temp) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let images = registry.images(temp.path());
    let error = images
        .module(&format!("{}/app:v1", registry.host), PullPolicy::Never, &nobody())
        .await
        .unwrap_err();
    assert_eq!(NotReady::from(error).reason, "ErrImageNeverPull");
    assert_eq!(registry.requests(), 0);
}

#[tokio::test]
async fn name_of_no_image_is_invalid() {
    let (registry, temp) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let why = not_ready(&registry.images(temp.path()), "Not An Image").await;
    assert_eq!((why.reason.as_str(), why.retry), ("InvalidImageName", false));
}

#[tokio::test]
async fn artefact_that_is_not_wasm_says_what_it_is() {
    let (registry, temp) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    registry.manifest(
        "v1",
        "application/vnd.oci.image.config.v1+json",
        &[("application/wasm", WASM)],
    );
    let why = not_ready(&registry.images(temp.path()), &format!("{}/app:v1", registry.host)).await;
    assert_eq!(why.reason, "ErrImagePull");
    assert!(why.message.contains("not a WebAssembly artefact"), "{}", why.message);
}

#[tokio::test]
async fn blob_or_manifest_with_another_digest_is_not_taken() {
    let (registry, temp) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    registry.wasm("v1");
    let path = format!("/v2/app/blobs/{}", digest_of(WASM));
    let images = registry.images(temp.path());
    for (body, says) in [
        (&b"\0asm\x02\0\0\0"[..], "digest"),
        (b"\0asm", "digest"),
        (b"\0asm\x01\0\0\0more", "more than"),
    ] {
        registry.answer(&path, body);
        let why = not_ready(&images, &format!("{}/app:v1", registry.host)).await;
        assert!(
            why.reason == "ErrImagePull" && why.message.contains(says),
            "{}",
            why.message
        );
    }
    let wrong = digest_of(b"something else");
    let other = registry.answers.lock().unwrap()["/v2/app/manifests/v1"].clone();
    registry.answer(&format!("/v2/app/manifests/{wrong}"), &other);
    let why = not_ready(&images, &format!("{}/app@{wrong}", registry.host)).await;
    assert!(
        why.reason == "ErrImagePull" && why.message.to_lowercase().contains("digest"),
        "{}",
        why.message
    );
    let blobs = std::fs::read_dir(temp.path().join("blobs")).unwrap();
    assert!(
        blobs
            .map(|entry| entry.unwrap().path())
            .all(|path| path.extension().is_none()),
        "no partial file is left"
    );
}

fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

#[tokio::test]
async fn data_artefact_is_unpacked_once() {
    let (registry, temp) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let layer = tar(&[("weights.bin", "w"), ("sub/labels", "l")]);
    registry.manifest(
        "v1",
        "application/vnd.oci.empty.v1+json",
        &[("application/vnd.oci.image.layer.v1.tar", &layer)],
    );
    let images = registry.images(temp.path());
    let reference = format!("{}/app:v1", registry.host);
    let files = images
        .files(&reference, PullPolicy::IfNotPresent, &nobody())
        .await
        .unwrap();
    assert_eq!(std::fs::read_to_string(files.path.join("sub/labels")).unwrap(), "l");
    let requests = registry.requests();
    assert_eq!(
        images
            .files(&reference, PullPolicy::IfNotPresent, &nobody())
            .await
            .unwrap(),
        files
    );
    assert_eq!(registry.requests(), requests);
}

#[tokio::test]
async fn data_artefact_that_leaves_its_directory_is_refused_and_leaves_nothing() {
    let (registry, temp) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..7].copy_from_slice(b"../evil");
    header.set_size(1);
    header.set_cksum();
    builder.append(&header, &b"x"[..]).unwrap();
    let layer = builder.into_inner().unwrap();
    registry.manifest(
        "v1",
        "application/vnd.oci.empty.v1+json",
        &[("application/vnd.oci.image.layer.v1.tar", &layer)],
    );
    let images = registry.images(temp.path());
    let reference = format!("{}/app:v1", registry.host);
    let error = images
        .files(&reference, PullPolicy::IfNotPresent, &nobody())
        .await
        .unwrap_err();
    let why = NotReady::from(error);
    assert!(
        why.reason == "ErrImagePull" && why.message.contains("leaves its directory"),
        "{}",
        why.message
    );
    assert_eq!(std::fs::read_dir(temp.path().join("trees")).unwrap().count(), 0);
}

#[tokio::test]
async fn remembered_manifest_that_was_damaged_is_fetched_again() {
    let (registry, temp) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let digest = registry.wasm("v1");
    let images = registry.images(temp.path());
    let reference = format!("{}/app:v1", registry.host);
    images
        .module(&reference, PullPolicy::IfNotPresent, &nobody())
        .await
        .unwrap();
    std::fs::write(temp.path().join("blobs").join(hex_of(&digest).unwrap()), b"damaged").unwrap();
    images
        .module(&reference, PullPolicy::IfNotPresent, &nobody())
        .await
        .unwrap();
}

#[tokio::test]
async fn cache_beyond_its_limit_loses_what_is_oldest_and_what_was_half_done() {
    let temp = tempfile::tempdir().unwrap();
    let images = Images::open(temp.path(), Vec::new(), 25).unwrap();
    let blobs = temp.path().join("blobs");
    for (name, age) in [("old", 300), ("middle", 200), ("new", 100)] {
        std::fs::write(blobs.join(name), [0; 10]).unwrap();
        let time = nix::sys::time::TimeVal::new(1_700_000_000 - age, 0);
        nix::sys::stat::utimes(&blobs.join(name), &time, &time).unwrap();
    }
    std::fs::write(blobs.join("x.part"), [0; 10]).unwrap();
    images.collect().await.unwrap();
    let mut left: Vec<_> = std::fs::read_dir(&blobs)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["middle", "new"]);
}

impl Images {
    /// Puts a module into the cache as if it had been fetched.
    pub(crate) fn seed(&self, reference: &str) {
        let blob = |media_type: &str, bytes: &[u8]| {
            let digest = digest_of(bytes);
            std::fs::write(self.blobs().join(hex_of(&digest).unwrap()), bytes).unwrap();
            json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
        };
        let manifest = json!({
            "config": blob("application/vnd.wasm.config.v0+json", b"{}"),
            "layers": [blob("application/wasm", WASM)],
        });
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let digest = digest_of(&bytes);
        blob("manifest", &bytes);
        let whole = parse(reference).unwrap().whole();
        let resolved = Resolved {
            reference: whole.clone(),
            digest,
        };
        let place = self
            .inner
            .root
            .join("references")
            .join(hex_of(&digest_of(whole.as_bytes())).unwrap());
        std::fs::write(place, serde_json::to_vec(&resolved).unwrap()).unwrap();
    }
}

#[tokio::test]
async fn token_is_shown_for_its_repository_by_those_who_have_it_alone() {
    let (registry, temp) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    registry.wasm("v1");
    let images = registry.images(temp.path());
    let tagged = format!("{}/app:v1", registry.host);
    let with = |name: &str, token: &str| BTreeMap::from([(format!("{}/{name}", registry.host), token.to_owned())]);
    for (credentials, expected) in [
        (with("app", "first"), Some("Bearer first")),
        // Who has none is not let in by another's; nor is who has one for something else.
        (nobody(), None),
        (with("other", "first"), None),
        (with("app", "second"), Some("Bearer second")),
        (with("app", "first"), Some("Bearer first")),
    ] {
        registry.shown.lock().unwrap().clear();
        images.module(&tagged, PullPolicy::Always, &credentials).await.unwrap();
        let shown = registry.shown.lock().unwrap().clone();
        assert!(
            !shown.is_empty() && shown.iter().all(|token| token.as_deref() == expected),
            "{shown:?}"
        );
    }
    // Neither in the cache nor beside it.
    for entry in std::fs::read_dir(temp.path().join("references")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(!text.contains("first") && !text.contains("second"), "{text}");
    }
}

/// What a registry that has a token for the car hears of it: what is pulled, by which program, with which token; and nothing that tells of the car.
#[tokio::test]
async fn pull_tells_a_registry_what_is_pulled_and_nothing_else() {
    let (registry, temp) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    registry.wasm("v1");
    let credentials = BTreeMap::from([(format!("{}/app", registry.host), "token-of-the-pod".to_owned())]);
    let images = registry.images(temp.path());
    let tagged = format!("{}/app:v1", registry.host);
    images.module(&tagged, PullPolicy::Always, &credentials).await.unwrap();
    let asked = registry.asked.lock().unwrap().clone();
    assert!(asked.len() >= 2, "a manifest and a layer: {asked:?}");
    for request in &asked {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "", "{request}");
        let (first, lines) = head.split_once("\r\n").unwrap();
        assert!(
            first == "GET /v2/ HTTP/1.1" || first.starts_with("GET /v2/app/"),
            "{first}"
        );
        for line in lines.lines() {
            let (name, value) = line.split_once(": ").unwrap();
            let known = match name.to_ascii_lowercase().as_str() {
                "host" => value == registry.host,
                "authorization" => value == "Bearer token-of-the-pod",
                "user-agent" => value.starts_with("oci-client/"),
                "accept" | "accept-encoding" | "range" => true,
                _ => false,
            };
            assert!(known, "{line}");
        }
    }
}
