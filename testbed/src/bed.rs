//! A testbed that is up, as its users hold it: the cluster, the tools, the programs by name.
//!
//! Called by the demo and by tests. Opening one starts nothing; `up` did.

use std::path::Path;

use anyhow::{Context, Result};
use kube::Client;

use crate::control_plane::kubeconfig;
use crate::endpoints::{Endpoints, SYSTEM_NAMESPACE};
use crate::fleet;
use crate::fleet::car::{Car, Plan};
use crate::kubectl::Tool;
use crate::layout::Layout;
use crate::process::{self, Record};

/// Names the directory of the testbed that tests use.
pub const VARIABLE: &str = "KERBSIDE_TESTBED";

/// A testbed that is up.
#[derive(Clone)]
pub struct Bed {
    /// Its directory.
    pub layout: Layout,
    /// Where everything is.
    pub endpoints: Endpoints,
    /// The cluster's administrator.
    pub client: Client,
    /// `kubectl` as the administrator.
    pub kubectl: Tool,
    /// `kubectl fleet` as the administrator.
    pub plugin: Tool,
}

impl Bed {
    /// The testbed in this directory.
    pub async fn open(layout: Layout) -> Result<Self> {
        let endpoints = Endpoints::read(&layout)?;
        let client = kubeconfig::client(&endpoints.kubeconfig).await?;
        let kubectl = Tool::kubectl(&endpoints.kubeconfig)?;
        let plugin = Tool::own("kubectl-fleet", &endpoints.kubeconfig)?;
        Ok(Self {
            layout,
            endpoints,
            client,
            kubectl,
            plugin,
        })
    }

    /// The testbed that the environment names: what `make cluster` started.
    pub async fn from_environment() -> Result<Self> {
        let dir = std::env::var_os(VARIABLE).with_context(|| {
            format!(
                "{VARIABLE} is not set: cluster tests need a testbed that is up. Run `make cluster`, or start one with \
                 `kerbside-testbed up --dir DIR` and set {VARIABLE}=DIR"
            )
        })?;
        Self::open(Layout::open(Path::new(&dir))?).await
    }

    /// Makes and enrols a car with a new token; it does not run yet.
    pub async fn car(&self, name: &str, pool: &str, plan: &Plan) -> Result<Car> {
        let token = self.token(pool).await?;
        Car::enrol(&self.layout, &self.endpoints, name, plan, &token)
            .await
            .with_context(|| format!("car {name}"))
    }

    /// A new enrolment token for the pool, as an operator of a fleet gets it.
    pub async fn token(&self, pool: &str) -> Result<String> {
        let args = [
            "enrol",
            "--system-namespace",
            SYSTEM_NAMESPACE,
            "--pool",
            pool,
            "--link",
            self.endpoints.link.as_str(),
        ];
        let printed = self.plugin.run(&args, "").await?;
        let token = printed.split_whitespace().find(|word| word.starts_with("kb1."));
        token
            .map(str::to_owned)
            .with_context(|| format!("`kubectl fleet enrol` printed no token: {printed}"))
    }

    /// Collects the accepted results of a job into `dir`, as a user does.
    pub async fn results(&self, namespace: &str, job: &str, dir: &Path) -> Result<()> {
        let dir = dir.to_str().context("the directory for results is text")?;
        let args = [
            "results",
            "-n",
            namespace,
            job,
            "-o",
            dir,
            "--operator",
            self.endpoints.operator.as_str(),
        ];
        self.plugin.run(&args, "").await.map(drop)
    }

    /// The operator's process.
    pub fn operator(&self) -> Result<Record> {
        fleet::running(&self.layout, fleet::name::OPERATOR)
    }

    /// The adapter's process.
    pub fn adapter(&self) -> Result<Record> {
        fleet::running(&self.layout, fleet::name::ADAPTER)
    }

    /// Kills the operator or the adapter as a power cut would. Nothing of it runs until [`Self::restart`].
    pub async fn crash(&self, name: &str) -> Result<()> {
        process::crash(&self.layout, name).await.map(drop)
    }

    /// Starts the operator or the adapter again, on the ports that it had, and waits until it is ready.
    pub async fn restart(&self, name: &str) -> Result<()> {
        let base = if name == fleet::name::OPERATOR {
            &self.endpoints.operator
        } else {
            &self.endpoints.adapter
        };
        fleet::ready(&process::restart(&self.layout, name)?, base).await
    }
}
