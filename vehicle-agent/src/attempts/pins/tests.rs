//! A Pod of several images, with a registry of a few lines of HTTP.

use kerbside_core::quantity::Resources;
use serde_json::json;

use super::*;
use crate::images::tests::signing::{Signer, put};
use crate::images::tests::{FakeRegistry, nobody};
use crate::pod::tests::{pod_json, run_of};

struct Fixture {
    registry: FakeRegistry,
    images: Images,
    alice: Signer,
    publishers: Vec<Publisher>,
    pins: Pins,
    _temp: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let (registry, temp) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
        let alice = Signer::new();
        Self {
            images: registry.images(temp.path()),
            registry,
            publishers: vec![alice.as_publisher("alice")],
            alice,
            pins: Pins::default(),
            _temp: temp,
        }
    }

    fn name(&self, tag: &str) -> String {
        format!("{}/app:{tag}", self.registry.host)
    }

    fn by_digest(&self, digest: &str) -> String {
        format!("{}/app@{digest}", self.registry.host)
    }

    /// Its init container, its container and the volume of that have an image each.
    fn work(&self) -> Work {
        let mut pod = pod_json();
        pod["spec"]["initContainers"] = json!([{"name": "first", "image": self.name("first")}]);
        pod["spec"]["containers"][0]["image"] = json!(self.name("main"));
        pod["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
        pod["spec"]["volumes"][0]["image"]["reference"] = json!(self.name("model"));
        Work::read("u-1".parse().unwrap(), &run_of(&pod), &Resources::default()).unwrap()
    }

    /// Another image, and whether it is signed.
    fn image(&self, tag: &str, signed: bool) -> String {
        let digest = self.registry.manifest(tag, tag, &[]);
        if signed {
            put(&self.registry, &digest, &[self.alice.layer(&self.registry, &digest)]);
        }
        digest
    }

    async fn of(&self, work: &Work, index: usize) -> Result<References, (String, Unprepared)> {
        let nobody = nobody();
        let pins = self.pins.of((work, index), &self.images, &self.publishers, &nobody);
        pins.await
    }
}

#[tokio::test]
async fn nothing_begins_before_every_image_of_the_pod_is_known_to_be_signed() {
    let fixture = Fixture::new().await;
    fixture.image("first", true);
    fixture.image("main", true);
    let unsigned = fixture.image("model", false);
    let admitted = || admit(&fixture.work(), &fixture.images, &fixture.publishers);
    assert_eq!(admitted(), Ok(()), "nothing is known yet");
    let (image, why) = fixture.of(&fixture.work(), 0).await.unwrap_err();
    assert_eq!(image, fixture.name("model"));
    assert_eq!(admitted().map_err(Unprepared::Declined), Err(why.clone()));
    let Unprepared::Declined(refusal) = why else {
        panic!("{why:?}");
    };
    assert_eq!(refusal.reason, reason::SIGNATURE_VALIDATION_FAILED);
    for part in [image, unsigned, "alice".to_owned()] {
        assert!(refusal.message.contains(&part), "{}", refusal.message);
    }
}

#[tokio::test]
async fn image_whose_registry_does_not_answer_is_waited_for() {
    let fixture = Fixture::new().await;
    fixture.image("first", true);
    let (image, why) = fixture.of(&fixture.work(), 0).await.unwrap_err();
    assert_eq!(image, fixture.name("main"));
    assert!(
        matches!(why, Unprepared::NotReady(NotReady { retry: true, .. })),
        "{why:?}"
    );
}

#[tokio::test]
async fn tag_means_one_digest_for_as_long_as_the_attempt_lives() {
    let fixture = Fixture::new().await;
    let digests = ["first", "main", "model"].map(|tag| (fixture.name(tag), fixture.image(tag, true)));
    let pinned = digests.map(|(name, digest)| ((name, false), fixture.by_digest(&digest)));
    let pinned = References(pinned.into());
    let work = fixture.work();
    assert_eq!(fixture.of(&work, 0).await.unwrap(), pinned);
    let requests = fixture.registry.requests();
    fixture.image("moved", false);
    fixture.registry.manifest("main", "moved", &[]);
    assert_eq!(fixture.of(&work, 1).await.unwrap(), pinned);
    assert_eq!(fixture.registry.requests(), requests, "it is not resolved again");
}

#[tokio::test]
async fn keys_that_the_owner_changes_meanwhile_are_those_that_count() {
    let mut fixture = Fixture::new().await;
    for tag in ["first", "main", "model"] {
        fixture.image(tag, true);
    }
    let work = fixture.work();
    fixture.of(&work, 0).await.unwrap();
    fixture.publishers = vec![Signer::new().as_publisher("bob")];
    let (_, why) = fixture.of(&work, 1).await.unwrap_err();
    assert!(matches!(why, Unprepared::Declined(_)), "{why:?}");
    fixture.publishers.clear();
    let unpinned = fixture.of(&work, 1).await.unwrap();
    let name = fixture.name("main");
    assert_eq!(unpinned.of(&name, false), Ok(name.clone()));
}

#[tokio::test]
async fn container_that_somebody_adds_is_judged_alone_and_does_not_keep_the_others_waiting() {
    let fixture = Fixture::new().await;
    for tag in ["first", "main", "model"] {
        fixture.image(tag, true);
    }
    fixture.image("look", false);
    let added = json!({"name": "look", "image": fixture.name("look")});
    let added = [serde_json::from_value(added).unwrap()];
    let work = fixture.work().amended(&added, &Resources::default()).unwrap();
    fixture.of(&work, 0).await.unwrap();
    let (image, why) = fixture.of(&work, 2).await.unwrap_err();
    assert_eq!(image, fixture.name("look"));
    assert!(matches!(why, Unprepared::Declined(_)), "{why:?}");
    let admitted = admit(&work, &fixture.images, &fixture.publishers);
    assert_eq!(
        admitted,
        Ok(()),
        "it waits by itself, also when the attempt comes again"
    );
}

#[tokio::test]
async fn image_that_nobody_has_asked_for_is_no_image_to_run() {
    let fixture = Fixture::new().await;
    for tag in ["first", "main", "model"] {
        fixture.image(tag, true);
    }
    let references = fixture.of(&fixture.work(), 0).await.unwrap();
    references.of(&fixture.name("main"), false).unwrap();
    for (name, engine) in [(fixture.name("other"), false), (fixture.name("main"), true)] {
        let why = references.of(&name, engine).unwrap_err();
        assert!(why.retry && why.message.contains(&name), "{why:?}");
    }
}
