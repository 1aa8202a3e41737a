//! What a running testbed is reached by: written by `up`, read by tests and by people.
//!
//! One file, `testbed.json`. Whoever finds it finds everything: cluster, registry, store, link.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::layout::{Layout, read_json, write_json};
use crate::store::Place;

/// The namespace that Kerbside's programs live in.
pub const SYSTEM_NAMESPACE: &str = "kerbside-system";

/// Where everything is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// `host:port` of the registry, as in image references.
    pub registry: String,
    /// The container engine's socket; `None`: there is none, for the reason given.
    pub engine: Result<PathBuf, String>,
    /// The result store of operator and adapter.
    pub store: Place,
    /// What cars dial.
    pub link: String,
    /// The operator's own HTTP port: health, metrics, results, logs.
    pub operator: String,
    /// The adapter's own HTTP port: health, metrics.
    pub adapter: String,
}

impl Endpoints {
    /// Reads what `up` wrote.
    pub fn read(layout: &Layout) -> Result<Self> {
        read_json(&path(layout)).with_context(|| format!("no testbed is up in {}", layout.root().display()))
    }

    /// Writes it.
    pub fn write(&self, layout: &Layout) -> Result<()> {
        write_json(&path(layout), self)
    }
}

fn path(layout: &Layout) -> PathBuf {
    layout.path("testbed.json")
}
