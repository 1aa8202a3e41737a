//! Attempts where the owner names whose signatures count.

use kerbside_core::owner::{Document, Publisher};

use super::*;
use crate::images::tests::FakeRegistry;
use crate::images::tests::signing::{Signer, put};

/// A car whose owner trusts these, and a registry.
async fn car(publishers: Vec<Publisher>) -> (FakeRegistry, Fixture) {
    let registry = FakeRegistry::start().await;
    let fixture = Fixture::pulling(&registry.host);
    let mut outlook = outlook(&*fixture.clock, available());
    outlook.document = Some(Arc::new(Document {
        publishers: Some(publishers),
        ..owner()
    }));
    fixture.outlook.send_replace(outlook);
    (registry, fixture)
}

fn run_image(uid: &str, registry: &FakeRegistry) -> Run {
    let image = format!("{}/app:v1", registry.host);
    run(uid, |pod| pod["spec"]["containers"][0]["image"] = json!(image))
}

#[tokio::test]
async fn image_that_nobody_has_signed_is_refused_and_the_next_attempt_as_soon_as_it_comes() {
    let (registry, fixture) = car(vec![Signer::new().as_publisher("alice")]).await;
    let digest = registry.wasm("v1");
    fixture.link(Event::Run(run_image("u-1", &registry))).await;
    let first = fixture.phase("u-1", AttemptPhase::Refused).await;
    assert_eq!(first.reason, reason::SIGNATURE_VALIDATION_FAILED);
    assert!(first.stopped && first.message.contains(&digest), "{}", first.message);
    let Some(ContainerState::Waiting(waiting)) = &first.containers[0].state else {
        panic!("{first:?}");
    };
    assert_eq!((&waiting.reason, &waiting.message), (&first.reason, &first.message));
    let requests = registry.requests();
    fixture.link(Event::Run(run_image("u-2", &registry))).await;
    let second = fixture.phase("u-2", AttemptPhase::Refused).await;
    assert_eq!((second.reason, second.message), (first.reason, first.message));
    assert_eq!(registry.requests(), requests, "nobody was asked again");
    assert_eq!(fixture.runtime.count(), 0);
}

#[tokio::test]
async fn image_that_is_signed_runs_and_is_told_by_the_digest_that_was_signed() {
    let alice = Signer::new();
    let (registry, fixture) = car(vec![alice.as_publisher("alice")]).await;
    let digest = registry.wasm("v1");
    put(&registry, &digest, &[alice.layer(&registry, &digest)]);
    fixture.link(Event::Run(run_image("u-1", &registry))).await;
    let status = fixture.phase("u-1", AttemptPhase::Running).await;
    assert_eq!(status.containers[0].image_id, format!("{}/app@{digest}", registry.host));
}
