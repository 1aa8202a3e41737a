//! Kerbside's own programs as real processes: the operator, the adapter, and any number of cars.
//!
//! Called by `up`, by the demo and by tests. Operator and adapter sign in with the chart's ServiceAccounts, cars with what they
//! got at enrolment: nothing here has a right that an installation would not have.

pub mod car;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::Client;

use crate::bed::Bed;
use crate::endpoints::{Endpoints, SYSTEM_NAMESPACE};
use crate::engine::Engines;
use crate::layout::Layout;
use crate::process::{self, Program, Record};
use crate::registry::guarded::Guarded;
use crate::store::Place;
use crate::{http, install, ports, tools};

/// Names of the processes, and with them of their records and logs.
pub mod name {
    /// The operator.
    pub const OPERATOR: &str = "operator";
    /// The adapter.
    pub const ADAPTER: &str = "adapter";
}

/// A program is ready within that, or something is wrong: the first takes over a lease that an earlier one may have left.
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// Chooses where everything will listen. Nothing listens there yet.
pub fn choose(
    kubeconfig: &Path,
    registry: String,
    guarded: Option<Guarded>,
    engines: Engines,
    store: Place,
) -> Result<Endpoints> {
    Ok(Endpoints {
        kubeconfig: kubeconfig.to_owned(),
        registry,
        guarded,
        engines,
        store,
        link: format!("https://127.0.0.1:{}", ports::free()?),
        operator: format!("http://127.0.0.1:{}", ports::free()?),
        adapter: format!("http://127.0.0.1:{}", ports::free()?),
    })
}

/// What operator and adapter are told alike: where they live, the store, and who they are.
fn program(name: &str, binary: &str, endpoints: &Endpoints, account: &Path) -> Result<Program> {
    let Place { url, environment, .. } = &endpoints.store;
    Ok(Program::new(name, tools::own(binary)?)
        .args(["--namespace", SYSTEM_NAMESPACE, "--store-url", url, "--log", "info"])
        .envs(environment)
        .env("KUBECONFIG", account.display().to_string()))
}

/// Starts the operator and waits until it is ready.
pub async fn start_operator(layout: &Layout, client: &Client, endpoints: &Endpoints) -> Result<Record> {
    let account = install::account(client, layout, &endpoints.kubeconfig, "kerbside-operator").await?;
    let program = program(name::OPERATOR, "kerbside-operator", endpoints, &account)?
        .args(["--listen", address(&endpoints.operator)]);
    let record = process::start(layout, &program)?;
    ready(&record, &endpoints.operator).await?;
    Ok(record)
}

/// Starts the adapter and waits until it is ready; it needs the operator, which signs its certificate.
pub async fn start_adapter(layout: &Layout, client: &Client, endpoints: &Endpoints) -> Result<Record> {
    let account = install::account(client, layout, &endpoints.kubeconfig, "kerbside-virtual-kubelet").await?;
    let program = program(name::ADAPTER, "kerbside-kubelet", endpoints, &account)?
        .args([
            "--link-listen",
            address(&endpoints.link),
            "--link-name",
            "127.0.0.1,localhost",
        ])
        .args([
            "--kubelet-listen",
            &format!("127.0.0.1:{}", ports::free()?),
            "--node-address",
            "127.0.0.1",
        ])
        .args(["--replica", "testbed-0", "--listen", address(&endpoints.adapter)])
        .args(["--registry-http", &endpoints.plain_http().join(",")]);
    let record = process::start(layout, &program)?;
    ready(&record, &endpoints.adapter).await?;
    Ok(record)
}

/// Puts another program into the place of one of the adapter's, in order, and waits until it is ready.
pub async fn replace(bed: &Bed, running: &Record, program: &Program) -> Result<Record> {
    process::end(&bed.layout, std::slice::from_ref(running), Duration::from_secs(15)).await?;
    let record = process::start(&bed.layout, program)?;
    ready(&record, &bed.endpoints.adapter).await?;
    Ok(record)
}

/// Waits until a program says that it is ready.
pub async fn ready(record: &Record, base: &str) -> Result<()> {
    process::ready(record, READY_DEADLINE, || async {
        http::get(base, "/readyz").await.map(drop)
    })
    .await
}

/// `host:port` of a URL.
fn address(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, address)| address)
}

/// The record of one of Kerbside's programs, which must run.
pub fn running(layout: &Layout, name: &str) -> Result<Record> {
    let record = process::find(layout, name).with_context(|| format!("{name} was never started"))?;
    anyhow::ensure!(
        record.alive(),
        "{name} has ended; its log: {}\n{}",
        record.log.display(),
        record.tail(15)
    );
    Ok(record)
}
