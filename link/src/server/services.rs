//! The RPCs: who may call them, what is well-formed, and then the [`Adapter`].
//!
//! Called by tonic. Never: a call of a car without a verified certificate, or of a revoked one, that reaches the adapter.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use kerbside_core::ids::{PodUid, VehicleId};
use kerbside_core::rate::Buckets;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::adapter::{Adapter, EnrolmentRequest, Held, SignedReceipt, TunnelEnds};
use super::connection::{Car, Peer};
use super::handle::CarMailbox;
use super::registry::Registry;
use super::{Options, session};
use crate::fault::Fault;
use crate::identity::secret_hash;
use crate::proto::enrolment_server::Enrolment;
use crate::proto::link_server::Link;
use crate::proto::{
    AdapterMessage, CarMessage, EnrolRequest, EnrolResponse, LogChunk, LogsDone, OutputChunk, OutputFile,
    OutputOffsetRequest, OutputOffsetResponse, OutputReceipt, PutReceiptRequest, PutReceiptResponse, Refusal,
    RenewRequest, RenewResponse, SealOutputRequest, SealOutputResponse, TunnelPart,
};
use crate::rate_limit::RateLimit;
use crate::{CHUNK_LIMIT, TUNNEL_LIMIT, TUNNEL_PARTS};

/// Larger certificate requests carry something that nobody needs.
const CSR_LIMIT: usize = 8 * 1024;
/// A receipt is about a kilobyte, and a chain of certificates two.
const RECEIPT_LIMIT: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Shared<A> {
    pub(super) adapter: Arc<A>,
    pub(super) options: Options,
    pub(super) registry: Registry,
    pub(super) enrolments: Mutex<RateLimit>,
    pub(super) receipts: Mutex<Buckets<VehicleId>>,
}

#[derive(Debug)]
pub(super) struct Services<A>(pub(super) Arc<Shared<A>>);

impl<A> Clone for Services<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A: Adapter> Services<A> {
    fn adapter(&self) -> &A {
        &self.0.adapter
    }

    /// The car that calls.
    fn car<T>(&self, request: &Request<T>) -> Result<Car, Fault> {
        let car = match peer(request)?.car {
            None => {
                return Err(Fault::unauthenticated(
                    "no client certificate was shown: enrol the car first",
                ));
            }
            Some(Err(why)) => return Err(Fault::unauthenticated(why)),
            Some(Ok(car)) => car,
        };
        // The handshake checked it too, but a connection may be older than that.
        if self.0.options.clock.wall() >= car.not_after {
            return Err(Fault::unauthenticated(
                "the car's certificate has expired: connect with the renewed one",
            ));
        }
        self.check_revoked(&car.vehicle)?;
        Ok(car)
    }

    fn check_revoked(&self, vehicle: &VehicleId) -> Result<(), Fault> {
        if self.adapter().is_revoked(vehicle) {
            return Err(Fault::denied(format!(
                "{vehicle} is revoked: its owner must enrol it again"
            )));
        }
        Ok(())
    }

    /// Receipts cost the store two writes each, and whoever settles them a look again and again.
    fn count_receipt(&self, vehicle: &VehicleId) -> Result<(), Fault> {
        let now = self.0.options.clock.boottime();
        let mut receipts = self.0.receipts.lock().unwrap_or_else(PoisonError::into_inner);
        receipts.allow(vehicle, now).map_err(|after| {
            self.adapter().held("receipt", Held::Refused);
            let seconds = after.as_secs().saturating_add(1);
            Fault::rate_limited(format!("too many receipts of this car: try again in {seconds} s"))
        })
    }

    /// Stops a transfer in the middle when its car is revoked.
    fn guarded(
        &self,
        vehicle: VehicleId,
        data: impl Stream<Item = Result<Bytes, Fault>> + Send + 'static,
    ) -> BoxStream<'static, Result<Bytes, Fault>> {
        let services = self.clone();
        data.map(move |bytes| services.check_revoked(&vehicle).and(bytes))
            .boxed()
    }
}

fn peer<T>(request: &Request<T>) -> Result<Peer, Fault> {
    request
        .extensions()
        .get::<Peer>()
        .cloned()
        .ok_or_else(|| Fault::internal("the connection has no peer"))
}

fn pod_uid(uid: &str) -> Result<PodUid, Fault> {
    uid.parse()
        .map_err(|e: kerbside_core::ids::IdError| Fault::invalid(e.to_string()))
}

/// The bytes of a log. Only what says that it is the end is the end: a call that is cancelled looks like one that is over.
fn log(first: LogChunk, rest: Streaming<LogChunk>) -> impl Stream<Item = Result<Bytes, Fault>> + Send {
    stream::unfold(Some((Some(first), rest)), |state| async {
        let (first, mut rest) = state?;
        let chunk = match first {
            Some(first) => Ok(Some(first)),
            None => rest.message().await,
        };
        match chunk {
            Err(status) => Some((Err(Fault::from(status)), None)),
            Ok(None) => Some((Err(Fault::unavailable("the car broke the log off")), None)),
            Ok(Some(chunk)) if !chunk.error.is_empty() => Some((Err(Fault::not_found(chunk.error)), None)),
            Ok(Some(chunk)) if chunk.end => (!chunk.data.is_empty()).then_some((Ok(chunk.data), None)),
            Ok(Some(chunk)) => Some((Ok(chunk.data), Some((None, rest)))),
        }
    })
}

/// A path that stays below the output's directory, and a hash that can be one.
fn checked(file: Option<OutputFile>) -> Result<OutputFile, Fault> {
    let file = file.ok_or_else(|| Fault::invalid("no file is named"))?;
    let hash_ok = file.sha256.len() == 64 && file.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !hash_ok {
        return Err(Fault::invalid("sha256 is not 64 characters of lower-case hex"));
    }
    let path_ok = file.path.len() <= 1024
        && !file.path.contains(['\\', '\0'])
        && file.path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !path_ok {
        return Err(Fault::invalid(
            "path is not a relative path of at most 1024 bytes without '.', '..' and '\\'",
        ));
    }
    Ok(file)
}

#[tonic::async_trait]
impl<A: Adapter> Link for Services<A> {
    type SessionStream = BoxStream<'static, Result<AdapterMessage, Status>>;

    async fn session(&self, request: Request<Streaming<CarMessage>>) -> Result<Response<Self::SessionStream>, Status> {
        let car = self.car(&request)?;
        let mailbox = Arc::new(CarMailbox::new(true));
        // A task of its own: the adapter must hear of the end of what it has welcomed, whatever becomes of this call.
        let unread = Arc::new(AtomicBool::new(false));
        let reader = Reader {
            mailbox: Arc::clone(&mailbox),
            unread: Arc::clone(&unread),
        };
        let link = session::Link { car, mailbox, unread };
        tokio::spawn(session::run(Arc::clone(&self.0), link, request.into_inner()));
        let outgoing = stream::unfold(Some(reader), |reader| async {
            let reader = reader?;
            match reader.mailbox.take().await {
                Ok(Some(message)) => Some((Ok(message), Some(reader))),
                Ok(None) => None,
                Err(fault) => Some((Err(Status::from(fault)), None)),
            }
        });
        Ok(Response::new(outgoing.boxed()))
    }

    async fn send_logs(&self, request: Request<Streaming<LogChunk>>) -> Result<Response<LogsDone>, Status> {
        let car = self.car(&request)?;
        let mut chunks = request.into_inner();
        let Some(first) = chunks.message().await? else {
            return Err(Fault::invalid("the transfer ended before its first chunk").into());
        };
        let request_id = first.request_id.clone();
        let log = log(first, chunks);
        let log = self.guarded(car.vehicle.clone(), log);
        self.adapter().logs(&car.vehicle, &request_id, log).await?;
        Ok(Response::new(LogsDone {}))
    }

    type TunnelStream = BoxStream<'static, Result<TunnelPart, Status>>;

    async fn tunnel(&self, request: Request<Streaming<TunnelPart>>) -> Result<Response<Self::TunnelStream>, Status> {
        let car = self.car(&request)?;
        let mut parts = request.into_inner();
        let Some(first) = parts.message().await? else {
            return Err(Fault::invalid("the tunnel ended before its first part").into());
        };
        let (to_car, outgoing) = mpsc::channel(TUNNEL_PARTS);
        let (services, vehicle) = (self.clone(), car.vehicle.clone());
        let from_car = parts
            .map_err(Fault::from)
            .map(move |part| {
                services.check_revoked(&vehicle)?;
                part.and_then(limited_part)
            })
            .boxed();
        let answer = match first.refusal {
            None => Ok(TunnelEnds { from_car, to_car }),
            Some(refusal) => Err(refused(&refusal)),
        };
        self.adapter().tunnel(&car.vehicle, &first.request_id, answer).await?;
        Ok(Response::new(ReceiverStream::new(outgoing).map(Ok).boxed()))
    }

    async fn output_offset(
        &self,
        request: Request<OutputOffsetRequest>,
    ) -> Result<Response<OutputOffsetResponse>, Status> {
        let car = self.car(&request)?;
        let OutputOffsetRequest { uid, file } = request.into_inner();
        let (uid, file) = (pod_uid(&uid)?, checked(file)?);
        let offset = self.adapter().output_offset(&car.vehicle, &uid, &file).await?;
        Ok(Response::new(OutputOffsetResponse { offset }))
    }

    async fn put_output(&self, request: Request<Streaming<OutputChunk>>) -> Result<Response<OutputReceipt>, Status> {
        let car = self.car(&request)?;
        let mut chunks = request.into_inner();
        let Some(OutputChunk {
            uid,
            file,
            offset,
            data,
        }) = chunks.message().await?
        else {
            return Err(Fault::invalid("the transfer ended before its first chunk").into());
        };
        let (uid, file) = (pod_uid(&uid)?, checked(file)?);
        if offset > file.size {
            return Err(Fault::invalid("the offset is behind the end of the file").into());
        }
        let limited = |data: Bytes| {
            if data.len() > CHUNK_LIMIT {
                return Err(Fault::invalid("a chunk is larger than 256 KiB"));
            }
            Ok(data)
        };
        let data = stream::iter([Ok(data)])
            .chain(chunks.map_ok(|chunk| chunk.data).map_err(Fault::from))
            .map(move |data| data.and_then(limited));
        let data = self.guarded(car.vehicle.clone(), data);
        Ok(Response::new(
            self.adapter()
                .put_output(&car.vehicle, &uid, &file, offset, data)
                .await?,
        ))
    }

    async fn seal_output(&self, request: Request<SealOutputRequest>) -> Result<Response<SealOutputResponse>, Status> {
        let car = self.car(&request)?;
        let SealOutputRequest { uid, files, logs } = request.into_inner();
        let uid = pod_uid(&uid)?;
        let check = |files: Vec<OutputFile>| {
            files
                .into_iter()
                .map(|f| checked(Some(f)))
                .collect::<Result<Vec<_>, _>>()
        };
        self.adapter()
            .seal_output(&car.vehicle, &uid, check(files)?, check(logs)?)
            .await?;
        Ok(Response::new(SealOutputResponse {}))
    }

    async fn put_receipt(&self, request: Request<PutReceiptRequest>) -> Result<Response<PutReceiptResponse>, Status> {
        let car = self.car(&request)?;
        let PutReceiptRequest {
            envelope,
            certificate_chain_pem: chain_pem,
            newest,
        } = request.into_inner();
        if envelope.len() > RECEIPT_LIMIT || chain_pem.len() > RECEIPT_LIMIT {
            return Err(Fault::too_large("a receipt and its certificates have at most 16 KiB each").into());
        }
        self.count_receipt(&car.vehicle)?;
        let receipt = SignedReceipt {
            envelope,
            chain_pem,
            newest,
        };
        self.adapter().put_receipt(&car.vehicle, receipt).await?;
        Ok(Response::new(PutReceiptResponse {}))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let car = self.car(&request)?;
        let csr_der = checked_csr(request.into_inner().csr_der)?;
        let certificate_chain_pem = self.adapter().renew(&car.vehicle, csr_der).await?;
        Ok(Response::new(RenewResponse { certificate_chain_pem }))
    }
}

fn refused(refusal: &Refusal) -> Fault {
    let code = i32::try_from(refusal.code).unwrap_or_default();
    Status::new(Code::from(code), &refusal.message).into()
}

fn limited_part(part: TunnelPart) -> Result<TunnelPart, Fault> {
    if part.data.len() > TUNNEL_LIMIT || part.channel > 4 {
        return Err(Fault::invalid(
            "a part of a tunnel is larger than 64 KiB or of an unknown channel",
        ));
    }
    Ok(part)
}

fn checked_csr(csr_der: Bytes) -> Result<Bytes, Fault> {
    if csr_der.len() > CSR_LIMIT {
        return Err(Fault::invalid("the certificate request is larger than 8 KiB"));
    }
    Ok(csr_der)
}

#[tonic::async_trait]
impl<A: Adapter> Enrolment for Services<A> {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let from = peer(&request)?.address.ip();
        let now = self.0.options.clock.boottime();
        self.0
            .enrolments
            .lock()
            // Nothing in there panics half-way.
            .unwrap_or_else(PoisonError::into_inner)
            .allow(from, now)
            .map_err(|e| Fault::rate_limited(e.to_string()))?;
        let EnrolRequest {
            token_id,
            token_secret,
            csr_der,
        } = request.into_inner();
        let secret_hash = secret_hash(&token_secret).map_err(|e| Fault::unauthenticated(e.to_string()))?;
        let csr_der = checked_csr(csr_der)?;
        let request = EnrolmentRequest {
            token_id,
            secret_hash,
            csr_der,
        };
        let issued = self.adapter().enrol(request).await?;
        Ok(Response::new(EnrolResponse {
            vehicle_id: issued.vehicle.into(),
            certificate_chain_pem: issued.chain_pem,
            ca_pem: issued.ca_pem,
        }))
    }
}

/// Ends a session when nobody reads what it sends: the connection is gone.
struct Reader {
    mailbox: Arc<CarMailbox>,
    unread: Arc<AtomicBool>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.mailbox.is_closed() {
            self.unread.store(true, Ordering::SeqCst);
        }
        self.mailbox.close(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, sha256: &str) -> OutputFile {
        OutputFile {
            path: path.into(),
            size: 1,
            sha256: sha256.into(),
        }
    }

    #[rstest::rstest]
    #[case("")]
    #[case("/etc/passwd")]
    #[case("../a")]
    #[case("a/../../b")]
    #[case("a//b")]
    #[case("a/./b")]
    #[case("a\\b")]
    fn output_path_that_could_leave_its_directory_is_refused(#[case] path: &str) {
        assert!(checked(Some(file(path, &"0".repeat(64)))).is_err());
    }

    #[rstest::rstest]
    #[case("")]
    #[case("ABCD")]
    #[case("zz")]
    fn output_hash_that_is_none_is_refused(#[case] hash: &str) {
        assert!(checked(Some(file("a", hash))).is_err());
        assert!(checked(None).is_err());
        assert!(checked(Some(file("a/b.txt", &"0a".repeat(32)))).is_ok());
    }
}
