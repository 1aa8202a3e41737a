//! OCI containers, run by a container engine that speaks the Kubernetes container runtime interface (CRI v1), such as containerd.
//!
//! The engine makes sandboxes and containers and unpacks images; the agent decides. What an engine could be too slow or too broken for, the
//! agent does itself with the kernel's control groups: freezing, ending, counting. Everything of a car is in one control group, which
//! the guard ends if the agent does not. Images come through the agent too ([`crate::images`]): the engine is given no credential and
//! needs no configuration for registries.
//!
//! What must never happen: a container that outlives its agent, one that runs while the car's brake is on, or an attempt whose sandbox is
//! left behind.
//!
//! | file | what |
//! |---|---|
//! | `client` | the engine's socket, one function per call |
//! | `config` | what the engine is told: pure |
//! | `sandbox` | what the containers of one attempt share |
//! | `container` | one run of one container: its task, from creation to removal |
//! | `disk` | which disks its containers write to |
//! | `cage` | its control group; the brake |
//! | `events` | what the engine tells by itself |
//! | `isolation` | whether a Pod's network leads anywhere |
//! | `network` | acting from within a Pod's network |
//! | `streaming` | what somebody types in a container and reads |
//! | `measure` | what the engine alone needs, for the benchmark |

mod cage;
mod client;
mod config;
mod container;
mod disk;
mod events;
mod isolation;
pub mod measure;
mod network;
mod sandbox;
mod streaming;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use data_encoding::HEXLOWER;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use kerbside_core::attempt::NotReady;
use kerbside_core::ids::PodUid;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OnceCell, oneshot, watch};
use tokio::time::{sleep, timeout};

use self::cage::Cages;
use self::client::{CallError, Engine};
use self::container::Loaded;
use self::events::Wakes;
use self::sandbox::{Maker, Sandbox, Sandboxes};
use super::Program;
use crate::cgroup::{self, Cgroup, Most};
use crate::directory::AttemptDirectory;
use crate::egress::Proxies;
use crate::images::{EngineImages, Images};
use crate::pod::{Work, config_error};
use crate::proto::cri as proto;

/// The group that every car's is in.
const GROUP: &str = "/kerbside";
/// What an engine must say of itself.
const NEEDED: [&str; 2] = ["RuntimeReady", "NetworkReady"];
/// Between two looks at an engine that works, and at one that does not.
const LOOK: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(1));
/// An agent that starts waits no longer than this for the first one.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// What the agent is told of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its socket.
    pub socket: PathBuf,
    /// Which of its runtimes runs the containers; empty: its default.
    pub handler: String,
}

/// The runtime for containers of one car.
#[derive(Clone)]
pub struct Cri {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    handler: String,
    /// By which its sandboxes are known after a restart: the same for the same directory.
    car: String,
    group: Cgroup,
    images: Images,
    proxies: Proxies,
    brake: watch::Receiver<bool>,
    cages: Cages,
    wakes: Wakes,
    sandboxes: Sandboxes,
    ready: watch::Sender<bool>,
    /// It was looked at, whatever came of that.
    looked: watch::Sender<bool>,
    /// Where the agent keeps what it gives containers.
    directory: PathBuf,
    /// The disks that containers write to, once the engine has said where its own files are.
    disks: OnceCell<BTreeSet<String>>,
    /// Who the images' users are, by the engine's name of the image.
    users: Mutex<HashMap<String, ImageUser>>,
}

/// The user that an image names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ImageUser {
    Number(i64),
    Name(String),
}

/// The control group of the car whose agent has this directory.
pub fn group_of(directory: &Path) -> Cgroup {
    Cgroup::at(Path::new(cgroup::MOUNT), &format!("{GROUP}/{}", car_of(directory)))
}

fn car_of(directory: &Path) -> String {
    let digest = Sha256::digest(directory.as_os_str().as_encoded_bytes());
    HEXLOWER.encode(&digest[..8])
}

impl Cri {
    /// The runtime of the car whose agent has `directory`; its Pods reach by `proxies` what they may. While `brake` is true, no container gets any processor time: the car's own
    /// brake, which does not wait for anybody. Nothing is offered before [`Cri::ready`] says so.
    pub fn new(
        settings: &Settings,
        directory: &Path,
        images: Images,
        proxies: Proxies,
        brake: watch::Receiver<bool>,
    ) -> Self {
        let inner = Arc::new(Inner {
            engine: Engine::new(&settings.socket),
            handler: settings.handler.clone(),
            car: car_of(directory),
            group: group_of(directory),
            images,
            proxies,
            brake: brake.clone(),
            cages: Cages::default(),
            wakes: Wakes::default(),
            sandboxes: Sandboxes::default(),
            ready: watch::Sender::new(false),
            looked: watch::Sender::new(false),
            directory: directory.to_owned(),
            disks: OnceCell::new(),
            users: Mutex::default(),
        });
        tokio::spawn(keep_braked(inner.cages.clone(), brake));
        tokio::spawn(events::listen(inner.engine.clone(), inner.wakes.clone()));
        tokio::spawn(keep_looking(Arc::downgrade(&inner)));
        Self { inner }
    }

    /// Has every container do as the brake says now. A task does so with each change; this is for a car in which no task gets to run.
    pub fn follow_brake(&self) {
        self.inner.cages.follow(&self.inner.brake);
    }

    /// Whether the engine is there and can give a Pod its network.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.inner.ready.subscribe()
    }

    /// Waits until the engine was looked at for the first time, but not for long. A car that is back after a restart of its agent says at once
    /// what it can run, or the Pods that come to it would be refused.
    pub async fn looked(&self) {
        let mut looked = self.inner.looked.subscribe();
        // An error would mean that nobody looks any more.
        let seen = timeout(FIRST_LOOK, looked.wait_for(|looked| *looked));
        if seen.await.is_err() {
            tracing::warn!("the container engine is slow; the car offers no containers before it has answered");
        }
    }

    /// Ends and removes what a former run of the agent has left. Without the engine only the former: the rest goes when it is back.
    pub fn sweep(directory: &Path) -> io::Result<()> {
        let group = group_of(directory);
        group.kill()?;
        // A guard that was killed may have left it frozen, and then nothing could be made in it.
        match group.thaw() {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Makes a container of a Pod ready: its image, by the reference that it may be fetched by, and its sandbox. Returns the image with its
    /// digest, and what starts it.
    pub(crate) async fn prepare(
        &self,
        (work, index, image): (&Arc<Work>, usize, &str),
        directory: &AttemptDirectory,
        most: Most,
        credentials: &BTreeMap<String, String>,
    ) -> Result<(String, Arc<dyn Program>), NotReady> {
        let container = &work.containers[index];
        // Both take long, and neither needs the other.
        let image = async {
            let pulled = self
                .inner
                .images
                .container(image, container.pull, credentials, &*self.inner);
            pulled.await.map_err(NotReady::from)
        };
        let sandbox = async {
            let made = self.inner.sandbox(work, directory, most).await;
            made.map_err(|message| NotReady {
                reason: "FailedCreatePodSandBox".to_owned(),
                meanwhile: None,
                message,
                retry: true,
            })
        };
        let (image, sandbox) = tokio::try_join!(image, sandbox)?;
        if container.security.non_root {
            self.inner.check_user(container.security.user, &image.engine)?;
        }
        let loaded = Loaded {
            inner: Arc::clone(&self.inner),
            work: Arc::clone(work),
            sandbox,
            image: image.engine,
        };
        Ok((image.image_id, Arc::new(loaded)))
    }

    /// Has the engine remove old images. Only called while no attempt uses any.
    pub(crate) async fn collect(&self) -> io::Result<()> {
        self.inner.images.collect_containers(&*self.inner).await
    }

    /// Has the engine remove every image that this car gave it; how many it keeps. Only called where nothing lives any more.
    pub(crate) async fn forget_images(&self) -> io::Result<usize> {
        self.inner.images.remove_containers(&*self.inner).await
    }

    /// Removes what the containers of an attempt shared. None of them may be alive.
    pub(crate) async fn close(&self, uid: &PodUid) {
        self.inner.close(uid).await;
    }
}

impl Inner {
    async fn sandbox(
        self: &Arc<Self>,
        work: &Arc<Work>,
        directory: &AttemptDirectory,
        most: Most,
    ) -> Result<Arc<Sandbox>, String> {
        let mut place = self.sandboxes.of(&work.uid);
        if let Some(known) = place.cell.get().cloned()
            && !known.stands(&self.engine).await
        {
            known.lose().await;
            place = self.sandboxes.renew(&work.uid, &place);
        }
        let made = place.cell.get_or_try_init(|| async {
            let attempt = place.begin();
            let (tell, told) = oneshot::channel();
            let (inner, work, directory) = (Arc::clone(self), Arc::clone(work), directory.clone());
            // On its own: who gives up waiting must not leave behind what the engine was just making.
            tokio::spawn(async move {
                let made = inner.make(&work, attempt, &directory, most).await;
                if made.is_err()
                    && let Err(error) = inner.remove_of(&work.uid).await
                {
                    tracing::warn!(%error, "what is left of a sandbox is removed later");
                }
                if let Err(Ok(sandbox)) = tell.send(made) {
                    sandbox.remove(&inner.engine).await;
                }
            });
            let made = told.await.map_err(|_| "the sandbox was not made".to_owned())?;
            made.map(Arc::new)
        });
        made.await.cloned()
    }

    /// Makes a sandbox; what is left of one before it is taken away first.
    async fn make(
        &self,
        work: &Work,
        attempt: u32,
        directory: &AttemptDirectory,
        most: Most,
    ) -> Result<Sandbox, String> {
        if attempt > 0 {
            self.remove_of(&work.uid).await.map_err(|e| e.to_string())?;
        }
        let group = self.group.child(work.uid.as_str());
        let maker = Maker {
            car: &self.car,
            handler: &self.handler,
            attempt,
            disks: self.disks().await?,
            proxies: &self.proxies,
        };
        Sandbox::make(&self.engine, work, maker, directory, group, most).await
    }

    /// The disks that containers write to: the agent's own, and the engine's.
    async fn disks(&self) -> Result<&BTreeSet<String>, String> {
        let found = self.disks.get_or_try_init(|| async {
            let asked = self.engine.image_fs_info(proto::ImageFsInfoRequest {}).await;
            let told = asked.map_err(|e| e.to_string())?.image_filesystems;
            let engine = told.into_iter().filter_map(|usage| usage.fs_id);
            let engine: Vec<_> = engine.map(|id| PathBuf::from(id.mountpoint)).collect();
            let places = engine.iter().map(PathBuf::as_path).chain([self.directory.as_path()]);
            let (disks, without) = disk::disks_of(places);
            for place in without {
                tracing::warn!(place = %place.display(), "has no disk of its own: how fast Pods read and write there is not bounded");
            }
            if !self.group.is_unified() {
                tracing::info!(
                    "control groups of the first version: how fast Pods read and write a disk is bounded for direct access only"
                );
            }
            Ok(disks)
        });
        found.await
    }

    async fn close(&self, uid: &PodUid) {
        let Some(place) = self.sandboxes.take(uid) else { return };
        // One that is being made is waited for; one whose making was given up, the engine has taken back.
        if let Ok(sandbox) = place.cell.get_or_try_init(|| std::future::ready(Err(()))).await {
            return sandbox.remove(&self.engine).await;
        }
        if let Err(error) = self.remove_of(uid).await {
            tracing::debug!(%error, "what is left of a sandbox is removed later");
        }
        if let Err(error) = self.group.child(uid.as_str()).remove() {
            tracing::debug!(%error, "a control group is left");
        }
    }

    /// That nobody is root who must not be: the kubelet's words.
    fn check_user(&self, user: Option<i64>, image: &str) -> Result<(), NotReady> {
        let refuse = |message: String| Err(config_error(message));
        let known = {
            let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
            users.get(image).cloned()
        };
        match (user, known) {
            (Some(0), _) => refuse("container's runAsUser breaks non-root policy".to_owned()),
            (Some(_), _) => Ok(()),
            (None, Some(ImageUser::Number(0)) | None) => {
                refuse("container has runAsNonRoot and image will run as root".to_owned())
            }
            (None, Some(ImageUser::Number(_))) => Ok(()),
            (None, Some(ImageUser::Name(name))) => refuse(format!(
                "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
            )),
        }
    }

    /// Whether it can run containers now. `Err`: why not.
    async fn look(&self) -> Result<(), String> {
        let asked = self.engine.status(proto::StatusRequest { verbose: false }).await;
        let conditions = asked.map_err(|e| e.to_string())?.status.unwrap_or_default().conditions;
        for needed in NEEDED {
            let condition = conditions.iter().find(|condition| condition.r#type == needed);
            match condition {
                Some(condition) if condition.status => {}
                Some(condition) => return Err(format!("{needed} is not true: {}", condition.message)),
                None => return Err(format!("{needed} is not told")),
            }
        }
        Ok(())
    }

    async fn version(&self) -> String {
        let asked = self.engine.version(proto::VersionRequest::default()).await;
        let version = asked.unwrap_or_default();
        format!("{} {}", version.runtime_name, version.runtime_version)
    }

    /// Removes the sandboxes that no attempt has: of a former run of the agent, and those whose removal failed. Of those that have ended by
    /// themselves the containers are ended too.
    async fn sweep(&self) -> Result<(), CallError> {
        let mut failed = None;
        for left in self.sandboxes_with(Vec::new()).await? {
            let ended = left.state() != proto::PodSandboxState::SandboxReady;
            let uid = left.metadata.unwrap_or_default().uid;
            let known = self.sandboxes.made(&uid);
            let removed = match known {
                Some(known) if known.id == left.id => {
                    if ended {
                        known.lose().await;
                    }
                    Ok(())
                }
                // Another one of an attempt that has one: its answer was lost.
                Some(_) => sandbox::remove(&self.engine, &left.id).await,
                // One is just being made.
                None if self.sandboxes.has(&uid) => Ok(()),
                None => sandbox::remove(&self.engine, &left.id).await,
            };
            // One that does not go holds up no other.
            failed = removed.err().or(failed);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Removes every sandbox of an attempt that the engine knows.
    async fn remove_of(&self, uid: &PodUid) -> Result<(), CallError> {
        let of_attempt = (config::POD_UID.to_owned(), uid.to_string());
        for left in self.sandboxes_with(vec![of_attempt]).await? {
            sandbox::remove(&self.engine, &left.id).await?;
        }
        Ok(())
    }

    async fn sandboxes_with(&self, labels: Vec<(String, String)>) -> Result<Vec<proto::PodSandbox>, CallError> {
        let own = (config::CAR.to_owned(), self.car.clone());
        let filter = proto::PodSandboxFilter {
            id: String::new(),
            label_selector: labels.into_iter().chain([own]).collect(),
        };
        let request = proto::ListPodSandboxRequest { filter: Some(filter) };
        Ok(self.engine.list_pod_sandbox(request).await?.items)
    }
}

/// What [`Images`] needs of the engine.
impl EngineImages for Inner {
    fn has<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<Option<u64>, String>> {
        async move {
            let asked = self.engine.image_status(proto::ImageStatusRequest {
                image: Some(spec_of(image)),
                verbose: false,
            });
            let Some(found) = asked.await.map_err(|e| e.to_string())?.image else {
                return Ok(None);
            };
            let user = match found.uid {
                Some(uid) => ImageUser::Number(uid.value),
                None if found.username.is_empty() => ImageUser::Number(0),
                None => ImageUser::Name(found.username),
            };
            let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
            users.insert(image.to_owned(), user);
            Ok(Some(found.size))
        }
        .boxed()
    }

    fn pull<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<String, String>> {
        async move {
            let pulled = self.engine.pull_image(proto::PullImageRequest {
                image: Some(spec_of(name)),
                auth: None,
                sandbox_config: None,
            });
            Ok(pulled.await.map_err(|e| e.to_string())?.image_ref)
        }
        .boxed()
    }

    fn remove<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let request = proto::RemoveImageRequest {
                image: Some(spec_of(image)),
            };
            self.engine.remove_image(request).await.map_err(|e| e.to_string())?;
            self.users.lock().unwrap_or_else(PoisonError::into_inner).remove(image);
            Ok(())
        }
        .boxed()
    }
}

fn spec_of(image: &str) -> proto::ImageSpec {
    proto::ImageSpec {
        image: image.to_owned(),
        annotations: [].into(),
    }
}

async fn keep_braked(cages: Cages, mut brake: watch::Receiver<bool>) {
    loop {
        brake.mark_unchanged();
        cages.follow(&brake);
        if brake.changed().await.is_err() {
            cages.follow(&brake);
            return;
        }
    }
}

/// Looks at the engine again and again, until nobody has the runtime any more. The first time that it works, what a former agent left there
/// is removed before anything new is made.
async fn keep_looking(inner: std::sync::Weak<Inner>) {
    let mut said = None;
    loop {
        let looked = {
            let Some(inner) = inner.upgrade() else { return };
            let looked = inner.look().await;
            if looked.is_ok()
                && let Err(error) = inner.sweep().await
            {
                // None of its processes lives: it is only known to the engine still, and may be for ever.
                tracing::warn!(%error, "a sandbox that no attempt has any more is not removed");
            }
            if said.as_ref() != Some(&looked) {
                match &looked {
                    Ok(()) => {
                        let engine = inner.version().await;
                        tracing::info!(engine, "containers can run");
                    }
                    Err(why) => tracing::warn!(why, "the container engine is not ready: no containers run in this car"),
                }
            }
            let ready = looked.is_ok();
            inner
                .ready
                .send_if_modified(|known| std::mem::replace(known, ready) != ready);
            inner.looked.send_replace(true);
            looked
        };
        sleep(if looked.is_ok() { LOOK.0 } else { LOOK.1 }).await;
        said = Some(looked);
    }
}
