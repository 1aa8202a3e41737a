//! What a running testbed is reached by: written by `up`, read by tests and by people.
//!
//! One file, `testbed.json`. Whoever finds it finds everything: cluster, registry, store, link.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::engine::{Engines, Kind};
use crate::layout::{Layout, read_json, write_json};
use crate::registry::guarded::Guarded;
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
    /// A registry that lets in only who has a token, where there are container engines.
    pub guarded: Option<Guarded>,
    /// The sockets of the container engines that were asked for; an error says why there is none.
    pub engines: Engines,
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

    /// The socket of a container engine; `Err`: why there is none.
    pub fn engine(&self, kind: Kind) -> Result<&Path, &str> {
        match self.engines.get(&kind) {
            Some(Ok(socket)) => Ok(socket),
            Some(Err(why)) => Err(why),
            None => Err("it was not asked for"),
        }
    }

    /// The registries without TLS.
    pub fn plain_http(&self) -> Vec<String> {
        let guarded = self.guarded.iter().map(|guarded| guarded.registry.clone());
        [self.registry.clone()].into_iter().chain(guarded).collect()
    }

    /// Writes it.
    pub fn write(&self, layout: &Layout) -> Result<()> {
        write_json(&path(layout), self)
    }
}

fn path(layout: &Layout) -> PathBuf {
    layout.path("testbed.json")
}
