//! What an attempt needs of the cluster, as a trait so that tests can be the cluster.
//!
//! [`kerbside_link::client::Client`] is the real one. Nothing here waits for a connection except what is documented to.

use std::path::Path;

use bytes::Bytes;
use futures::stream::BoxStream;
use kerbside_core::ids::PodUid;
use kerbside_link::client::{Client, UploadError};
use kerbside_link::fault::Fault;
use kerbside_link::proto::{AttemptStatus, CarState, OutputFile, TunnelPart};
use tokio::sync::mpsc;

/// The cluster, seen from an attempt.
pub trait Cluster: Clone + Send + Sync + 'static {
    /// Says what the car is from now on.
    fn set_state(&self, state: CarState);
    /// Says what an attempt is from now on; kept and said again until it is forgotten.
    fn set_status(&self, status: AttemptStatus);
    /// The attempt is dropped.
    fn forget(&self, uid: &PodUid);
    /// Sends one file; waits for a connection as long as it takes.
    fn upload(
        &self,
        uid: &PodUid,
        file: &OutputFile,
        path: &Path,
    ) -> impl Future<Output = Result<(), UploadError>> + Send;
    /// Says that every file has arrived; waits likewise.
    fn seal(
        &self,
        uid: &PodUid,
        files: Vec<OutputFile>,
        logs: Vec<OutputFile>,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
    /// Sends a receipt, with the certificate of its key, and whether it is the car's newest; waits likewise.
    fn put_receipt(
        &self,
        envelope: Bytes,
        chain_pem: String,
        newest: bool,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
    /// Answers a request for a log.
    fn send_logs(
        &self,
        request_id: &str,
        chunks: BoxStream<'static, Result<Bytes, String>>,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
    /// Answers a request for a tunnel: what the cluster sends, and what goes to it.
    fn tunnel(&self, request_id: &str) -> impl Future<Output = Result<TunnelEnds, Fault>> + Send;
    /// Says why there is no tunnel.
    fn refuse_tunnel(&self, request_id: &str, why: Fault) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Both directions of a tunnel, at the car.
pub type TunnelEnds = (BoxStream<'static, TunnelPart>, mpsc::Sender<TunnelPart>);

impl Cluster for Client {
    fn set_state(&self, state: CarState) {
        Self::set_state(self, state);
    }

    fn set_status(&self, status: AttemptStatus) {
        Self::set_status(self, status);
    }

    fn forget(&self, uid: &PodUid) {
        Self::forget(self, uid);
    }

    async fn upload(&self, uid: &PodUid, file: &OutputFile, path: &Path) -> Result<(), UploadError> {
        let reader = tokio::fs::File::open(path).await.map_err(UploadError::Read)?;
        Self::upload(self, uid, file, reader).await
    }

    async fn seal(&self, uid: &PodUid, files: Vec<OutputFile>, logs: Vec<OutputFile>) -> Result<(), Fault> {
        self.seal_output(uid, files, logs).await
    }

    async fn put_receipt(&self, envelope: Bytes, chain_pem: String, newest: bool) -> Result<(), Fault> {
        Self::put_receipt(self, envelope, chain_pem, newest).await
    }

    fn send_logs(
        &self,
        request_id: &str,
        chunks: BoxStream<'static, Result<Bytes, String>>,
    ) -> impl Future<Output = Result<(), Fault>> + Send {
        let (client, request_id) = (self.clone(), request_id.to_owned());
        async move { Self::send_logs(&client, &request_id, chunks).await }
    }

    async fn tunnel(&self, request_id: &str) -> Result<TunnelEnds, Fault> {
        Ok(Self::tunnel(self, request_id).await?.split())
    }

    async fn refuse_tunnel(&self, request_id: &str, why: Fault) -> Result<(), Fault> {
        Self::refuse_tunnel(self, request_id, why).await
    }
}
