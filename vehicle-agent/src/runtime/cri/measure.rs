//! What the engine alone needs for a container, without anything of a car around it: the yardstick of `make bench-pods`.
//!
//! Called by the testbed's benchmark only.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::client::Engine;
use super::{proto, sandbox, spec_of};

/// Makes a sandbox and a container with these arguments, starts it, and waits until it runs; then takes all of it away. `image` is the
/// engine's own name of an image that it has. Returns how long it took until the container ran. The error is a sentence.
pub async fn start_alone(
    socket: &Path,
    image: &str,
    args: &[String],
    number: u32,
    logs: PathBuf,
) -> Result<Duration, String> {
    let engine = Engine::new(socket);
    let said = |e: super::CallError| e.to_string();
    let name = format!("alone-{number}");
    let config = proto::PodSandboxConfig {
        metadata: Some(proto::PodSandboxMetadata {
            name: name.clone(),
            uid: name.clone(),
            namespace: "alone".to_owned(),
            attempt: 0,
        }),
        hostname: name,
        log_directory: logs.to_string_lossy().into_owned(),
        linux: Some(proto::LinuxPodSandboxConfig {
            cgroup_parent: "/kerbside-alone".to_owned(),
            ..proto::LinuxPodSandboxConfig::default()
        }),
        ..proto::PodSandboxConfig::default()
    };
    let container = proto::ContainerConfig {
        metadata: Some(proto::ContainerMetadata {
            name: "main".to_owned(),
            attempt: 0,
        }),
        image: Some(spec_of(image)),
        args: args.to_vec(),
        log_path: format!("{number}.log"),
        ..proto::ContainerConfig::default()
    };
    // A connection that is there, as a car has one.
    engine.version(proto::VersionRequest::default()).await.map_err(said)?;
    let since = Instant::now();
    let request = proto::RunPodSandboxRequest {
        config: Some(config.clone()),
        runtime_handler: String::new(),
    };
    let id = engine.run_pod_sandbox(request).await.map_err(said)?.pod_sandbox_id;
    let started = async {
        let request = proto::CreateContainerRequest {
            pod_sandbox_id: id.clone(),
            config: Some(container),
            sandbox_config: Some(config),
        };
        let container_id = engine.create_container(request).await.map_err(said)?.container_id;
        let request = proto::StartContainerRequest { container_id };
        engine.start_container(request).await.map_err(said)
    };
    let result = started.await.map(|_| since.elapsed());
    sandbox::remove(&engine, &id).await.map_err(said)?;
    result
}
