//! What the engine is told of a sandbox and of a container: pure, from what the Pod says.
//!
//! What must never happen: a privilege, a device, a namespace of the car or a path of the car that the agent did not make for the attempt.

use std::collections::BTreeMap;
use std::path::Path;

use super::proto::{
    Capability, ContainerConfig, ContainerMetadata, DnsConfig, ImageSpec, Int64Value, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount,
    NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata, SecurityProfile, security_profile,
};
use crate::cgroup::{Cgroup, PERIOD_US, quota_us};
use crate::pod::{Dns, Work};
use crate::runtime::{Security, Spec};

/// Whose sandbox it is: the agent that made it.
pub(super) const CAR: &str = "kerbside.dev/car";
/// The labels by which tools such as crictl show containers.
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(super) const POD_UID: &str = "io.kubernetes.pod.uid";
pub(super) const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// Of the capabilities that engines give to everybody, those that a stranger's program in a car does without: they are for making devices,
/// packets of any kind, entries in the car's audit log, and for leaving the file system.
const NOT_GIVEN: [&str; 4] = ["MKNOD", "NET_RAW", "AUDIT_WRITE", "SYS_CHROOT"];
/// What the kernel shows of itself and of the machine, hidden as by the kubelet.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const LEAST_SHARES: u64 = 2;
/// When memory is short, the car's own programs stay and these go.
const OOM_SCORE: i64 = 1000;

/// What the containers of an attempt share. `attempt`: how many were made for it before, of which the engine may still know.
pub(super) fn sandbox(work: &Work, car: &str, attempt: u32, group: &Cgroup, logs: String) -> PodSandboxConfig {
    let labels = [
        (POD_NAME, work.name.as_str()),
        (POD_NAMESPACE, &work.namespace),
        (POD_UID, work.uid.as_str()),
        (CAR, car),
    ];
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: work.name.clone(),
            uid: work.uid.to_string(),
            namespace: work.namespace.clone(),
            attempt,
        }),
        hostname: work.shared.hostname.clone(),
        log_directory: logs,
        dns_config: work.shared.dns.as_ref().map(dns),
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        annotations: [].into(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: group.name(),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(work, None)),
                seccomp: Some(seccomp()),
                ..LinuxSandboxSecurityContext::default()
            }),
            sysctls: sysctls(work),
        }),
    }
}

/// Link-local addresses of IPv6 come by themselves, and with them a way to the car's end of the wire.
fn sysctls(work: &Work) -> BTreeMap<String, String> {
    let mut all = work.shared.sysctls.clone();
    if !Path::new("/proc/sys/net/ipv6").exists() {
        // A kernel without it.
        return all;
    }
    for scope in ["all", "default"] {
        all.insert(format!("net.ipv6.conf.{scope}.disable_ipv6"), "1".to_owned());
    }
    all
}

fn dns(dns: &Dns) -> DnsConfig {
    DnsConfig {
        servers: dns.servers.clone(),
        searches: dns.searches.clone(),
        options: dns.options.clone(),
    }
}

/// `target`: the container whose processes it sees.
fn namespaces(work: &Work, target: Option<&str>) -> NamespaceOption {
    let pid = match target {
        _ if work.shared.process_namespace => NamespaceMode::Pod,
        Some(_) => NamespaceMode::Target,
        None => NamespaceMode::Container,
    };
    NamespaceOption {
        network: NamespaceMode::Pod.into(),
        pid: pid.into(),
        ipc: NamespaceMode::Pod.into(),
        target_id: target.unwrap_or_default().to_owned(),
    }
}

/// The engine's own filter of system calls, always.
fn seccomp() -> SecurityProfile {
    SecurityProfile {
        profile_type: security_profile::ProfileType::RuntimeDefault.into(),
        localhost_ref: String::new(),
    }
}

/// One run of a container of the image that the engine calls `image`. `log` is its log's path below the sandbox's, `target` what the
/// engine calls the container whose processes it sees.
pub(super) fn container(work: &Work, spec: &Spec, image: &str, log: String, target: Option<&str>) -> ContainerConfig {
    let mut labels: BTreeMap<_, _> = [
        (POD_NAME.to_owned(), work.name.clone()),
        (POD_NAMESPACE.to_owned(), work.namespace.clone()),
        (POD_UID.to_owned(), work.uid.to_string()),
    ]
    .into();
    labels.insert(CONTAINER_NAME.to_owned(), spec.name.clone());
    let envs = spec.env.iter().map(|(key, value)| KeyValue {
        key: key.clone(),
        value: value.clone().into_bytes(),
    });
    let mounts = spec.directories.iter().map(|directory| Mount {
        container_path: directory.guest.clone(),
        host_path: directory.host.to_string_lossy().into_owned(),
        readonly: directory.read_only,
    });
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: spec.name.clone(),
            attempt: spec.restarts,
        }),
        image: Some(ImageSpec {
            image: image.to_owned(),
            annotations: [].into(),
        }),
        command: spec.command.clone(),
        args: spec.args.clone(),
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        envs: envs.collect(),
        mounts: mounts.collect(),
        labels,
        annotations: [].into(),
        log_path: log,
        stdin: spec.terminal.stdin,
        stdin_once: spec.terminal.stdin_once,
        tty: spec.terminal.tty,
        linux: Some(LinuxContainerConfig {
            resources: Some(resources(spec)),
            security_context: Some(security(work, &spec.security, target)),
        }),
    }
}

fn resources(spec: &Spec) -> LinuxContainerResources {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let quota = spec.cpu_limit.map(quota_us);
    LinuxContainerResources {
        cpu_period: number(PERIOD_US),
        cpu_quota: quota.map_or(0, number),
        cpu_shares: number((spec.cpu_request * 1024 / 1000).max(LEAST_SHARES)),
        memory_limit_in_bytes: number(spec.memory_limit),
        oom_score_adj: OOM_SCORE,
        unified: [].into(),
        memory_swap_limit_in_bytes: 0,
    }
}

fn security(work: &Work, security: &Security, target: Option<&str>) -> LinuxContainerSecurityContext {
    let number = |value: Option<i64>| value.map(|value| Int64Value { value });
    let paths = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    let kept = NOT_GIVEN
        .iter()
        .filter(|name| !security.add.iter().any(|added| added == *name));
    let dropped = security.drop.iter().cloned().chain(kept.map(|name| (*name).to_owned()));
    LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: security.add.clone(),
            drop_capabilities: dropped.collect(),
        }),
        privileged: false,
        namespace_options: Some(namespaces(work, target)),
        run_as_user: number(security.user),
        run_as_username: String::new(),
        readonly_rootfs: security.read_only_root,
        supplemental_groups: security.groups.clone(),
        no_new_privs: true,
        run_as_group: number(security.group),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp()),
    }
}
