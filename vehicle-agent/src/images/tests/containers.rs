//! Images that a container engine pulls from the agent's door.

use std::collections::BTreeSet;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;

use super::super::manifest::ACCEPTED;
use super::*;

/// An engine that pulls as a real one does, by HTTP from the name that it is given, and calls an image by its config's digest.
#[derive(Default)]
struct FakeEngine {
    names: Mutex<Vec<String>>,
    has: Mutex<BTreeSet<String>>,
    /// It does not give these up.
    keeps: Mutex<BTreeSet<String>>,
}

fn client() -> oci_client::Client {
    oci_client::Client::new(ClientConfig {
        protocol: ClientProtocol::Http,
        ..ClientConfig::default()
    })
}

async fn fetch(name: &str) -> Result<String, String> {
    let image: Reference = name.parse().map_err(|e| format!("{e}"))?;
    let client = client();
    let got = client
        .pull_manifest_raw(&image, &RegistryAuth::Anonymous, ACCEPTED)
        .await;
    let (bytes, digest) = got.map_err(|e| format!("failed to pull {name}: {e}"))?;
    assert_eq!(Some(digest.as_str()), image.digest());
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    for layer in manifest["layers"].as_array().unwrap() {
        let mut blob = Vec::new();
        let wanted = layer["digest"].as_str().unwrap();
        client
            .pull_blob(&image, wanted, &mut blob)
            .await
            .map_err(|e| e.to_string())?;
        assert_eq!(digest_of(&blob), wanted);
    }
    Ok(manifest["config"]["digest"].as_str().unwrap().to_owned())
}

impl EngineImages for FakeEngine {
    fn has<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<Option<u64>, String>> {
        let has = self.has.lock().unwrap().contains(image);
        std::future::ready(Ok(has.then_some(1000))).boxed()
    }

    fn pull<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<String, String>> {
        self.names.lock().unwrap().push(name.to_owned());
        async move {
            let id = fetch(name).await?;
            self.has.lock().unwrap().insert(id.clone());
            Ok(id)
        }
        .boxed()
    }

    fn remove<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<(), String>> {
        let keeps = self.keeps.lock().unwrap().contains(image);
        if keeps {
            return std::future::ready(Err("it is in use".to_owned())).boxed();
        }
        self.has.lock().unwrap().remove(image);
        std::future::ready(Ok(())).boxed()
    }
}

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

#[tokio::test]
async fn image_goes_through_the_door_once_and_is_then_known_by_the_engines_id() {
    let (registry, temp) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let digest = registry.manifest("v1", CONFIG, &[(LAYER, b"layer")]);
    let (images, engine) = (registry.images(temp.path()), FakeEngine::default());
    let tagged = format!("{}/app:v1", registry.host);
    let get = async |policy| images.container(&tagged, policy, &nobody(), &engine).await;
    let image = get(PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!(image.image_id, format!("{}/app@{digest}", registry.host));
    let requests = registry.requests();
    assert_eq!(get(PullPolicy::IfNotPresent).await.unwrap(), image);
    assert_eq!(get(PullPolicy::Never).await.unwrap(), image);
    assert_eq!(registry.requests(), requests, "nobody was asked again");
    assert_eq!(get(PullPolicy::Always).await.unwrap(), image);
    assert_eq!(
        engine.names.lock().unwrap().len(),
        1,
        "the same digest is not pulled twice"
    );
    // The name was good for that pull.
    let name = engine.names.lock().unwrap()[0].clone();
    assert!(fetch(&name).await.is_err());
    // An engine that has lost it gets it again.
    engine.has.lock().unwrap().clear();
    assert_eq!(get(PullPolicy::IfNotPresent).await.unwrap(), image);
}

#[tokio::test]
async fn what_cannot_be_pulled_is_told_by_the_name_that_the_pod_has() {
    let (registry, temp) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let (images, engine) = (registry.images(temp.path()), FakeEngine::default());
    registry.wasm("wasm");
    let lost = registry.manifest("lost", CONFIG, &[(LAYER, b"gone")]);
    registry
        .answers
        .lock()
        .unwrap()
        .remove(&format!("/v2/app/blobs/{}", digest_of(b"gone")));
    for (tag, policy, says) in [
        ("none", PullPolicy::IfNotPresent, "app:none"),
        ("none", PullPolicy::Never, "pull policy is Never"),
        ("wasm", PullPolicy::IfNotPresent, "set runtimeClassName: kerbside-wasm"),
        ("lost", PullPolicy::IfNotPresent, "failed to pull image"),
    ] {
        let reference = format!("{}/app:{tag}", registry.host);
        let error = images
            .container(&reference, policy, &nobody(), &engine)
            .await
            .unwrap_err();
        let message = NotReady::from(error).message;
        assert!(message.contains(says), "{message}");
        assert!(
            !message.contains(&lost[..12]) || message.contains(&registry.host),
            "{message}"
        );
    }
}

#[tokio::test]
async fn engine_keeps_no_image_of_a_car_that_forgets_but_those_that_it_will_not_give_up() {
    let (registry, temp) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    registry.manifest("v1", CONFIG, &[(LAYER, b"layer")]);
    let (images, engine) = (registry.images(temp.path()), FakeEngine::default());
    let reference = format!("{}/app:v1", registry.host);
    let nobody = nobody();
    let image = images.container(&reference, PullPolicy::IfNotPresent, &nobody, &engine);
    let image = image.await.unwrap().engine;
    engine.keeps.lock().unwrap().insert(image.clone());
    // A replacement that was interrupted is no image.
    std::fs::write(temp.path().join("containers/torn.new"), "{").unwrap();
    assert_eq!(images.remove_containers(&engine).await.unwrap(), 1);
    assert!(engine.has.lock().unwrap().contains(&image));
    engine.keeps.lock().unwrap().clear();
    assert_eq!(images.remove_containers(&engine).await.unwrap(), 0);
    assert!(engine.has.lock().unwrap().is_empty());
}

#[tokio::test]
async fn oldest_images_go_when_the_cache_is_full() {
    let (registry, temp) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    registry.manifest("v1", CONFIG, &[(LAYER, b"layer")]);
    let images = Images::open(temp.path(), vec![registry.host.clone()], 500).unwrap();
    let engine = FakeEngine::default();
    let tagged = format!("{}/app:v1", registry.host);
    let get = async || {
        images
            .container(&tagged, PullPolicy::IfNotPresent, &nobody(), &engine)
            .await
    };
    let image = get().await.unwrap();
    images.collect_containers(&engine).await.unwrap();
    assert_eq!(engine.has(&image.engine).await, Ok(None), "it is larger than the cache");
    get().await.unwrap();
    assert_eq!(engine.names.lock().unwrap().len(), 2);
}
