//! The store's promises, on a directory and on a store that breaks them.

use super::*;
use futures::StreamExt;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutResult,
};

fn directory() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let url = Url::from_directory_path(dir.path()).unwrap();
    let store = Store::open(url.as_str()).unwrap();
    (dir, store)
}

#[tokio::test]
async fn put_if_absent_lets_exactly_one_of_many_win() {
    let (_dir, store) = directory();
    let puts = (0..16).map(|i| {
        let store = store.clone();
        async move {
            store
                .put_if_absent("ns/results/u/0.json", Bytes::from(format!("{i}")))
                .await
                .unwrap()
        }
    });
    let outcomes = futures::future::join_all(puts).await;
    assert_eq!(outcomes.iter().filter(|o| **o == PutOutcome::Created).count(), 1);
}

#[tokio::test]
async fn probe_accepts_a_directory_and_leaves_nothing() {
    let (_dir, store) = directory();
    store.probe("a").await.unwrap();
    store.probe("a").await.unwrap();
    assert_eq!(store.size("kerbside-probe/a").await.unwrap(), None);
}

#[tokio::test]
async fn probe_refuses_a_store_that_overwrites() {
    let store = Store::over(Arc::new(Overwrites(InMemory::new())));
    let error = store.probe("a").await.unwrap_err();
    assert!(matches!(error, StoreError::NotConditional), "{error}");
}

#[tokio::test]
async fn stream_comes_back_as_it_went() {
    let (_dir, store) = directory();
    let data: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    store.put_stream("a/b", data.as_slice()).await.unwrap();
    let (size, stream) = store.get_stream("a/b").await.unwrap();
    let parts: Vec<Bytes> = stream.map(Result::unwrap).collect().await;
    assert_eq!(size, data.len() as u64);
    assert_eq!(parts.concat(), data);
}

#[tokio::test]
async fn object_that_is_not_there_is_not_found() {
    let (_dir, store) = directory();
    assert!(matches!(store.get("x").await.unwrap_err(), StoreError::NotFound { .. }));
    store.delete("x").await.unwrap();
}

async fn fill(store: &Store, paths: &[&str]) {
    for path in paths {
        store.put(path, Bytes::from_static(b"x")).await.unwrap();
    }
}

#[tokio::test]
async fn list_has_every_path_below_the_prefix_in_order_and_no_other() {
    let (_dir, store) = directory();
    fill(
        &store,
        &[
            "a/x/10.json",
            "a/x/09.json",
            "a/x/deep/1.json",
            "a/xy/1.json",
            "b/1.json",
        ],
    )
    .await;
    let paths = store.list("a/x").await.unwrap();
    assert_eq!(paths, ["a/x/09.json", "a/x/10.json", "a/x/deep/1.json"]);
    for path in paths {
        assert_eq!(store.get(&path).await.unwrap(), "x", "{path}");
    }
    assert_eq!(store.list("nowhere").await.unwrap(), Vec::<String>::new());
    store.delete("a/xy/1.json").await.unwrap();
    assert_eq!(store.list("a/xy").await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn folders_are_named_once_whatever_is_in_them() {
    let (_dir, store) = directory();
    fill(&store, &["a/y/1", "a/x/1", "a/x/2", "a/x/deep/1", "a/file"]).await;
    assert_eq!(store.folders("a").await.unwrap(), ["x", "y"]);
    assert_eq!(store.folders("nowhere").await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn prefix_of_the_store_is_in_no_path_that_it_lists() {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let store = Store {
        inner: Arc::clone(&inner),
        prefix: Path::from("fleet/one"),
    };
    fill(&store, &["a/1", "a/2/x"]).await;
    assert_eq!(store.list("a").await.unwrap(), ["a/1", "a/2/x"]);
    assert_eq!(store.folders("a").await.unwrap(), ["2"]);
    assert_eq!(store.get("a/1").await.unwrap(), "x");
    let all = Store::over(inner);
    assert_eq!(
        all.list("fleet/one").await.unwrap(),
        ["fleet/one/a/1", "fleet/one/a/2/x"]
    );
}

#[rstest::rstest]
#[case("")]
#[case("results")]
#[case("ftp://host/x")]
fn url_that_is_no_store_is_refused(#[case] url: &str) {
    let text = Store::open(url).unwrap_err().to_string();
    assert!(text.contains("use file:///DIRECTORY or s3://BUCKET/PREFIX"), "{text}");
}

/// A store that ignores the condition, as some S3 look-alikes do.
#[derive(Debug)]
struct Overwrites(InMemory);

impl std::fmt::Display for Overwrites {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Overwrites")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Overwrites {
    async fn put_opts(&self, p: &Path, data: PutPayload, _: PutOptions) -> object_store::Result<PutResult> {
        self.0.put_opts(p, data, PutOptions::default()).await
    }
    async fn put_multipart_opts(
        &self,
        p: &Path,
        o: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(p, o).await
    }
    async fn get_opts(&self, p: &Path, o: GetOptions) -> object_store::Result<GetResult> {
        self.0.get_opts(p, o).await
    }
    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.0.delete_stream(paths)
    }
    fn list(&self, p: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.0.list(p)
    }
    async fn list_with_delimiter(&self, p: Option<&Path>) -> object_store::Result<ListResult> {
        self.0.list_with_delimiter(p).await
    }
    async fn copy_opts(&self, a: &Path, b: &Path, o: CopyOptions) -> object_store::Result<()> {
        self.0.copy_opts(a, b, o).await
    }
}
