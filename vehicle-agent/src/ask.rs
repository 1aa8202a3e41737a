//! Asks a program how it is, or has something done in it: probes and hooks.
//!
//! Called by the actors of attempts. As the kubelet asks, but from within the Pod's own network, so that nothing of the car has to be
//! reachable for a program. What must never happen: a question that takes longer than its limit, or that goes anywhere but to the Pod.

mod http;
mod tls;

use std::io;
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;
use tower::service_fn;

use crate::pod::Handler;
use crate::proto::health as proto;
use crate::runtime::{Executed, Process};

/// A hook may take as long as the grace that surrounds it.
pub(crate) const NO_LIMIT: Duration = Duration::from_hours(24);

/// Asks a program. The error is what an Event says of it. Begins at once: what is returned does not need the process any more.
pub(crate) fn ask(
    process: &dyn Process,
    handler: Handler,
    limit: Duration,
) -> impl Future<Output = Result<(), String>> + Send + 'static + use<> {
    enum Way {
        Ran(BoxFuture<'static, Result<Executed, String>>),
        Connected(BoxFuture<'static, Result<std::net::TcpStream, String>>),
        Nothing,
    }
    let way = match &handler {
        Handler::Exec(command) => Way::Ran(process.exec(command.clone(), limit)),
        Handler::Http(get) => Way::Connected(process.connect(get.port, limit)),
        Handler::Tcp(port) | Handler::Grpc { port, .. } => Way::Connected(process.connect(*port, limit)),
        Handler::Sleep(_) => Way::Nothing,
    };
    async move {
        let asked = async {
            match (way, handler) {
                (Way::Ran(ran), _) => match ran.await? {
                    Executed { code: 0, .. } => Ok(()),
                    Executed { code, output } if output.is_empty() => {
                        Err(format!("the command ended with code {code}"))
                    }
                    Executed { output, .. } => Err(output),
                },
                (Way::Connected(connected), Handler::Http(get)) => {
                    http::get(asynchronous(connected.await?)?, &get).await
                }
                (Way::Connected(connected), Handler::Grpc { service, .. }) => {
                    grpc(asynchronous(connected.await?)?, service).await
                }
                (Way::Connected(connected), _) => connected.await.map(|_| ()),
                (Way::Nothing, Handler::Sleep(time)) => {
                    sleep(time).await;
                    Ok(())
                }
                (Way::Nothing, _) => Ok(()),
            }
        };
        timeout(limit, asked)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", limit.as_secs_f32())))
    }
}

fn asynchronous(stream: std::net::TcpStream) -> Result<TcpStream, String> {
    let ready = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
    ready.map_err(|e: io::Error| e.to_string())
}

async fn grpc(stream: TcpStream, service: String) -> Result<(), String> {
    let mut stream = Some(stream);
    let channel = Endpoint::from_static("http://pod")
        .connect_with_connector(service_fn(move |_| {
            let stream = stream
                .take()
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
            async move { Ok::<_, io::Error>(TokioIo::new(stream?)) }
        }))
        .await
        .map_err(|e| format!("the port does not speak gRPC: {e}"))?;
    let mut client = proto::health_client::HealthClient::new(channel);
    let answer = client.check(proto::HealthCheckRequest { service }).await;
    match answer.map(|answer| answer.into_inner().status()) {
        Ok(proto::health_check_response::ServingStatus::Serving) => Ok(()),
        Ok(status) => Err(format!("the service says {}", status.as_str_name())),
        Err(status) if status.code() == tonic::Code::Unimplemented => {
            Err("the server does not speak the health protocol (grpc.health.v1.Health)".to_owned())
        }
        Err(status) => Err(format!("{}: {}", status.code().description(), status.message())),
    }
}

#[cfg(test)]
mod tests;
