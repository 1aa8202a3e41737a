//! The real etcd, kube-apiserver, kube-scheduler and kube-controller-manager on one machine, without containers.
//!
//! Called by `up`. Everything listens on loopback, on ports of its own choosing; keys and data live in the testbed's directory.
//! A control plane is ready when each of its four parts said so, never after a time.

pub mod kubeconfig;
pub mod pki;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use data_encoding::HEXLOWER;
use kube::Client;
use serde_json::json;

use crate::layout::{Layout, write_atomically};
use crate::process::{self, Program, Record};
use crate::{http, ports, tools};
use pki::{Authority, Identity, Usage};

/// For each part: far more than a slow machine needs, little enough that a user does not give up first.
const START_DEADLINE: Duration = Duration::from_secs(120);
/// The names by which the API server is called; its certificate holds them.
const API_SERVER_NAMES: [&str; 6] = [
    "127.0.0.1",
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "10.96.0.1",
];
/// The user that the API server is when it calls a kubelet port.
const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";

/// The administrator of the testbed, and the group that may do everything.
const ADMIN: &str = "kerbside-testbed";
const MASTERS: &str = "system:masters";

/// How the control plane differs from its defaults.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// One more argument for kube-controller-manager, such as --node-monitor-grace-period=16s; may be given again
    #[arg(long = "controller-manager-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub controller_manager_args: Vec<String>,
    /// One more argument for kube-apiserver; may be given again
    #[arg(long = "api-server-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub api_server_args: Vec<String>,
    /// Write an audit log of every request (level Metadata) to logs/audit.log
    #[arg(long)]
    pub audit: bool,
}

/// Starts the four parts and waits until each is ready; `said` is told what is being done.
///
/// The administrator's kubeconfig is then in [`Layout::kubeconfig`].
pub async fn start(layout: &Layout, options: &Options, said: &mut dyn FnMut(&str)) -> Result<()> {
    let keys = Keys::create(layout)?;
    let (etcd_port, api_port) = (ports::free()?, ports::free()?);
    let server = format!("https://127.0.0.1:{api_port}");

    said("starting etcd");
    let (etcd, etcd_url) = start_etcd(layout, etcd_port)?;
    process::ready(&etcd, START_DEADLINE, || async {
        let body = http::get(&etcd_url, "/health").await?;
        anyhow::ensure!(body.contains("\"health\":\"true\""), "etcd says {body}");
        Ok(())
    })
    .await?;

    said("starting kube-apiserver");
    let api_server = start_api_server(layout, &keys, &etcd_url, api_port, options)?;
    let admin = keys.admin_kubeconfig(&server)?;
    write_atomically(&layout.kubeconfig(), admin.as_bytes())?;
    let client = kubeconfig::client(&layout.kubeconfig()).await?;
    process::ready(&api_server, START_DEADLINE, || async {
        let request = ::http::Request::get("/readyz")
            .body(Vec::new())
            .context("failed to build a request")?;
        client
            .request_text(request)
            .await
            .map(drop)
            .context("kube-apiserver is not ready")
    })
    .await?;

    said("starting kube-scheduler and kube-controller-manager");
    let (scheduler_port, manager_port) = (ports::free()?, ports::free()?);
    let scheduler = start_scheduler(layout, &keys, &server, scheduler_port)?;
    let manager = start_controller_manager(layout, &keys, &server, manager_port, options)?;
    for (record, port) in [(scheduler, scheduler_port), (manager, manager_port)] {
        let base = format!("https://127.0.0.1:{port}");
        process::ready(&record, START_DEADLINE, || async {
            http::get(&base, "/healthz").await.map(drop)
        })
        .await?;
    }
    allow_kubelet_calls(&client).await?;
    default_account(&client).await
}

/// Everything that is signed or signs.
struct Keys {
    dir: PathBuf,
    authority: Authority,
    admin_token: String,
}

impl Keys {
    fn create(layout: &Layout) -> Result<Self> {
        let dir = layout.dir("pki")?;
        let authority = Authority::new("kerbside-testbed")?;
        authority.write(&dir.join("ca.crt"))?;
        // Nobody fronts this API server; without such an authority the other parts complain that they miss it.
        Authority::new("kerbside-testbed-front-proxy")?.write(&dir.join("front-proxy-ca.crt"))?;
        let names = API_SERVER_NAMES.map(String::from);
        authority
            .issue("kube-apiserver", &[], Usage::Server(&names))?
            .write(&dir, "apiserver")?;
        authority
            .issue(KUBELET_CLIENT, &[], Usage::Client)?
            .write(&dir, "kubelet-client")?;
        pki::write_key_pair(&dir, "service-account")?;
        let admin_token = HEXLOWER.encode(&rand::random::<[u8; 32]>());
        pki::write_secret(
            &dir.join("tokens.csv"),
            &format!("{admin_token},{ADMIN},{ADMIN},{MASTERS}\n"),
        )?;
        Ok(Self {
            dir,
            authority,
            admin_token,
        })
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// With a certificate, as most administrators have it, and a token besides: a program that passes its user's identity on to
    /// another (as `kubectl fleet results` does) can pass on a token only.
    fn admin_kubeconfig(&self, server: &str) -> Result<String> {
        let identity: Identity = self.authority.issue(ADMIN, &[MASTERS], Usage::Client)?;
        kubeconfig::with_certificate(server, &self.authority.pem(), &identity, Some(&self.admin_token))
    }

    fn write_kubeconfig(&self, layout: &Layout, server: &str, user: &str) -> Result<String> {
        let path = layout
            .dir("kubeconfigs")?
            .join(format!("{}.kubeconfig", user.trim_start_matches("system:")));
        let identity: Identity = self.authority.issue(user, &[], Usage::Client)?;
        let text = kubeconfig::with_certificate(server, &self.authority.pem(), &identity, None)?;
        write_atomically(&path, text.as_bytes())?;
        Ok(path.display().to_string())
    }
}

fn start_etcd(layout: &Layout, port: u16) -> Result<(Record, String)> {
    let url = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{}", ports::free()?);
    let program = Program::new("etcd", tools::pinned("etcd", "etcd")?).args([
        format!("--data-dir={}", layout.dir("etcd")?.display()),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        // What is lost in a power cut here is a test's cluster; not waiting for the disk makes every write faster.
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
    ]);
    Ok((process::start(layout, &program)?, url))
}

fn start_api_server(layout: &Layout, keys: &Keys, etcd: &str, port: u16, options: &Options) -> Result<Record> {
    let mut program = Program::new("kube-apiserver", tools::pinned("kubernetes", "kube-apiserver")?).args([
        format!("--etcd-servers={etcd}"),
        "--bind-address=127.0.0.1".into(),
        format!("--secure-port={port}"),
        // A loopback address may not be an endpoint of the Service `kubernetes`; nobody here needs that Service.
        "--advertise-address=127.0.0.1".into(),
        "--endpoint-reconciler-type=none".into(),
        "--service-cluster-ip-range=10.96.0.0/16".into(),
        format!("--tls-cert-file={}", keys.file("apiserver.crt")),
        format!("--tls-private-key-file={}", keys.file("apiserver.key")),
        format!("--client-ca-file={}", keys.file("ca.crt")),
        format!("--requestheader-client-ca-file={}", keys.file("front-proxy-ca.crt")),
        "--requestheader-allowed-names=front-proxy-client".into(),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        format!("--token-auth-file={}", keys.file("tokens.csv")),
        format!("--kubelet-client-certificate={}", keys.file("kubelet-client.crt")),
        format!("--kubelet-client-key={}", keys.file("kubelet-client.key")),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        format!("--service-account-key-file={}", keys.file("service-account.pub")),
        format!(
            "--service-account-signing-key-file={}",
            keys.file("service-account.key")
        ),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged=true".into(),
        "--profiling=false".into(),
    ]);
    if options.audit {
        let policy = layout.path("audit-policy.yaml");
        write_atomically(&policy, AUDIT_POLICY.as_bytes())?;
        program = program.args([
            format!("--audit-policy-file={}", policy.display()),
            format!("--audit-log-path={}", layout.dir("logs")?.join("audit.log").display()),
            // In megabytes: a log that is counted must not be cut in two.
            "--audit-log-maxsize=10000".to_owned(),
        ]);
    }
    process::start(layout, &program.args(options.api_server_args.clone()))
}

/// Who did what, and with a body only whose a vehicle is; the API server's own traffic to itself says nothing about Kerbside.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: ['system:apiserver']}
- {level: Request, verbs: [patch], resources: [{group: kerbside.dev, resources: [vehicles/status]}]}
- {level: Metadata}
";

fn start_scheduler(layout: &Layout, keys: &Keys, server: &str, port: u16) -> Result<Record> {
    let kubeconfig = keys.write_kubeconfig(layout, server, "system:kube-scheduler")?;
    let program = Program::new("kube-scheduler", tools::pinned("kubernetes", "kube-scheduler")?).args([
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--bind-address=127.0.0.1".into(),
        format!("--secure-port={port}"),
        "--leader-elect=false".into(),
        "--profiling=false".into(),
    ]);
    process::start(layout, &program)
}

fn start_controller_manager(
    layout: &Layout,
    keys: &Keys,
    server: &str,
    port: u16,
    options: &Options,
) -> Result<Record> {
    let kubeconfig = keys.write_kubeconfig(layout, server, "system:kube-controller-manager")?;
    let binary = tools::pinned("kubernetes", "kube-controller-manager")?;
    let program = Program::new("kube-controller-manager", binary)
        .args([
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={port}"),
            format!("--root-ca-file={}", keys.file("ca.crt")),
            format!(
                "--service-account-private-key-file={}",
                keys.file("service-account.key")
            ),
            "--use-service-account-credentials=true".into(),
            "--leader-elect=false".into(),
            "--profiling=false".into(),
        ])
        .args(options.controller_manager_args.clone());
    process::start(layout, &program)
}

/// The API server may read logs from kubelet ports, as in every cluster; kubeadm grants the same.
async fn allow_kubelet_calls(client: &Client) -> Result<()> {
    use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
    let api: kube::Api<ClusterRoleBinding> = kube::Api::all(client.clone());
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "kerbside-testbed:kubelet-api"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:kubelet-api-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": KUBELET_CLIENT}],
    });
    kerbside_k8s::apply::apply(&api, "kerbside-testbed:kubelet-api", "kerbside-testbed", &binding)
        .await
        .context("failed to let the API server call kubelet ports")?;
    Ok(())
}

/// Pods are refused until their namespace has its default ServiceAccount, which the controller manager makes.
async fn default_account(client: &Client) -> Result<()> {
    use k8s_openapi::api::core::v1::ServiceAccount;
    let api: kube::Api<ServiceAccount> = kube::Api::namespaced(client.clone(), "default");
    crate::wait::object(&api, "default", "the default ServiceAccount", START_DEADLINE, |a| {
        a.map(|_| ())
    })
    .await
}
