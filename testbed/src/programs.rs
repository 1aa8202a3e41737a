//! The examples' programs, models and data: built with `examples/build.sh` and pushed to the testbed's registry.
//!
//! Called by `up`. Names and tags are those that the manifests in `examples/` use.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio::process::Command;

use crate::layout::Layout;
use crate::registry::artifact::Artifact;
use crate::registry::push::push;
use crate::tools;

/// Repositories that are WebAssembly programs; `examples/build.sh` leaves each as `<name>.wasm`.
const PROGRAMS: [&str; 3] = ["digits", "hello", "ticker"];
/// Repositories that are programs for containers; `examples/build.sh` leaves each under its name.
const CONTAINERS: [&str; 1] = ["service"];
/// Repositories that are data: directories of the checkout, and the one file of each that counts.
const DATA: [(&str, &str); 2] = [
    ("digits-model", "examples/digits/model/model.json"),
    ("digits-data", "examples/digits/data/digits.csv"),
];
/// The tests' program.
pub const ACTOR: &str = "actor";
/// Where machine code is kept for new cars.
const COMPILED: &str = "compiled";
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
    for name in CONTAINERS {
        let path = out.join(name);
        let program = std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
        // Not root: numbers, for there is no file of names in an image with one program.
        let config = json!({"Entrypoint": [format!("/{name}")], "User": "65532:65532"});
        references.push(push(registry, name, TAG, &Artifact::program(name, &program, &config)?).await?);
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

/// Compiles the programs as a car does, so that the cars of many tests need not do it again and again. It takes a car's agent, and
/// five seconds of a processor each.
pub async fn compile(layout: &Layout) -> Result<()> {
    let (cache, programs) = (layout.dir(COMPILED)?, layout.dir("programs")?);
    for name in PROGRAMS {
        let module = programs.join(format!("{name}.wasm"));
        let output = Command::new(tools::own("kerbside-agent")?)
            .args(["compile", "--cache"])
            .args([&cache, &module])
            .output()
            .await
            .context("failed to run the agent's compiler")?;
        // As its caller in the agent reads it.
        if !output.status.success() || !output.stdout.is_empty() {
            bail!("failed to compile {name}: {}", String::from_utf8_lossy(&output.stdout));
        }
    }
    Ok(())
}

/// Puts what was compiled into the cache of the car whose directory this is. Wasmtime checks itself that it is its own.
pub fn give_compiled(layout: &Layout, car: &Path) -> Result<()> {
    let from = layout.path(COMPILED);
    if from.is_dir() {
        copy(&from, &car.join("cache/compiled"))?;
        // As the agent makes it.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(car.join("cache"), private).context("failed to make a car's cache private")?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("failed to copy {} to {}", from.display(), to.display());
    std::fs::create_dir_all(to).with_context(failed)?;
    for entry in std::fs::read_dir(from).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target).with_context(failed)?;
        }
    }
    Ok(())
}

/// The program of tests: it does what a test tells it. Its image names no user, so it is root in its container.
pub async fn publish_actor(layout: &Layout, registry: &str) -> Result<String> {
    let path = layout.dir("programs")?.join(ACTOR);
    let output = Command::new("go")
        .args([
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags",
            "-s -w -buildid=",
            "-o",
        ])
        .arg(&path)
        .arg(".")
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .current_dir(tools::checkout()?.join("testbed/actor"))
        .output()
        .await
        .context("failed to run go")?;
    if !output.status.success() {
        bail!(
            "the tests' program does not build: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let program = std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let config = json!({"Entrypoint": [format!("/{ACTOR}")], "Env": ["PATH=/:/bin"]});
    let image = Artifact::programs(&[(ACTOR, &program), ("bin/tar", &program)], &config)?;
    push(registry, ACTOR, TAG, &image).await
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
