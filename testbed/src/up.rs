//! Brings a testbed up, part after part, and down again.
//!
//! Called by the `up` and `down` commands and by the demo. Whatever fails on the way up, what was started is ended again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::control_plane::{self, kubeconfig};
use crate::endpoints::Endpoints;
use crate::fleet::{self, car};
use crate::install::footprint::{self, Footprint};
use crate::kubectl::Tool;
use crate::layout::Layout;
use crate::{engine, install, process, programs, registry, store};

/// How much of a testbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The control plane and the registry.
    ControlPlane,
    /// And Kerbside: CRDs, chart, operator, adapter, the examples' images. No cars.
    Kerbside,
}

/// What to bring up.
#[derive(Debug, Clone)]
pub struct Request {
    /// How much.
    pub scope: Scope,
    /// The control plane's options.
    pub control_plane: control_plane::Options,
    /// What holds the results.
    pub store: store::Kind,
    /// Which container engines cars may have: each needs root, and makes a bridge on this machine.
    pub engines: &'static [engine::Kind],
    /// Whether cars come with the machine code of the examples.
    pub compiled: bool,
    /// A cluster that is there already, to use instead of a control plane of one's own.
    pub cluster: Option<PathBuf>,
}

/// Brings it up in `layout`; `said` is told what is being done.
pub async fn up(layout: &Layout, request: &Request, said: &mut dyn FnMut(&str)) -> Result<()> {
    if let Some(running) = process::all(layout)?.iter().find(|r| r.alive()) {
        bail!(
            "{} already runs from {}; `down` ends it",
            running.program.name,
            layout.root().display()
        );
    }
    layout.remove_runtime()?;
    let result = parts(layout, request, said).await;
    if result.is_err() {
        end(layout).await?;
    }
    result
}

async fn parts(layout: &Layout, request: &Request, said: &mut dyn FnMut(&str)) -> Result<()> {
    let admin = if let Some(kubeconfig) = &request.cluster {
        kubeconfig.clone()
    } else {
        control_plane::start(layout, &request.control_plane, said).await?;
        layout.kubeconfig()
    };
    said("starting the registry");
    let registry = registry::start(layout).await?;
    let store = store::start(layout, request.store).await?;
    let engines = if request.engines.is_empty() {
        engine::Engines::new()
    } else {
        said("starting the container engines");
        engine::start(layout, request.engines).await?
    };
    let guarded = if engines.values().any(Result::is_ok) {
        Some(registry::guarded::start(layout).await?)
    } else {
        None
    };
    let endpoints = fleet::choose(&admin, registry, guarded, engines, store)?;
    // Before anything goes into the cluster: without them nobody can take it away again.
    endpoints.write(layout)?;
    if request.scope == Scope::Kerbside {
        kerbside(layout, &admin, &endpoints, request.compiled, said).await?;
    }
    Ok(())
}

async fn kerbside(
    layout: &Layout,
    admin: &Path,
    endpoints: &Endpoints,
    compiled: bool,
    said: &mut dyn FnMut(&str),
) -> Result<()> {
    said("building the examples and pushing them");
    programs::publish(layout, &endpoints.registry).await?;
    if endpoints.engines.values().any(Result::is_ok) {
        programs::publish_actor(layout, &endpoints.registry).await?;
    }
    let compiling = async {
        if compiled {
            programs::compile(layout).await?;
        }
        Ok(())
    };
    // It takes one of two processors, and what follows mostly waits.
    let (compiled, installed) = tokio::join!(compiling, start(layout, admin, endpoints, said));
    installed.and(compiled)
}

async fn start(layout: &Layout, admin: &Path, endpoints: &Endpoints, said: &mut dyn FnMut(&str)) -> Result<()> {
    said("installing the CRDs and the chart's roles and policies");
    let client = kubeconfig::client(admin).await?;
    install::refuse_if_installed(&client).await?;
    let mut footprint = Footprint::open(layout)?;
    install::crds(&client, &mut footprint).await?;
    install::chart(&client, &Tool::helm(admin)?, &mut footprint).await?;
    said("starting the operator");
    fleet::start_operator(layout, &client, endpoints).await?;
    said("starting the adapter");
    fleet::start_adapter(layout, &client, endpoints).await?;
    Ok(())
}

/// Takes away everything that `layout` started or put into somebody's cluster, and nothing else; gives how many processes ended.
pub async fn end(layout: &Layout) -> Result<usize> {
    // The programs still run while the objects go: operator and adapter take their finalizers off.
    footprint::remove(layout).await?;
    // All else ends whatever comes of it.
    let revived = engine::revive(layout).await;
    let mut records = process::all(layout)?;
    let count = records.iter().filter(|r| r.alive()).count();
    records.sort_by_key(|r| rank(&r.program.name));
    for same in records.chunk_by(|a, b| rank(&a.program.name) == rank(&b.program.name)) {
        for record in same {
            // A process that a test has stopped does not hear that it should end.
            record.signal(nix::sys::signal::Signal::SIGCONT);
        }
        for kind in same.iter().filter_map(|r| engine::Kind::of_process(&r.program.name)) {
            engine::end(layout, kind).await?;
        }
        process::end(layout, same, Duration::from_secs(5)).await?;
    }
    engine::clear(layout).await?;
    revived.map(|()| count)
}

/// Clients go before servers, so that nobody's last words are complaints about somebody who has gone.
fn rank(name: &str) -> usize {
    let rest = ["kube-controller-manager", "kube-scheduler", "kube-apiserver", "etcd"];
    if name.starts_with(car::PREFIX) {
        return 0;
    }
    match name {
        _ if engine::Kind::of_process(name).is_some() => 1,
        fleet::name::ADAPTER => 1,
        fleet::name::OPERATOR => 2,
        other => rest.iter().position(|r| *r == other).map_or(3, |p| 4 + p),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_end_before_servers() {
        let mut names = [
            "etcd",
            "kube-apiserver",
            "registry",
            "car-ada",
            "operator",
            "containerd-debian",
            "adapter",
            "kube-scheduler",
        ];
        names.sort_by_key(|n| rank(n));
        assert_eq!(
            names,
            [
                "car-ada",
                "containerd-debian",
                "adapter",
                "operator",
                "registry",
                "kube-scheduler",
                "kube-apiserver",
                "etcd"
            ]
        );
    }
}
