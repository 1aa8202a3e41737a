//! The way to the container engine: one channel over its socket, connected when it is used and again when it was lost.
//!
//! Used by everything in `runtime::cri`. Each call has a bound in time, and its error names the call.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::proto;
use super::proto::image_service_client::ImageServiceClient;
use super::proto::runtime_service_client::RuntimeServiceClient;

/// A call that takes longer has failed; as in the kubelet.
const CALL: Duration = Duration::from_mins(2);
/// How soon an engine must say that it is ready, or it is not.
const STATUS: Duration = Duration::from_secs(15);
/// A pull may take as long as a slow link needs for a large image.
const PULL: Duration = Duration::from_hours(2);
/// No answer is larger: a status with what it says of an image, or what a command printed.
const ANSWER: usize = 16 << 20;

/// A call to the engine that failed.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {}", status.message())]
pub(super) struct CallError {
    call: &'static str,
    status: tonic::Status,
}

impl CallError {
    /// The engine's own words.
    pub(super) fn message(&self) -> &str {
        self.status.message()
    }

    /// The engine is away or busy: the same call may succeed later, or may have succeeded although nobody heard it.
    pub(super) fn is_transient(&self) -> bool {
        let busy = matches!(
            self.status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::ResourceExhausted
        );
        // What the engine itself says has no cause on this side: one that has was lost on the way.
        busy || std::error::Error::source(&self.status).is_some()
    }

    /// The engine does not know what was named.
    pub(super) fn is_not_found(&self) -> bool {
        self.status.code() == Code::NotFound
    }

    /// The engine does not know the call.
    pub(super) fn is_unimplemented(&self) -> bool {
        self.status.code() == Code::Unimplemented
    }
}

/// The container engine.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

macro_rules! calls {
    ($($(#[$doc:meta])* $service:ident.$call:ident($request:ident) -> $answer:ident within $limit:expr;)*) => {$(
        $(#[$doc])*
        pub(super) async fn $call(&self, request: proto::$request) -> Result<proto::$answer, CallError> {
            let failed = |status| CallError { call: stringify!($request), status };
            let mut client = self.$service.clone();
            match tokio::time::timeout($limit, client.$call(request)).await {
                Ok(answered) => answered.map(tonic::Response::into_inner).map_err(failed),
                Err(_) => Err(failed(tonic::Status::deadline_exceeded("the engine did not answer in time"))),
            }
        }
    )*};
}

impl Engine {
    /// The engine behind a socket. Nothing is connected before the first call.
    pub(super) fn new(socket: &Path) -> Self {
        let path: PathBuf = socket.to_owned();
        // The address is only said to the other side; the socket counts.
        let endpoint = Endpoint::from_static("http://engine");
        let channel = endpoint.connect_with_connector_lazy(service_fn(move |_| {
            let path = path.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        }));
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER),
            images: ImageServiceClient::new(channel).max_decoding_message_size(ANSWER),
        }
    }

    calls! {
        runtime.version(VersionRequest) -> VersionResponse within CALL;
        runtime.status(StatusRequest) -> StatusResponse within STATUS;
        runtime.run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse within 2 * CALL;
        runtime.stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse within CALL;
        runtime.remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse within CALL;
        runtime.pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse within CALL;
        runtime.list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse within CALL;
        runtime.create_container(CreateContainerRequest) -> CreateContainerResponse within CALL;
        /// Answers when the program runs, which a car's brake can hold up for long.
        runtime.start_container(StartContainerRequest) -> StartContainerResponse within PULL;
        /// Answers when the container has ended, which may be long after it was asked to.
        runtime.stop_container(StopContainerRequest) -> StopContainerResponse within PULL;
        runtime.remove_container(RemoveContainerRequest) -> RemoveContainerResponse within CALL;
        runtime.list_containers(ListContainersRequest) -> ListContainersResponse within CALL;
        runtime.container_status(ContainerStatusRequest) -> ContainerStatusResponse within CALL;
        /// Answers when the command has ended; the caller bounds that.
        runtime.exec_sync(ExecSyncRequest) -> ExecSyncResponse within PULL;
        /// Answers where the streams are; nothing is run before somebody comes for them.
        runtime.exec(ExecRequest) -> ExecResponse within CALL;
        runtime.attach(AttachRequest) -> AttachResponse within CALL;
        runtime.reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse within CALL;
        images.image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse within STATUS;
        images.image_status(ImageStatusRequest) -> ImageStatusResponse within CALL;
        images.pull_image(PullImageRequest) -> PullImageResponse within PULL;
        images.remove_image(RemoveImageRequest) -> RemoveImageResponse within CALL;
    }

    /// What happens to containers, as it happens. Engines before containerd 1.7 do not say it.
    pub(super) async fn container_events(&self) -> Result<tonic::Streaming<proto::ContainerEventResponse>, CallError> {
        let mut client = self.runtime.clone();
        let answered = client.get_container_events(proto::GetEventsRequest {}).await;
        answered.map(tonic::Response::into_inner).map_err(|status| CallError {
            call: "GetContainerEvents",
            status,
        })
    }
}
