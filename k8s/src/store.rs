//! The result store: a directory on one machine, an S3-compatible bucket in a cluster.
//!
//! The adapter writes attempts, the operator writes results, and the one promise everything rests on is here:
//! [`Store::put_if_absent`] succeeds once per path. A store that breaks it is refused at start by [`Store::probe`].

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, WriteMultipart};
use url::Url;

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL is not one of a store.
    #[error("failed to open the store '{url}': use file:///DIRECTORY or s3://BUCKET/PREFIX")]
    Url {
        /// As it was given.
        url: String,
        /// What the library says, if it came that far.
        #[source]
        source: Option<object_store::Error>,
    },
    /// The directory of a file store could not be made.
    #[error("failed to make the store's directory '{path}'")]
    Directory {
        /// Of the file system.
        path: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// There is no object of that name.
    #[error("there is no '{path}' in the store")]
    NotFound {
        /// In the store.
        path: String,
    },
    /// The store answered with an error or did not answer.
    #[error("failed to {verb} '{path}' in the store")]
    Unavailable {
        /// What was tried.
        verb: &'static str,
        /// In the store.
        path: String,
        /// What the library says.
        #[source]
        source: object_store::Error,
    },
    /// The store wrote the same object twice although it was told to write it only if absent.
    #[error(
        "the store accepts a second write to a path that must be written once (put-if-absent); results could be \
         replaced there, so it is refused: use a store with conditional writes"
    )]
    NotConditional,
}

/// What a conditional put found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOutcome {
    /// The path was free and now holds what was put.
    Created,
    /// The path was taken; nothing was written.
    Exists,
}

/// A handle to the store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    prefix: Path,
}

impl Store {
    /// Opens `file:///DIRECTORY` (made if absent) or `s3://BUCKET/PREFIX`. Credentials, region and endpoint of S3 come from the usual
    /// `AWS_*` environment variables.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let bad = |source| StoreError::Url {
            url: url.to_owned(),
            source,
        };
        let parsed = Url::parse(url).map_err(|_| bad(None))?;
        if parsed.scheme() == "file" {
            let path = parsed.to_file_path().map_err(|()| bad(None))?;
            std::fs::create_dir_all(&path).map_err(|source| StoreError::Directory {
                path: path.display().to_string(),
                source,
            })?;
            let inner = object_store::local::LocalFileSystem::new_with_prefix(&path).map_err(|e| bad(Some(e)))?;
            return Ok(Self {
                inner: Arc::new(inner),
                prefix: Path::default(),
            });
        }
        let options = std::env::vars()
            .filter(|(k, _)| k.starts_with("AWS_"))
            .map(|(k, v)| (k.to_lowercase(), v));
        let (inner, prefix) = object_store::parse_url_opts(&parsed, options).map_err(|e| bad(Some(e)))?;
        Ok(Self {
            inner: Arc::from(inner),
            prefix,
        })
    }

    /// A store over any implementation; for tests.
    pub fn over(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            prefix: Path::default(),
        }
    }

    fn path(&self, path: &str) -> Path {
        self.prefix.parts().chain(Path::from(path).parts()).collect()
    }

    /// Writes `data` to `path` if nothing is there; exactly one of all callers gets [`PutOutcome::Created`].
    pub async fn put_if_absent(&self, path: &str, data: Bytes) -> Result<PutOutcome, StoreError> {
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        match self
            .inner
            .put_opts(&self.path(path), PutPayload::from(data), options)
            .await
        {
            Ok(_) => Ok(PutOutcome::Created),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(PutOutcome::Exists)
            }
            Err(source) => Err(StoreError::Unavailable {
                verb: "put",
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Writes `data` to `path`, replacing what is there. Only for content-addressed paths, where a replacement is the same.
    pub async fn put(&self, path: &str, data: Bytes) -> Result<(), StoreError> {
        let put = self.inner.put(&self.path(path), PutPayload::from(data)).await;
        put.map(drop).map_err(|source| StoreError::Unavailable {
            verb: "put",
            path: path.to_owned(),
            source,
        })
    }

    /// Streams `reader` to `path` in parts of a few MiB, replacing what is there.
    pub async fn put_stream<R>(&self, path: &str, mut reader: R) -> Result<(), StoreError>
    where
        R: tokio::io::AsyncRead + Unpin + Send,
    {
        use tokio::io::AsyncReadExt;
        let failed = |source| StoreError::Unavailable {
            verb: "put",
            path: path.to_owned(),
            source,
        };
        let upload = self.inner.put_multipart(&self.path(path)).await.map_err(failed)?;
        let mut writer = WriteMultipart::new(upload);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let n = match reader.read(&mut buffer).await {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) => {
                    let _ = writer.abort().await;
                    let source = object_store::Error::Generic {
                        store: "spool",
                        source: Box::new(e),
                    };
                    return Err(failed(source));
                }
            };
            writer.write(buffer.get(..n).unwrap_or_default());
            // Bounds what waits in memory when the store is slower than the disk.
            writer.wait_for_capacity(4).await.map_err(failed)?;
        }
        writer.finish().await.map(drop).map_err(failed)
    }

    /// The whole object. Only for manifests and other small ones.
    pub async fn get(&self, path: &str) -> Result<Bytes, StoreError> {
        let result = self
            .inner
            .get(&self.path(path))
            .await
            .map_err(|e| read_error(path, e))?;
        result.bytes().await.map_err(|e| read_error(path, e))
    }

    /// The object in pieces, with its size in bytes.
    pub async fn get_stream(
        &self,
        path: &str,
    ) -> Result<(u64, BoxStream<'static, Result<Bytes, StoreError>>), StoreError> {
        let result = self
            .inner
            .get(&self.path(path))
            .await
            .map_err(|e| read_error(path, e))?;
        let (size, owned) = (result.meta.size, path.to_owned());
        let stream = result.into_stream().map_err(move |e| read_error(&owned, e));
        Ok((size, Box::pin(stream)))
    }

    /// The object's size in bytes, or `None` if there is none.
    pub async fn size(&self, path: &str) -> Result<Option<u64>, StoreError> {
        match self.inner.head(&self.path(path)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(StoreError::Unavailable {
                verb: "look up",
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Removes the object; done also if there is none.
    pub async fn delete(&self, path: &str) -> Result<(), StoreError> {
        match self.inner.delete(&self.path(path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(StoreError::Unavailable {
                verb: "delete",
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// The paths of all objects below `prefix`, which ends with a whole name, in their order. Each can be given to the other functions as
    /// it is. An object that is being written is not among them.
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let objects = self.inner.list(Some(&self.path(prefix)));
        let paths = objects.map_ok(|object| self.without_prefix(&object.location));
        let mut paths: Vec<String> = paths.try_collect().await.map_err(|e| list_error(prefix, e))?;
        paths.sort_unstable();
        Ok(paths)
    }

    /// The names of the folders directly below `prefix`, in their order: as many answers of the store as there are folders, however much is
    /// in them.
    pub async fn folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let listed = self.inner.list_with_delimiter(Some(&self.path(prefix))).await;
        let folders = listed.map_err(|e| list_error(prefix, e))?.common_prefixes;
        let names = folders.iter().filter_map(|folder| folder.filename());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// What [`Self::path`] was given for this.
    fn without_prefix(&self, location: &Path) -> String {
        let own = self.prefix.parts().count();
        let parts: Vec<_> = location.parts().skip(own).collect();
        parts.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join("/")
    }

    /// Checks that put-if-absent means what it says, by writing one probe object twice. `unique` names the probe, so that
    /// replicas that start together do not disturb each other.
    pub async fn probe(&self, unique: &str) -> Result<(), StoreError> {
        let path = format!("kerbside-probe/{unique}");
        self.delete(&path).await?;
        let first = self.put_if_absent(&path, Bytes::from_static(b"first")).await?;
        let second = self.put_if_absent(&path, Bytes::from_static(b"second")).await?;
        let holds = self.get(&path).await?;
        self.delete(&path).await?;
        let kept = holds.as_ref() == b"first";
        if first == PutOutcome::Created && second == PutOutcome::Exists && kept {
            Ok(())
        } else {
            Err(StoreError::NotConditional)
        }
    }
}

fn list_error(prefix: &str, source: object_store::Error) -> StoreError {
    StoreError::Unavailable {
        verb: "list",
        path: prefix.to_owned(),
        source,
    }
}

fn read_error(path: &str, source: object_store::Error) -> StoreError {
    match source {
        object_store::Error::NotFound { .. } => StoreError::NotFound { path: path.to_owned() },
        source => StoreError::Unavailable {
            verb: "get",
            path: path.to_owned(),
            source,
        },
    }
}

#[cfg(test)]
mod tests;
