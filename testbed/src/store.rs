//! The result store of operator and adapter: a directory, as on one machine, or a real S3-compatible server, as in a cluster.
//!
//! Called by `up`. The server is `versitygw` on loopback; a bucket of it is a directory, so that a test can take either away in the
//! same manner.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::process::{self, Program};
use crate::{http, ports, tools};

/// The one bucket, and where in it.
const BUCKET: &str = "kerbside";
const PREFIX: &str = "results";
/// Where the server says that it is there, to anybody.
const HEALTH: &str = "/health";

/// What holds the results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A directory.
    #[default]
    Directory,
    /// An S3-compatible server; `make tools` does not build it, `hack/tools/build.sh s3` does.
    S3,
}

/// A store that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// For `--store-url`.
    pub url: String,
    /// The directory that its objects are files of.
    pub directory: PathBuf,
    /// What operator and adapter need in their environment to reach it.
    pub environment: BTreeMap<String, String>,
}

/// Makes the store, empty: what an earlier testbed in `layout` left is of a cluster that is gone, and its ledger of a link CA that is.
pub async fn start(layout: &Layout, kind: Kind) -> Result<Place> {
    match kind {
        Kind::Directory => {
            let directory = emptied(layout, "store")?;
            Ok(Place {
                url: format!("file://{}", directory.display()),
                directory,
                environment: BTreeMap::new(),
            })
        }
        Kind::S3 => s3(layout).await,
    }
}

fn emptied(layout: &Layout, name: &str) -> Result<PathBuf> {
    let path = layout.path(name);
    if path.exists() {
        std::fs::remove_dir_all(&path).with_context(|| format!("failed to remove {}", path.display()))?;
    }
    layout.dir(name)
}

async fn s3(layout: &Layout) -> Result<Place> {
    let buckets = emptied(layout, "buckets")?;
    let directory = buckets.join(BUCKET).join(PREFIX);
    std::fs::create_dir_all(&directory).context("failed to make the bucket")?;
    // Not among the buckets, each of which is a directory; by its name too, for the server compares beginnings.
    let metadata = emptied(layout, "s3-metadata")?;
    let address = format!("127.0.0.1:{}", ports::free()?);
    let secret = || HEXLOWER.encode(&rand::random::<[u8; 16]>());
    let (access, secret) = (secret(), secret());
    let program = Program::new("s3", tools::pinned("s3", "versitygw")?)
        .args(["--port", &address, "--health", HEALTH, "--quiet", "posix", "--sidecar"])
        .args([metadata.display().to_string(), buckets.display().to_string()])
        .env("ROOT_ACCESS_KEY_ID", access.as_str())
        .env("ROOT_SECRET_ACCESS_KEY", secret.as_str());
    let record = process::start(layout, &program)?;
    let endpoint = format!("http://{address}");
    process::ready(&record, Duration::from_secs(30), || async {
        http::get(&endpoint, HEALTH).await.map(drop)
    })
    .await?;
    let environment = [
        ("AWS_ENDPOINT", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", &access),
        ("AWS_SECRET_ACCESS_KEY", &secret),
    ];
    Ok(Place {
        url: format!("s3://{BUCKET}/{PREFIX}"),
        directory,
        environment: environment.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ledger_of_a_testbed_that_is_gone_is_gone_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let first = start(&layout, Kind::Directory).await.unwrap();
        std::fs::create_dir_all(first.directory.join("_ledger")).unwrap();
        let again = start(&layout, Kind::Directory).await.unwrap();
        assert_eq!(again.directory, first.directory);
        assert_eq!(std::fs::read_dir(again.directory).unwrap().count(), 0);
    }
}
