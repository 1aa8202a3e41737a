//! What the operator's tests share: a fake API server, stores, a clock that is moved by hand.

pub(crate) mod fake_api;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use jiff::Timestamp;
use kerbside_core::clock::{Boottime, Clock};
use kerbside_core::names::store as path;
use kerbside_k8s::store::Store;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};
use serde_json::json;
use sha2::{Digest, Sha256};

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub(crate) struct HandClock(AtomicI64);

impl HandClock {
    /// A while after everything in the fake API server was created.
    pub(crate) const START: i64 = 1_795_431_600;

    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(Self::START)))
    }

    pub(crate) fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn boottime(&self) -> Boottime {
        Boottime(Duration::from_secs(self.0.load(Ordering::SeqCst).unsigned_abs()))
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::SeqCst)).unwrap()
    }
}

/// Seals an attempt with one file, `out.txt`, and the log of one container, `main`.
pub(crate) async fn seal(store: &Store, namespace: &str, uid: &str, content: &[u8]) {
    let sha256 = HEXLOWER.encode(&Sha256::digest(content));
    let file = |name: &str| json!({ "path": name, "size": content.len(), "sha256": sha256 });
    let manifest = json!({ "uid": uid, "files": [file("out.txt")], "logs": [file("main")] });
    store
        .put(
            &path::attempt_file(namespace, uid, &sha256),
            Bytes::copy_from_slice(content),
        )
        .await
        .unwrap();
    let bytes = Bytes::from(manifest.to_string());
    store.put(&path::attempt_manifest(namespace, uid), bytes).await.unwrap();
}

/// A store in memory with one sealed attempt.
pub(crate) async fn store_with_attempt(namespace: &str, uid: &str, content: &[u8]) -> Store {
    let store = Store::over(Arc::new(InMemory::new()));
    seal(&store, namespace, uid, content).await;
    store
}

/// A store that answers every request with an error while it is down, that does not answer puts at all while it hangs, or that ignores the
/// condition of a put as some S3 look-alikes do.
#[derive(Debug)]
pub(crate) struct DownStore {
    inner: InMemory,
    down: AtomicBool,
    /// No put is answered, and none is done.
    hangs: AtomicBool,
    puts: AtomicUsize,
    /// Nothing can be deleted, as if whoever wants to had died just before.
    keeps: AtomicBool,
    overwrites: bool,
}

impl Default for DownStore {
    fn default() -> Self {
        Self {
            inner: InMemory::new(),
            down: AtomicBool::new(true),
            hangs: AtomicBool::new(false),
            puts: AtomicUsize::new(0),
            keeps: AtomicBool::new(false),
            overwrites: false,
        }
    }
}

impl std::fmt::Display for DownStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DownStore")
    }
}

impl DownStore {
    /// One that is up and overwrites what it should not.
    pub(crate) fn that_overwrites() -> Self {
        Self {
            down: AtomicBool::new(false),
            overwrites: true,
            ..Self::default()
        }
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    pub(crate) fn set_hangs(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::SeqCst);
    }

    /// How many puts were asked for.
    pub(crate) fn puts(&self) -> usize {
        self.puts.load(Ordering::SeqCst)
    }

    pub(crate) fn set_keeps(&self, keeps: bool) {
        self.keeps.store(keeps, Ordering::SeqCst);
    }

    fn check(&self) -> object_store::Result<()> {
        Self::up(!self.down.load(Ordering::SeqCst))
    }

    fn up(up: bool) -> object_store::Result<()> {
        if up {
            return Ok(());
        }
        let source = Box::new(std::io::Error::other("connection refused"));
        Err(object_store::Error::Generic {
            store: "DownStore",
            source,
        })
    }
}

#[async_trait::async_trait]
impl ObjectStore for DownStore {
    async fn put_opts(&self, p: &Path, data: PutPayload, o: PutOptions) -> object_store::Result<PutResult> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.check()?;
        let o = if self.overwrites { PutOptions::default() } else { o };
        self.inner.put_opts(p, data, o).await
    }
    async fn put_multipart_opts(
        &self,
        p: &Path,
        o: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.check()?;
        self.inner.put_multipart_opts(p, o).await
    }
    async fn get_opts(&self, p: &Path, o: GetOptions) -> object_store::Result<GetResult> {
        self.check()?;
        self.inner.get_opts(p, o).await
    }
    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let up = self.check().and_then(|()| Self::up(!self.keeps.load(Ordering::SeqCst)));
        match up {
            Ok(()) => self.inner.delete_stream(paths),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }
    fn list(&self, p: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match self.check() {
            Ok(()) => self.inner.list(p),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }
    async fn list_with_delimiter(&self, p: Option<&Path>) -> object_store::Result<ListResult> {
        self.check()?;
        self.inner.list_with_delimiter(p).await
    }
    async fn copy_opts(&self, a: &Path, b: &Path, o: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(a, b, o).await
    }
}
