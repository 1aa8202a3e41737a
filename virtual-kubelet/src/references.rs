//! What a Pod refers to and does not hold itself: ConfigMaps, Secrets, tokens of its ServiceAccount, its host, Services, pull secrets. Pure.
//!
//! Read once per Pod by its vehicle's actor. What is not named here is never read.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodSpec, VolumeProjection,
};

use crate::pull::Repository;

/// Which kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    ConfigMap,
    Secret,
    /// The variables of one Service, as the kubelet makes them.
    Service,
    /// Not one object: those of all Services of a namespace.
    Services,
}

impl Kind {
    /// In the kubelet's words.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
            Self::Service => "service",
            Self::Services => "services",
        }
    }
}

/// How long a token is good for that does not say it, as by the API.
const EXPIRATION: i64 = 3600;

/// All that a Pod refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct References {
    /// By kind and name, in the Pod's namespace.
    pub(crate) objects: BTreeSet<(Kind, String)>,
    /// By audience (empty: the API server) and the seconds for which one is to be good.
    pub(crate) tokens: BTreeSet<(String, i64)>,
    /// The address of its host.
    pub(crate) host: bool,
    /// The variables of Services.
    pub(crate) services: bool,
    /// What pulls its images, in its order; and the repositories of its images, if it names any.
    pub(crate) pull_secrets: Vec<String>,
    pub(crate) repositories: BTreeSet<Repository>,
    /// It shows its own labels or annotations, which may change.
    pub(crate) metadata: bool,
    /// It has a volume that the vehicle fills.
    volumes: bool,
    /// Containers that were added to look at it, whose number only grows.
    ephemeral: usize,
}

impl References {
    /// Those of a Pod.
    pub(crate) fn of(pod: &Pod) -> Self {
        let mut all = Self::default();
        let Some(spec) = &pod.spec else { return all };
        for volume in spec.volumes.iter().flatten() {
            all.volumes |= volume.config_map.is_some()
                || volume.secret.is_some()
                || volume.downward_api.is_some()
                || volume.projected.is_some();
            if let Some(map) = &volume.config_map {
                all.object(Kind::ConfigMap, &map.name);
            }
            if let Some(name) = volume.secret.as_ref().and_then(|secret| secret.secret_name.as_ref()) {
                all.object(Kind::Secret, name);
            }
            let downward = volume
                .downward_api
                .iter()
                .flat_map(|downward| downward.items.iter().flatten());
            downward.for_each(|file| all.file(file));
            for source in volume
                .projected
                .iter()
                .flat_map(|projected| projected.sources.iter().flatten())
            {
                all.projection(source);
            }
        }
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            all.variables(container.env_from.iter().flatten(), container.env.iter().flatten());
        }
        for container in spec.ephemeral_containers.iter().flatten() {
            all.variables(container.env_from.iter().flatten(), container.env.iter().flatten());
            all.ephemeral += 1;
        }
        all.pulls(spec);
        // As the vehicle reads it: a WebAssembly program opens no connection.
        let wasm = spec.runtime_class_name.as_deref() == Some(kerbside_core::names::RUNTIME_CLASS_WASM);
        all.services = !wasm && spec.enable_service_links != Some(false);
        all
    }

    /// Whether a vehicle waits for anything of it.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn pulls(&mut self, spec: &PodSpec) {
        let named = spec
            .image_pull_secrets
            .iter()
            .flatten()
            .map(|secret| secret.name.clone());
        self.pull_secrets = named.filter(|name| !name.is_empty()).collect();
        if self.pull_secrets.is_empty() {
            return;
        }
        let own = spec.init_containers.iter().flatten().chain(&spec.containers);
        let images = own.filter_map(|container| container.image.as_deref());
        let added = spec.ephemeral_containers.iter().flatten();
        let added = added.filter_map(|container| container.image.as_deref());
        let volumes = spec.volumes.iter().flatten();
        let volumes = volumes.filter_map(|volume| volume.image.as_ref()?.reference.as_deref());
        self.repositories = images.chain(added).chain(volumes).filter_map(Repository::of).collect();
    }

    fn object(&mut self, kind: Kind, name: &str) {
        self.objects.insert((kind, name.to_owned()));
    }

    fn projection(&mut self, source: &VolumeProjection) {
        if let Some(map) = &source.config_map {
            self.object(Kind::ConfigMap, &map.name);
        }
        if let Some(secret) = &source.secret {
            self.object(Kind::Secret, &secret.name);
        }
        let downward = source
            .downward_api
            .iter()
            .flat_map(|downward| downward.items.iter().flatten());
        downward.for_each(|file| self.file(file));
        if let Some(token) = &source.service_account_token {
            let seconds = token.expiration_seconds.unwrap_or(EXPIRATION);
            self.tokens
                .insert((token.audience.clone().unwrap_or_default(), seconds));
        }
    }

    fn variables<'a>(
        &mut self,
        from: impl Iterator<Item = &'a EnvFromSource>,
        variables: impl Iterator<Item = &'a EnvVar>,
    ) {
        for from in from {
            if let Some(map) = &from.config_map_ref {
                self.object(Kind::ConfigMap, &map.name);
            }
            if let Some(secret) = &from.secret_ref {
                self.object(Kind::Secret, &secret.name);
            }
        }
        for source in variables.filter_map(|variable| variable.value_from.as_ref()) {
            self.variable(source);
        }
    }

    fn variable(&mut self, source: &EnvVarSource) {
        if let Some(key) = &source.config_map_key_ref {
            self.object(Kind::ConfigMap, &key.name);
        }
        if let Some(key) = &source.secret_key_ref {
            self.object(Kind::Secret, &key.name);
        }
        self.field(source.field_ref.as_ref());
    }

    fn file(&mut self, file: &DownwardAPIVolumeFile) {
        self.field(file.field_ref.as_ref());
    }

    fn field(&mut self, field: Option<&ObjectFieldSelector>) {
        let Some(path) = field.map(|field| field.field_path.as_str()) else {
            return;
        };
        self.host |= matches!(path, "status.hostIP" | "status.hostIPs");
        self.metadata |= path.starts_with("metadata.labels") || path.starts_with("metadata.annotations");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(spec: &serde_json::Value) -> References {
        References::of(&serde_json::from_value(json!({"spec": spec})).unwrap())
    }

    #[test]
    fn every_place_that_can_name_an_object_is_read() {
        let found = of(&json!({
            "enableServiceLinks": false,
            "volumes": [
                {"name": "a", "configMap": {"name": "c1"}},
                {"name": "b", "secret": {"secretName": "s1"}},
                {"name": "p", "projected": {"sources": [
                    {"configMap": {"name": "c2"}}, {"secret": {"name": "s2"}},
                    {"serviceAccountToken": {"path": "t"}}, {"serviceAccountToken": {"path": "u", "audience": "vault", "expirationSeconds": 600}},
                ]}},
            ],
            "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "c3"}}, {"secretRef": {"name": "s3"}}]}],
            "containers": [{"name": "m", "env": [
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c4", "key": "k"}}},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s4", "key": "k"}}},
                {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
            ]}],
        }));
        let names: Vec<_> = found.objects.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["c1", "c2", "c3", "c4", "s1", "s2", "s3", "s4"]);
        assert_eq!(found.tokens, [(String::new(), 3600), ("vault".to_owned(), 600)].into());
        assert!(found.host && !found.services && !found.metadata);
    }

    #[test]
    fn what_is_added_to_a_pod_is_read_too_and_its_labels_if_it_shows_them() {
        let before = json!({"enableServiceLinks": false, "containers": [{"name": "m"}]});
        let mut after = before.clone();
        after["ephemeralContainers"] = json!([{"name": "look", "env": [
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
        ]}]);
        assert!(of(&before).is_empty());
        let after = of(&after);
        assert_eq!(after.objects, [(Kind::Secret, "s".to_owned())].into());
        assert!(after.metadata && !after.is_empty());
        let bare =
            of(&json!({"enableServiceLinks": false, "containers": [], "ephemeralContainers": [{"name": "look"}]}));
        assert!(!bare.is_empty(), "the vehicle is told of it");
    }

    #[test]
    fn repositories_are_those_of_every_image_of_a_pod_with_pull_secrets() {
        let mut spec = json!({
            "enableServiceLinks": false,
            "initContainers": [{"name": "i", "image": "registry.example/init:1"}],
            "containers": [{"name": "m", "image": "registry.example/team/app@sha256:0000000000000000000000000000000000000000000000000000000000000000"}, {"name": "n", "image": "registry.example/team/app:2"}],
            "ephemeralContainers": [{"name": "look", "image": "registry.example/tools"}],
            "volumes": [{"name": "v", "image": {"reference": "registry.example/model:1"}}],
        });
        assert!(
            of(&spec).repositories.is_empty(),
            "without a secret they are asked for by the vehicle alone"
        );
        spec["imagePullSecrets"] = json!([{"name": "b"}, {"name": "a"}]);
        let found = of(&spec);
        assert_eq!(found.pull_secrets, ["b", "a"]);
        let names: Vec<_> = found
            .repositories
            .iter()
            .map(|repository| repository.name.as_str())
            .collect();
        assert_eq!(names, ["init", "model", "team/app", "tools"]);
        // They are no objects of its own: what the pool trusts its cars with does not matter.
        assert!(found.objects.is_empty() && !found.is_empty());
    }

    #[test]
    fn pod_that_refers_to_nothing_needs_nothing() {
        assert!(of(&json!({"enableServiceLinks": false, "containers": [{"name": "m", "env": [{"name": "A", "value": "1"}]}]})).is_empty());
        assert!(of(&json!({"runtimeClassName": "kerbside-wasm", "containers": []})).is_empty());
        assert!(
            !of(&json!({"containers": []})).is_empty(),
            "Services, unless it says no"
        );
        // The vehicle waits for what fills its volumes, though there is nothing that must be read for them.
        let volume =
            json!({"name": "d", "downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}});
        assert!(!of(&json!({"enableServiceLinks": false, "containers": [], "volumes": [volume]})).is_empty());
    }
}
