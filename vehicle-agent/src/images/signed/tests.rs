//! Images and their signatures in a registry of a few lines of HTTP, signed by keys that are made here.

use data_encoding::BASE64;
use kerbside_core::attempt::NotReady;
use kerbside_core::names::reason;
use serde_json::json;

use super::super::manifest::architecture;
use super::super::signature::SIGNS;
use super::super::tests::signing::{Signer, beside, put};
use super::super::tests::{FakeRegistry, nobody};
use super::*;

struct Fixture {
    registry: FakeRegistry,
    images: Images,
    alice: Signer,
    publishers: Vec<Publisher>,
    _temp: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let (registry, temp) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
        let alice = Signer::new();
        Self {
            images: registry.images(temp.path()),
            publishers: vec![alice.as_publisher("alice"), Signer::new().as_publisher("bob")],
            registry,
            alice,
            _temp: temp,
        }
    }

    fn name(&self, tag: &str) -> String {
        format!("{}/app:{tag}", self.registry.host)
    }

    fn by_digest(&self, digest: &str) -> String {
        format!("{}/app@{digest}", self.registry.host)
    }

    async fn signed(&self, reference: &str, policy: PullPolicy) -> Result<String, ImageError> {
        self.signed_for(reference, policy, false).await
    }

    async fn signed_for(&self, reference: &str, policy: PullPolicy, engine: bool) -> Result<String, ImageError> {
        let wanted = Wanted {
            reference,
            policy,
            engine,
        };
        self.images.signed(wanted, &nobody(), &self.publishers).await
    }

    /// Why an image is refused.
    async fn refused(&self, reference: &str) -> String {
        let error = self.signed(reference, PullPolicy::Always).await.unwrap_err();
        let why = NotReady::from(error);
        assert_eq!(
            (why.reason.as_str(), why.retry),
            (reason::SIGNATURE_VALIDATION_FAILED, false),
            "{}",
            why.message
        );
        why.message
    }
}

#[tokio::test]
async fn image_that_is_signed_is_fetched_by_the_digest_that_was_signed() {
    let fixture = Fixture::new().await;
    let digest = fixture.registry.wasm("v1");
    put(
        &fixture.registry,
        &digest,
        &[
            Signer::new().layer(&fixture.registry, &digest),
            fixture.alice.layer(&fixture.registry, &digest),
        ],
    );
    let pinned = fixture.signed(&fixture.name("v1"), PullPolicy::Always).await.unwrap();
    assert_eq!(pinned, fixture.by_digest(&digest));
    // Whatever the tag means meanwhile.
    fixture.registry.manifest("v1", "another", &[]);
    let module = fixture.images.module(&pinned, PullPolicy::Always, &nobody()).await;
    assert_eq!(module.unwrap().image_id, pinned);
}

#[tokio::test]
async fn owner_who_names_nobody_has_nobody_asked() {
    let mut fixture = Fixture::new().await;
    fixture.publishers.clear();
    let name = fixture.name("v1");
    assert_eq!(fixture.signed(&name, PullPolicy::Always).await.unwrap(), name);
    assert_eq!(fixture.registry.requests(), 0);
}

#[tokio::test]
async fn refusal_names_the_image_its_digest_and_whose_signature_was_looked_for() {
    let fixture = Fixture::new().await;
    let digest = fixture.registry.wasm("v1");
    let message = fixture.refused(&fixture.name("v1")).await;
    for part in [
        fixture.name("v1"),
        digest,
        "alice, bob".to_owned(),
        "it has none".to_owned(),
    ] {
        assert!(message.contains(&part), "{message}");
    }
}

#[tokio::test]
async fn refusal_is_known_for_a_while_until_the_image_is_signed() {
    let fixture = Fixture::new().await;
    let (digest, name) = (fixture.registry.wasm("v1"), fixture.name("v1"));
    let wanted = |engine| Wanted {
        reference: &name,
        policy: PullPolicy::Always,
        engine,
    };
    let known = || fixture.images.known_unsigned(wanted(false), &fixture.publishers);
    assert_eq!(known(), None);
    let message = fixture.refused(&name).await;
    assert_eq!(known(), Some(message));
    assert_eq!(
        fixture.images.known_unsigned(wanted(false), &[]),
        None,
        "the owner asks for none any more"
    );
    assert_eq!(
        fixture.images.known_unsigned(wanted(true), &fixture.publishers),
        None,
        "a container engine may take another manifest of it"
    );
    put(
        &fixture.registry,
        &digest,
        &[fixture.alice.layer(&fixture.registry, &digest)],
    );
    fixture.signed(&name, PullPolicy::Always).await.unwrap();
    assert_eq!(known(), None);
}

#[tokio::test]
async fn tag_that_was_moved_after_the_signature_is_refused() {
    let fixture = Fixture::new().await;
    let signed = fixture.registry.wasm("v1");
    put(
        &fixture.registry,
        &signed,
        &[fixture.alice.layer(&fixture.registry, &signed)],
    );
    fixture.signed(&fixture.name("v1"), PullPolicy::Always).await.unwrap();
    let moved = fixture.registry.manifest("v1", "another", &[]);
    // Its own signatures are those of the first.
    put(
        &fixture.registry,
        &moved,
        &[fixture.alice.layer(&fixture.registry, &signed)],
    );
    let message = fixture.refused(&fixture.name("v1")).await;
    assert!(message.contains(&format!("for another image, {signed}")), "{message}");
}

#[tokio::test]
async fn what_is_beside_an_image_and_no_signature_of_theirs_is_told() {
    let fixture = Fixture::new().await;
    let digest = fixture.registry.wasm("v1");
    let registry = &fixture.registry;
    let mut cut = fixture.alice.layer(registry, &digest);
    let text = cut["annotations"][ANNOTATION].as_str().unwrap().to_owned();
    cut["annotations"][ANNOTATION] = json!(&text[..text.len() - 1]);
    let mut large = fixture.alice.layer(registry, &digest);
    large["size"] = json!(PAYLOAD_MAX + 1);
    let mut bare = fixture.alice.layer(registry, &digest);
    bare["annotations"] = json!({});
    for (layer, says) in [
        (Signer::new().layer(registry, &digest), "none of their keys"),
        (cut, "cut off"),
        (large, "too large"),
        (bare, "not known"),
    ] {
        put(registry, &digest, &[layer]);
        let message = fixture.refused(&fixture.name("v1")).await;
        assert!(message.contains(says), "{message}");
    }
    registry.answer(&beside(&digest), b"no manifest");
    assert!(fixture.refused(&fixture.name("v1")).await.contains("not known"));
}

#[tokio::test]
async fn of_very_many_signatures_the_newest_are_tried() {
    let fixture = Fixture::new().await;
    let digest = fixture.registry.wasm("v1");
    let other = Signer::new().layer(&fixture.registry, &digest);
    let mut layers = vec![fixture.alice.layer(&fixture.registry, &digest)];
    layers.extend(vec![other; MOST]);
    put(&fixture.registry, &digest, &layers);
    fixture.refused(&fixture.name("v1")).await;
    layers.pop();
    // What is no signature is none of so many.
    let mut note = layers[1].clone();
    note["mediaType"] = json!("text/plain");
    layers.extend(vec![note; MOST]);
    put(&fixture.registry, &digest, &layers);
    fixture.signed(&fixture.name("v1"), PullPolicy::Always).await.unwrap();
}

#[tokio::test]
async fn registry_that_does_not_give_a_signature_is_asked_again_and_nothing_runs() {
    let fixture = Fixture::new().await;
    let digest = fixture.registry.wasm("v1");
    let place = beside(&digest);
    let layer = fixture.alice.layer(&fixture.registry, &digest);
    let blob = format!("/v2/app/blobs/{}", layer["digest"].as_str().unwrap());
    put(&fixture.registry, &digest, std::slice::from_ref(&layer));
    for path in [&place, &blob] {
        fixture.registry.fail(path, true);
        let error = fixture
            .signed(&fixture.name("v1"), PullPolicy::Always)
            .await
            .unwrap_err();
        let why = NotReady::from(error);
        assert_eq!(
            (why.reason.as_str(), why.meanwhile.as_deref(), why.retry),
            ("ErrImagePull", Some("ImagePullBackOff"), true)
        );
        fixture.registry.fail(path, false);
    }
    // Bytes of another digest: the registry is broken, or lies.
    let payload = fixture.registry.given(&blob);
    fixture.registry.answer(&blob, &vec![b' '; payload.len()]);
    let error = fixture
        .signed(&fixture.name("v1"), PullPolicy::Always)
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::Pull(_)), "{error}");
    fixture.registry.answer(&blob, &payload);
    fixture.signed(&fixture.name("v1"), PullPolicy::Always).await.unwrap();
}

#[tokio::test]
async fn signature_is_kept_and_counts_as_long_as_the_owner_names_its_key() {
    let mut fixture = Fixture::new().await;
    let digest = fixture.registry.wasm("v1");
    put(
        &fixture.registry,
        &digest,
        &[fixture.alice.layer(&fixture.registry, &digest)],
    );
    let name = fixture.name("v1");
    let never = fixture.signed(&name, PullPolicy::Never).await.unwrap_err();
    assert!(matches!(never, ImageError::Never(_)), "{never}");
    let pinned = fixture.signed(&name, PullPolicy::IfNotPresent).await.unwrap();
    fixture
        .images
        .module(&pinned, PullPolicy::IfNotPresent, &nobody())
        .await
        .unwrap();
    let requests = fixture.registry.requests();
    for (reference, policy) in [(&name, PullPolicy::IfNotPresent), (&name, PullPolicy::Never)] {
        assert_eq!(fixture.signed(reference, policy).await.unwrap(), pinned);
    }
    assert_eq!(fixture.registry.requests(), requests, "nobody was asked again");
    fixture.publishers.remove(0);
    let never = fixture.signed(&name, PullPolicy::Never).await.unwrap_err();
    assert!(matches!(never, ImageError::Never(_)), "{never}");
    fixture.refused(&name).await;
}

#[tokio::test]
async fn signature_under_the_index_or_under_what_it_has_for_the_car_counts() {
    let fixture = Fixture::new().await;
    let registry = &fixture.registry;
    let own = registry.wasm("own");
    let other = registry.manifest("other", "other", &[]);
    let entry = |digest: &str, os: &str, architecture: &str| json!({"digest": digest, "size": 1, "platform": {"os": os, "architecture": architecture}});
    let index = json!({"schemaVersion": 2, "manifests": [
        entry(&other, "linux", "riscv64"),
        entry(&own, "linux", architecture()),
    ]});
    let index = serde_json::to_vec(&index).unwrap();
    let whole = digest_of(&index);
    for name in ["v1", whole.as_str()] {
        registry.answer(&format!("/v2/app/manifests/{name}"), &index);
    }
    // What is for another car does not make this one's signed.
    put(registry, &other, &[fixture.alice.layer(registry, &other)]);
    fixture.refused(&fixture.name("v1")).await;
    put(registry, &own, &[fixture.alice.layer(registry, &own)]);
    let pinned = fixture.signed(&fixture.name("v1"), PullPolicy::Always).await.unwrap();
    assert_eq!(
        pinned,
        fixture.by_digest(&own),
        "that alone is signed, so that alone runs"
    );
    put(registry, &whole, &[fixture.alice.layer(registry, &whole)]);
    let pinned = fixture.signed(&fixture.name("v1"), PullPolicy::Always).await.unwrap();
    assert_eq!(pinned, fixture.by_digest(&whole));
}

#[tokio::test]
async fn of_an_index_that_has_both_a_container_engine_gets_what_is_for_linux() {
    let fixture = Fixture::new().await;
    let registry = &fixture.registry;
    let (wasm, linux) = (registry.wasm("wasm"), registry.manifest("linux", "linux", &[]));
    let entry = |digest: &str, os: &str, architecture: &str| json!({"digest": digest, "size": 1, "platform": {"os": os, "architecture": architecture}});
    let index = json!({"schemaVersion": 2, "manifests": [
        entry(&wasm, "wasip1", "wasm"),
        entry(&linux, "linux", architecture()),
    ]});
    registry.answer("/v2/app/manifests/v1", &serde_json::to_vec(&index).unwrap());
    put(registry, &linux, &[fixture.alice.layer(registry, &linux)]);
    fixture.refused(&fixture.name("v1")).await;
    let name = fixture.name("v1");
    let pinned = fixture.signed_for(&name, PullPolicy::Always, true).await.unwrap();
    assert_eq!(pinned, fixture.by_digest(&linux));
    // What was found for an engine is nothing that a module could be: that is looked for by itself, and has its own place.
    fixture.images.seed(&pinned);
    let other = fixture.signed(&name, PullPolicy::IfNotPresent).await.unwrap_err();
    assert!(matches!(other, ImageError::Unsigned(_)), "{other}");
    put(registry, &wasm, &[fixture.alice.layer(registry, &wasm)]);
    let module = fixture.signed(&name, PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!(module, fixture.by_digest(&wasm));
    fixture.images.seed(&module);
    let requests = registry.requests();
    for (engine, expected) in [(true, &pinned), (false, &module)] {
        let again = fixture.signed_for(&name, PullPolicy::IfNotPresent, engine).await;
        assert_eq!(&again.unwrap(), expected);
    }
    assert_eq!(registry.requests(), requests, "both are kept");
}

/// Puts a bundle with a signed statement of this type into the registry, and says what refers to it.
fn bundle(registry: &FakeRegistry, signer: &Signer, digest: &str, predicate: &str) -> serde_json::Value {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": hex_of(digest).unwrap()}}],
        "predicateType": predicate,
        "predicate": {},
    });
    let statement = serde_json::to_vec(&statement).unwrap();
    let kind = "application/vnd.in-toto+json";
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), statement.len());
    let bundle = json!({
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": ""}},
        "dsseEnvelope": {
            "payload": BASE64.encode(&statement),
            "payloadType": kind,
            "signatures": [{"sig": signer.sign(&[head.as_bytes(), &statement].concat())}],
        },
    });
    let mut layer = registry.blob(&serde_json::to_vec(&bundle).unwrap());
    layer["mediaType"] = json!(BUNDLE);
    let manifest = json!({"schemaVersion": 2, "artifactType": BUNDLE, "layers": [layer]});
    let manifest = serde_json::to_vec(&manifest).unwrap();
    registry.answer(&format!("/v2/app/manifests/{}", digest_of(&manifest)), &manifest);
    referrer(BUNDLE, &digest_of(&manifest))
}

fn referrer(kind: &str, digest: &str) -> serde_json::Value {
    json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": kind, "digest": digest, "size": 1})
}

fn index(referrers: &[serde_json::Value]) -> Vec<u8> {
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": referrers,
    });
    serde_json::to_vec(&index).unwrap()
}

/// Where a registry has what refers to an image: one that knows of referring, and one that does not.
fn places(digest: &str) -> [String; 2] {
    let kind = "application%2Fvnd.dev.sigstore.bundle.v0.3%2Bjson";
    [
        format!("/v2/app/referrers/{digest}?artifactType={kind}"),
        format!("/v2/app/manifests/{}", digest.replace(':', "-")),
    ]
}

#[tokio::test]
async fn bundle_that_refers_to_the_image_counts_wherever_the_registry_has_it() {
    for place in 0..2 {
        let fixture = Fixture::new().await;
        let registry = &fixture.registry;
        let digest = registry.wasm("v1");
        let bundle = bundle(registry, &fixture.alice, &digest, SIGNS);
        let referrers = [referrer("application/spdx+json", "sha256:00"), bundle];
        registry.answer(&places(&digest)[place], &index(&referrers));
        let pinned = fixture.signed(&fixture.name("v1"), PullPolicy::Always).await.unwrap();
        assert_eq!(pinned, fixture.by_digest(&digest));
    }
}

#[tokio::test]
async fn registry_that_limits_how_often_it_is_asked_has_not_said_that_there_is_no_signature() {
    let fixture = Fixture::new().await;
    let registry = &fixture.registry;
    let digest = registry.wasm("v1");
    for place in places(&digest) {
        registry.answer(
            &place,
            br#"{"errors": [{"code": "TOOMANYREQUESTS", "message": "later"}]}"#,
        );
        registry.answer_by(&place, "429 Too Many Requests");
        let error = fixture
            .signed(&fixture.name("v1"), PullPolicy::Always)
            .await
            .unwrap_err();
        assert!(matches!(error, ImageError::Pull(_)), "{error}");
        registry.answer_by(&place, "404 Not Found");
    }
    // Now it says so.
    let tag = &places(&digest)[1];
    registry.answer(tag, br#"{"errors": [{"code": "MANIFEST_UNKNOWN", "message": ""}]}"#);
    fixture.refused(&fixture.name("v1")).await;
}

#[tokio::test]
async fn statements_that_say_that_they_sign_nothing_are_not_fetched_and_leave_room_for_those_that_do() {
    let fixture = Fixture::new().await;
    let registry = &fixture.registry;
    let digest = registry.wasm("v1");
    let named = |mut referrer: serde_json::Value, predicate: &str| {
        referrer["annotations"] = json!({"dev.sigstore.bundle.predicateType": predicate});
        referrer
    };
    let signature = named(bundle(registry, &fixture.alice, &digest, SIGNS), SIGNS);
    let mut referrers = vec![signature];
    for number in 0..MOST {
        let statement = "https://slsa.dev/provenance/v1";
        let other = referrer(BUNDLE, &digest_of(number.to_string().as_bytes()));
        referrers.push(named(other, statement));
    }
    registry.answer(&places(&digest)[0], &index(&referrers));
    let pinned = fixture.signed(&fixture.name("v1"), PullPolicy::Always).await.unwrap();
    assert_eq!(pinned, fixture.by_digest(&digest));
    assert_eq!(
        registry.requests(),
        5,
        "the image, signatures beside it, what refers to it, the bundle's manifest and the bundle"
    );
    // A statement is none, whatever its annotation says.
    let (other, claims) = (Fixture::new().await, "https://slsa.dev/provenance/v1");
    let digest = other.registry.wasm("v1");
    let lies = named(bundle(&other.registry, &other.alice, &digest, claims), SIGNS);
    other.registry.answer(&places(&digest)[0], &index(&[lies]));
    let message = other.refused(&other.name("v1")).await;
    assert!(message.contains("not the signature of an image"), "{message}");
}
