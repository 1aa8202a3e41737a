//! Where a testbed keeps what: one directory, known paths inside it.
//!
//! Every part of the testbed takes its paths from here. Nothing outside of the directory is ever written or removed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The directory of one testbed.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The testbed in `root`, which is created if absent.
    pub fn create(root: &Path) -> Result<Self> {
        std::fs::create_dir_all(root).with_context(|| format!("failed to create {}", root.display()))?;
        Self::open(root)
    }

    /// The testbed in `root`, which must be there.
    pub fn open(root: &Path) -> Result<Self> {
        let root = std::fs::canonicalize(root).with_context(|| format!("there is no testbed in {}", root.display()))?;
        Ok(Self { root })
    }

    /// The directory itself, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A directory in it, created if absent.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("failed to create {}", path.display()))?;
        Ok(path)
    }

    /// A path in it; nothing is created.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The kubeconfig of the cluster's administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// Removes what only a running testbed needs and leaves logs and results: keys, databases, blobs, cars.
    pub fn remove_runtime(&self) -> Result<()> {
        for name in [
            "etcd",
            "pki",
            "kubeconfigs",
            "registry",
            "cars",
            "databrokers",
            "browsers",
            "processes",
            "bin",
            "compiled",
        ] {
            let path = self.root.join(name);
            if path.exists() {
                std::fs::remove_dir_all(&path).with_context(|| format!("failed to remove {}", path.display()))?;
            }
        }
        for name in ["kubeconfig", "testbed.json", "footprint.json"] {
            let path = self.root.join(name);
            if path.exists() {
                std::fs::remove_file(&path).with_context(|| format!("failed to remove {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// Reads a JSON file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("failed to parse {}", path.display()))
}

/// Writes a JSON file in one step: a reader sees the old content or the new, never a part.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("failed to render JSON")?;
    write_atomically(path, text.as_bytes())
}

/// Writes a file in one step.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let parent = path.parent().context("a file has a parent directory")?;
    let mut file = tempfile::NamedTempFile::new_in(parent)
        .with_context(|| format!("failed to create a file in {}", parent.display()))?;
    std::io::Write::write_all(&mut file, bytes).with_context(|| format!("failed to write {}", path.display()))?;
    file.persist(path)
        .with_context(|| format!("failed to write {}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtime_removal_leaves_logs_and_what_it_does_not_know() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        for name in ["etcd", "pki", "logs", "mine"] {
            std::fs::write(layout.dir(name).unwrap().join("file"), "x").unwrap();
        }
        std::fs::write(layout.kubeconfig(), "x").unwrap();
        layout.remove_runtime().unwrap();
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["logs", "mine"]);
    }

    #[test]
    fn open_without_a_directory_names_it() {
        let text = format!("{:#}", Layout::open(Path::new("/nonexistent/kerbside")).unwrap_err());
        assert!(text.contains("/nonexistent/kerbside"), "{text}");
    }
}
