//! Builds OCI artefacts in memory: WebAssembly modules and files of data. The same input gives the same digest.
//!
//! Pure: knows no registry and reads no file. `push` sends what is built here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use data_encoding::HEXLOWER;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Manifest of every artefact built here.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Of one fixed moment, so that a digest depends on content alone.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// One blob of an artefact.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Its media type.
    pub media_type: &'static str,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A manifest and the blobs it names.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// The manifest as it is pushed.
    pub manifest: Vec<u8>,
    /// The config, then the layers.
    pub blobs: Vec<Blob>,
}

/// `sha256:` and the hex digest of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(bytes)))
}

impl Blob {
    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": digest(&self.bytes), "size": self.bytes.len()})
    }
}

impl Artifact {
    /// A WebAssembly module as a CNCF Wasm OCI artefact. The bytes are not looked at: tests push modules that are none.
    pub fn wasm(module: Vec<u8>) -> Result<Self> {
        let config = json!({
            "created": CREATED, "architecture": "wasm", "os": "wasip1", "layerDigests": [digest(&module)],
        });
        let layer = Blob {
            media_type: "application/wasm",
            bytes: module,
        };
        Self::build("application/vnd.wasm.config.v0+json", &config, layer)
    }

    /// Files, each with its path in the image, as an ordinary image of one layer, for `image` volumes.
    pub fn files(files: &[(&str, &[u8])]) -> Result<Self> {
        // Data has no architecture; the field is required, and this is what the widest set of tools accepts.
        Self::image(&tar_of(files, 0o644)?, "amd64", &json!({}))
    }

    /// A program without anything else as an image that runs, for this machine. `config` says how: `Entrypoint`, `User` and so on.
    pub fn program(path: &str, program: &[u8], config: &Value) -> Result<Self> {
        Self::programs(&[(path, program)], config)
    }

    /// Likewise several, each with its path.
    pub fn programs(programs: &[(&str, &[u8])], config: &Value) -> Result<Self> {
        let architecture = kerbside_vehicle_agent::images::manifest::architecture();
        Self::image(&tar_of(programs, 0o755)?, architecture, config)
    }

    fn image(tar: &[u8], architecture: &str, config: &Value) -> Result<Self> {
        let mut gzip = GzBuilder::new()
            .mtime(0)
            .operating_system(255)
            .write(Vec::new(), Compression::default());
        gzip.write_all(tar).context("failed to compress a layer")?;
        let bytes = gzip.finish().context("failed to compress a layer")?;
        let config = json!({
            "created": CREATED, "architecture": architecture, "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest(tar)]},
        });
        let layer = Blob {
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip",
            bytes,
        };
        Self::build("application/vnd.oci.image.config.v1+json", &config, layer)
    }

    fn build(config_type: &'static str, config: &Value, layer: Blob) -> Result<Self> {
        let bytes = serde_json::to_vec(config).context("failed to render JSON")?;
        let config = Blob {
            media_type: config_type,
            bytes,
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
            "config": config.descriptor(), "layers": [layer.descriptor()],
        });
        let manifest = serde_json::to_vec(&manifest).context("failed to render JSON")?;
        Ok(Self {
            manifest,
            blobs: vec![config, layer],
        })
    }

    /// The digest by which the artefact is pulled.
    pub fn digest(&self) -> String {
        digest(&self.manifest)
    }
}

/// A tar of the files in the order of their paths, without times or owners; directories come before what is in them.
fn tar_of(files: &[(&str, &[u8])], mode: u32) -> Result<Vec<u8>> {
    let sorted: BTreeMap<&str, &[u8]> = files.iter().copied().collect();
    let directories: BTreeSet<&Path> = sorted.keys().flat_map(|p| Path::new(p).ancestors().skip(1)).collect();
    let mut builder = tar::Builder::new(Vec::new());
    for directory in directories.into_iter().filter(|d| !d.as_os_str().is_empty()) {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        // The empty last component leaves the slash that marks a directory.
        builder
            .append_data(&mut header, directory.join(""), std::io::empty())
            .context("failed to add a directory")?;
    }
    for (path, bytes) in sorted {
        let mut header = header(tar::EntryType::Regular, mode, bytes.len() as u64);
        builder
            .append_data(&mut header, path, bytes)
            .with_context(|| format!("failed to add {path}"))?;
    }
    builder.into_inner().context("failed to finish an archive")
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wasm_artefact_has_the_types_that_the_cncf_names() {
        let artifact = Artifact::wasm(b"\0asm".to_vec()).unwrap();
        let manifest: Value = serde_json::from_slice(&artifact.manifest).unwrap();
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
        assert_eq!(manifest["layers"][0]["mediaType"], "application/wasm");
        assert_eq!(manifest["layers"][0]["digest"], digest(b"\0asm"));
    }

    #[test]
    fn files_in_any_order_have_the_same_digest() {
        let of = |files: &[(&str, &[u8])]| Artifact::files(files).unwrap().digest();
        assert_eq!(of(&[("a", b"1"), ("sub/b", b"2")]), of(&[("sub/b", b"2"), ("a", b"1")]));
        assert_ne!(of(&[("a", b"1")]), of(&[("a", b"2")]));
    }

    #[test]
    fn files_unpack_to_what_they_were() {
        let artifact = Artifact::files(&[("sub/deep/file", b"content"), ("top", b"")]).unwrap();
        let out = tempfile::tempdir().unwrap();
        let layer = flate2::read::GzDecoder::new(artifact.blobs[1].bytes.as_slice());
        tar::Archive::new(layer).unpack(out.path()).unwrap();
        assert_eq!(
            std::fs::read_to_string(out.path().join("sub/deep/file")).unwrap(),
            "content"
        );
        assert!(out.path().join("top").is_file());
    }
}
