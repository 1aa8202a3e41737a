//! Finds programs: the checkout, the pinned tools that `hack/tools/build.sh` built, and Kerbside's own binaries.
//!
//! Nothing is taken from the PATH but `bash` and what the build script itself needs: versions are what the checkout says.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The file that marks the root of a checkout.
const MARK: &str = "hack/tools/build.sh";

/// The root of the checkout that the current directory is in.
pub fn checkout() -> Result<PathBuf> {
    let here = std::env::current_dir().context("failed to read the current directory")?;
    here.ancestors()
        .find(|d| d.join(MARK).is_file())
        .map(Path::to_path_buf)
        .with_context(|| {
            format!(
                "{} is not inside a checkout of Kerbside (no {MARK} above it)",
                here.display()
            )
        })
}

/// A pinned tool, such as `kube-apiserver` of the group `kubernetes`.
pub fn pinned(group: &str, name: &str) -> Result<PathBuf> {
    let script = checkout()?.join(MARK);
    let output = Command::new("bash")
        .arg(&script)
        .args(["--path", group])
        .output()
        .with_context(|| format!("failed to run {}", script.display()))?;
    if !output.status.success() {
        bail!(
            "{} --path {group} failed: {}",
            script.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).join(name);
    if !path.is_file() {
        bail!("{name} is not built; run `make tools` (looked for {})", path.display());
    }
    Ok(path)
}

/// One of Kerbside's own programs, built beside this one.
pub fn own(name: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe().context("failed to find this program's own path")?;
    // A test binary lives one level below the programs, in `deps`.
    let found = exe
        .ancestors()
        .skip(1)
        .take(2)
        .map(|d| d.join(name))
        .find(|p| p.is_file());
    found.with_context(|| {
        format!(
            "{name} is not built; run `make build` (looked beside {})",
            exe.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkout_is_found_from_the_package_directory() {
        assert!(checkout().unwrap().join("Cargo.toml").is_file());
    }

    #[test]
    fn tool_that_is_not_built_names_the_command_that_builds_it() {
        let text = format!("{:#}", pinned("etcd", "no-such-tool").unwrap_err());
        assert!(text.contains("make tools"), "{text}");
    }

    #[test]
    fn own_program_that_is_not_built_names_the_command_that_builds_it() {
        let text = format!("{:#}", own("kerbside-nothing").unwrap_err());
        assert!(text.contains("make build"), "{text}");
    }
}
