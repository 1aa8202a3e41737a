//! The parts of OCI manifests that a car reads.

use serde::Deserialize;

/// What a registry may answer with.
pub(super) const ACCEPTED: &[&str] = &[
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
const WASM_LAYER: &str = "application/wasm";

/// A manifest, or an index of them.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Manifest {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// A blob by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    platform: Option<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// How the files of a layer are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Tar,
    TarGzip,
}

impl Manifest {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|e| format!("its manifest cannot be read: {e}"))
    }

    /// The manifest that a container engine in this car goes on with, if this is an index that has one.
    pub(super) fn chosen_by_engine(&self) -> Option<&Descriptor> {
        self.of("linux", architecture())
    }

    fn of(&self, os: &str, architecture: &str) -> Option<&Descriptor> {
        self.manifests.iter().find(|descriptor| {
            descriptor
                .platform
                .as_ref()
                .is_some_and(|p| p.os.starts_with(os) && p.architecture == architecture)
        })
    }

    /// The manifest to go on with, if this is an index: the one for WebAssembly, else the one for this car, else the only one.
    pub(super) fn chosen(&self) -> Result<Option<&Descriptor>, String> {
        if self.manifests.is_empty() {
            return Ok(None);
        }
        let only = if let [only] = self.manifests.as_slice() {
            Some(only)
        } else {
            None
        };
        self.of("wasi", "wasm")
            .or_else(|| self.chosen_by_engine())
            .or(only)
            .map(Some)
            .ok_or_else(|| format!("it has nothing for wasi/wasm or linux/{}", architecture()))
    }

    /// Whether this is a WebAssembly artefact.
    pub(super) fn is_wasm(&self) -> bool {
        self.config
            .as_ref()
            .is_some_and(|config| config.media_type == WASM_CONFIG)
    }

    /// The one module of a WebAssembly artefact.
    pub(super) fn module(&self) -> Result<&Descriptor, String> {
        let config = self.config.as_ref().map_or("none", |config| config.media_type.as_str());
        if config != WASM_CONFIG {
            return Err(format!(
                "it is not a WebAssembly artefact: its config is {config}, not {WASM_CONFIG}"
            ));
        }
        match self.layers.as_slice() {
            [module] if module.media_type == WASM_LAYER => Ok(module),
            [other] => Err(format!(
                "it is not a WebAssembly artefact: its layer is {}, not {WASM_LAYER}",
                other.media_type
            )),
            layers => Err(format!(
                "a WebAssembly artefact has one layer of {WASM_LAYER}; it has {} layers",
                layers.len()
            )),
        }
    }

    /// The layers of an artefact with files, from the lowest.
    pub(super) fn files(&self) -> Result<Vec<(&Descriptor, Packing)>, String> {
        self.layers
            .iter()
            .map(|layer| {
                let packing = match layer.media_type.as_str() {
                    "application/vnd.oci.image.layer.v1.tar" | "application/x-tar" => Packing::Tar,
                    "application/vnd.oci.image.layer.v1.tar+gzip"
                    | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Packing::TarGzip,
                    other => return Err(format!("it has a layer of {other}; a volume needs tar or tar+gzip")),
                };
                Ok((layer, packing))
            })
            .collect()
    }
}

/// This car's architecture, as in `kubernetes.io/arch`.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn parse(manifest: &Value) -> Manifest {
        Manifest::parse(&serde_json::to_vec(manifest).unwrap()).unwrap()
    }

    fn blob(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": "sha256:00", "size": 1})
    }

    #[test]
    fn module_of_a_wasm_artefact_is_found() {
        let manifest = parse(&json!({"config": blob(WASM_CONFIG), "layers": [blob(WASM_LAYER)]}));
        assert_eq!(manifest.module().unwrap().digest, "sha256:00");
    }

    #[rstest]
    #[case(json!({"config": blob("application/vnd.oci.image.config.v1+json"), "layers": [blob("application/wasm")]}), "its config is")]
    #[case(json!({"config": blob(WASM_CONFIG), "layers": [blob("application/vnd.oci.image.layer.v1.tar")]}), "its layer is")]
    #[case(json!({"config": blob(WASM_CONFIG), "layers": []}), "0 layers")]
    #[case(json!({"config": blob(WASM_CONFIG), "layers": [blob(WASM_LAYER), blob(WASM_LAYER)]}), "2 layers")]
    fn artefact_of_another_kind_says_what_it_is(#[case] manifest: Value, #[case] says: &str) {
        let message = parse(&manifest).module().unwrap_err();
        assert!(message.contains(says), "{message}");
    }

    #[test]
    fn layer_that_is_no_archive_is_named() {
        let manifest = parse(&json!({"layers": [blob("application/vnd.oci.image.layer.v1.tar+zstd")]}));
        assert!(manifest.files().unwrap_err().contains("tar+zstd"));
    }

    #[test]
    fn index_prefers_wasm_then_this_car_then_the_only_one() {
        let entry = |os: &str, arch: &str, digest: &str| json!({"digest": digest, "size": 1, "platform": {"os": os, "architecture": arch}});
        let (wasm, own, other) = (
            entry("wasip1", "wasm", "w"),
            entry("linux", architecture(), "o"),
            entry("linux", "riscv64", "r"),
        );
        let chosen = |entries: &[&Value]| {
            let index = parse(&json!({"manifests": entries}));
            index.chosen().map(|d| d.unwrap().digest.clone())
        };
        assert_eq!(chosen(&[&other, &own, &wasm]).unwrap(), "w");
        assert_eq!(chosen(&[&other, &own]).unwrap(), "o");
        assert_eq!(chosen(&[&other]).unwrap(), "r");
        assert!(chosen(&[&other, &other]).unwrap_err().contains("linux/"));
        assert!(parse(&json!({"layers": []})).chosen().unwrap().is_none());
    }
}
