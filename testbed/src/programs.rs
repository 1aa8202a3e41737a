//! The examples' programs, models and data: built with `examples/build.sh` and pushed to the testbed's registry.
//!
//! Called by `up`. Names and tags are those that the manifests in `examples/` use.

use std::path::Path;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::layout::Layout;
use crate::registry::artifact::Artifact;
use crate::registry::push::push;
use crate::tools;

/// Repositories that are WebAssembly programs; `examples/build.sh` leaves each as `<name>.wasm`.
const PROGRAMS: [&str; 3] = ["digits", "hello", "ticker"];
/// Repositories that are data: directories of the checkout, and the one file of each that counts.
const DATA: [(&str, &str); 2] = [
    ("digits-model", "examples/digits/model/model.json"),
    ("digits-data", "examples/digits/data/digits.csv"),
];
/// The tag of everything.
pub const TAG: &str = "1";

/// Builds everything and pushes it to `registry`; gives the references by digest.
pub async fn publish(layout: &Layout, registry: &str) -> Result<Vec<String>> {
    let out = layout.dir("programs")?;
    build(&out).await?;
    let mut references = Vec::new();
    for name in PROGRAMS {
        let path = out.join(format!("{name}.wasm"));
        let module = std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
        references.push(push(registry, name, TAG, &Artifact::wasm(module)?).await?);
    }
    let checkout = tools::checkout()?;
    for (name, file) in DATA {
        let path = checkout.join(file);
        let bytes = std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
        let file = path
            .file_name()
            .and_then(|n| n.to_str())
            .context("a data file has a name")?;
        references.push(push(registry, name, TAG, &Artifact::files(&[(file, &bytes)])?).await?);
    }
    Ok(references)
}

async fn build(out: &Path) -> Result<()> {
    let script = tools::checkout()?.join("examples/build.sh");
    let output = Command::new("sh")
        .arg(&script)
        .arg(out)
        .output()
        .await
        .with_context(|| format!("failed to run {}", script.display()))?;
    if !output.status.success() {
        bail!(
            "{} failed:\n{}",
            script.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
