//! The pinned `kubectl` and `helm`, run as a user runs them.
//!
//! Called where the text a user sees is what matters (apply errors, logs) and by the demo. Never reads the user's own kubeconfig.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;

use crate::tools;

/// A command line tool, aimed at one cluster.
#[derive(Debug, Clone)]
pub struct Tool {
    binary: PathBuf,
    kubeconfig: PathBuf,
}

/// What a command gave.
#[derive(Debug, Clone)]
pub struct Output {
    /// Whether it ended with 0.
    pub success: bool,
    /// Its output.
    pub stdout: String,
    /// Its errors.
    pub stderr: String,
}

impl Tool {
    /// `kubectl` for the cluster of `kubeconfig`.
    pub fn kubectl(kubeconfig: &Path) -> Result<Self> {
        Ok(Self {
            binary: tools::pinned("kubernetes", "kubectl")?,
            kubeconfig: kubeconfig.to_owned(),
        })
    }

    /// `helm` for the cluster of `kubeconfig`.
    pub fn helm(kubeconfig: &Path) -> Result<Self> {
        Ok(Self {
            binary: tools::pinned("helm", "helm")?,
            kubeconfig: kubeconfig.to_owned(),
        })
    }

    /// One of Kerbside's own programs; those of a car do not read the kubeconfig.
    pub fn own(name: &str, kubeconfig: &Path) -> Result<Self> {
        Ok(Self {
            binary: tools::own(name)?,
            kubeconfig: kubeconfig.to_owned(),
        })
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.binary
    }

    /// Which cluster it is aimed at.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs it; its failing is not an error here.
    pub async fn attempt(&self, args: &[&str], stdin: &str) -> Result<Output> {
        let name = self.binary.display();
        let mut child = tokio::process::Command::new(&self.binary)
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("failed to run {name}"))?;
        let mut pipe = child.stdin.take().context("the child's input is a pipe")?;
        // A tool that fails early does not read to the end: its own words tell why, not the broken pipe.
        let written = pipe.write_all(stdin.as_bytes()).await;
        drop(pipe);
        let output = child
            .wait_with_output()
            .await
            .with_context(|| format!("failed to run {name}"))?;
        if output.status.success() {
            written.with_context(|| format!("failed to write to {name}"))?;
        }
        Ok(Output {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Starts it and leaves it running; its output is a pipe. It ends with the returned handle.
    pub fn stream(&self, args: &[&str]) -> Result<tokio::process::Child> {
        tokio::process::Command::new(&self.binary)
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("failed to run {}", self.binary.display()))
    }

    /// Runs it and gives its output; its failing is an error with its words.
    pub async fn run(&self, args: &[&str], stdin: &str) -> Result<String> {
        let output = self.attempt(args, stdin).await?;
        if !output.success {
            let name = self
                .binary
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            bail!("`{name} {}` failed: {}", args.join(" "), output.stderr.trim());
        }
        Ok(output.stdout)
    }
}
