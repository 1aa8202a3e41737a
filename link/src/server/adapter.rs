//! What an adapter must do for the link: one method per thing that can happen, each with its obligations.
//!
//! Implemented by the virtual kubelet and by tests; called by this module's services only. Methods run concurrently, also for
//! one car; only [`Adapter::connected`], [`Adapter::message`] and [`Adapter::disconnected`] of one session come one after the
//! other. Where a car calls from is none of an adapter's business, and never handed on: with the id it tells places, and in time a person.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use kerbside_core::clock::Boottime;
use kerbside_core::ids::{PodUid, VehicleId};
use tokio::sync::mpsc;

use super::SessionHandle;
use crate::fault::Fault;
use crate::heartbeat::Intervals;
use crate::proto;

/// The bytes of a log, as the car sends them. Ends with an error if the car cannot read it (`not_found`, the message says why)
/// or broke it off (`unavailable`).
pub type LogStream = BoxStream<'static, Result<Bytes, Fault>>;

/// The parts of a tunnel, as the car sends them.
pub type TunnelStream = BoxStream<'static, Result<proto::TunnelPart, Fault>>;

/// The bytes of a file, as the car sends them. May end early, with an error or without one, if the car is gone: what came is
/// good, and only size and hash tell whether it is all.
pub type OutputStream = BoxStream<'static, Result<Bytes, Fault>>;

/// Both directions of a tunnel, at the adapter.
pub struct TunnelEnds {
    /// What the car sends. Ends, or fails, with the tunnel: what came is good, and whether it is all is in the parts.
    pub from_car: TunnelStream,
    /// What goes to the car. Dropped: the tunnel ends.
    pub to_car: mpsc::Sender<proto::TunnelPart>,
}

impl std::fmt::Debug for TunnelEnds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelEnds").finish_non_exhaustive()
    }
}

/// A car has connected and said `Hello`.
#[derive(Debug)]
pub struct Arrival {
    /// The car, by its verified certificate.
    pub vehicle: VehicleId,
    /// The version that both speak.
    pub protocol: u32,
    /// Its first message: its state and every attempt that it still knows.
    pub hello: proto::Hello,
    /// The way to send to it; works as soon as `connected` has returned, until the session ends.
    pub session: SessionHandle,
    /// When `hello` arrived. Fences count from here, as from any heartbeat: the greeting acknowledges it.
    pub at: Boottime,
}

/// The answer to a car that is welcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// Higher than that of every session this car ever had.
    pub epoch: u64,
    /// How often it is to be heard. More than a third of [`super::Options::silence`] would get it cut off.
    pub heartbeat: Intervals,
}

impl Greeting {
    /// With the usual heartbeats.
    pub fn new(epoch: u64) -> Self {
        Self {
            epoch,
            heartbeat: Intervals::default(),
        }
    }
}

/// The answer to a car that is not welcome here or now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// For this reason; the car comes back after a back-off, a long one if the fault is not retryable.
    Fault(Fault),
    /// It is to go there.
    Redirect {
        /// `https://host:port`.
        address: String,
    },
    /// It is to come back after this delay, which it stretches by up to a half.
    RetryAfter {
        /// The delay.
        delay: Duration,
        /// For the car's log.
        reason: String,
    },
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A message of a living session.
#[derive(Debug, Clone, PartialEq)]
pub enum FromCar {
    /// The car is there. To be acknowledged with [`SessionHandle::ack_heartbeat`].
    Heartbeat {
        /// Its number.
        seq: u64,
    },
    /// What the car says of itself now.
    State(proto::CarState),
    /// What the car says of one attempt now. To be acknowledged with [`SessionHandle::ack_status`].
    Status(proto::AttemptStatus),
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// This side ended it: replaced by a newer one, closed through its handle, or shut down.
    Here,
    /// The car ended it.
    ByCar,
    /// The connection broke.
    Lost(String),
}

/// What became of something of which a car says more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It waits, and with it everything else that the car says in its session.
    Waits,
    /// It was refused; the car may send it again later.
    Refused,
    /// The session ends for it.
    Ended,
}

impl Held {
    /// As in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waits => "waits",
            Self::Refused => "refused",
            Self::Ended => "ended",
        }
    }
}

/// A receipt as its car sent it: of any contents, within bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedReceipt {
    /// One line of JSON, without its end.
    pub envelope: Bytes,
    /// The certificate of the key that signed it, and its issuers, PEM.
    pub chain_pem: String,
    /// Its car has no later one.
    pub newest: bool,
}

/// A car without a certificate wants one.
#[derive(Debug, Clone)]
pub struct EnrolmentRequest {
    /// Names the Secret of the token.
    pub token_id: String,
    /// The SHA-256 of the token's secret, lower-case hex; the secret itself goes no further than the link.
    pub secret_hash: String,
    /// PKCS#10, DER, as the car sent it: of any contents.
    pub csr_der: Bytes,
}

/// A car's first certificate.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Who the car is from now on.
    pub vehicle: VehicleId,
    /// Its certificate and then the issuers, PEM.
    pub chain_pem: String,
    /// The link's CA, PEM.
    pub ca_pem: String,
}

/// An adapter, as the link sees it.
///
/// No method may wait for the car it is called about, since that car's session waits for the method. A session's task is
/// cancelled never: a method that has begun runs to its end, whatever becomes of the connection.
pub trait Adapter: Send + Sync + 'static {
    /// A car wants a session. Decide its epoch, take over `arrival.session`, take in what `Hello` says as if it had come in
    /// messages (acknowledge each status), and send every `Run` that the car has not answered. What is sent through the
    /// session before this returns goes out after the greeting. An older session of the same car ends once this has
    /// returned; its `disconnected` may still come, with the older epoch. After a refusal neither `message` nor
    /// `disconnected` comes.
    fn connected(&self, arrival: Arrival) -> impl Future<Output = Result<Greeting, Refusal>> + Send;

    /// The car said something, at `at`. Record `at` before acknowledging a heartbeat: the car counts its fences from sending
    /// what was acknowledged, so an acknowledgement must never leave before the adapter has noted that it heard it. The same
    /// status may come again after a reconnect, with the same revision; older ones than already held are to be dropped.
    fn message(
        &self,
        vehicle: &VehicleId,
        epoch: u64,
        message: FromCar,
        at: Boottime,
    ) -> impl Future<Output = ()> + Send;

    /// The session is over. Called once per session that was welcomed. Says nothing about the car's attempts: they go on.
    fn disconnected(&self, vehicle: &VehicleId, epoch: u64, why: Ended) -> impl Future<Output = ()> + Send;

    /// The car answers [`SessionHandle::read_logs`]. Returning, early or not, ends the transfer. A request id that is not
    /// awaited, or not of this car, is a fault (`not_found`).
    fn logs(
        &self,
        vehicle: &VehicleId,
        request_id: &str,
        log: LogStream,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// The car answers [`SessionHandle::open_tunnel`], or says why it does not. Hand both ends to whoever asked and return: the call lives on
    /// until one of them is dropped. A request id that is not awaited, or not of this car, is a fault (`not_found`).
    fn tunnel(
        &self,
        vehicle: &VehicleId,
        request_id: &str,
        answer: Result<TunnelEnds, Fault>,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// How many bytes of this file have arrived and are kept. The file's size: it is complete, its hash right. An attempt
    /// that does not belong to this car is a fault (`denied`); one that the cluster does not want any more, `not_found`.
    fn output_offset(
        &self,
        vehicle: &VehicleId,
        uid: &PodUid,
        file: &proto::OutputFile,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Bytes of this file, from `offset`, which must be what `output_offset` would say now (else `conflict`). Keep what came
    /// even if `data` ends early. Never keep more than the file's size, nor call it complete unless size and SHA-256
    /// are right; with a wrong hash drop what is there and say `invalid`.
    fn put_output(
        &self,
        vehicle: &VehicleId,
        uid: &PodUid,
        file: &proto::OutputFile,
        offset: u64,
        data: OutputStream,
    ) -> impl Future<Output = Result<proto::OutputReceipt, Fault>> + Send;

    /// Every file has arrived: write the attempt's manifest. May be called again after it succeeded.
    fn seal_output(
        &self,
        vehicle: &VehicleId,
        uid: &PodUid,
        files: Vec<proto::OutputFile>,
        logs: Vec<proto::OutputFile>,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Store this receipt once. Believe nothing in it before its signature, the certificate (against the link's CA) and the car in both are this car's
    /// (else `invalid`); if another one is stored under its number, say `conflict`. The same one may come again after it was stored.
    fn put_receipt(
        &self,
        vehicle: &VehicleId,
        receipt: SignedReceipt,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// A car trades a token for its first certificate. Rate-limited before; everything in it comes from a stranger.
    fn enrol(&self, request: EnrolmentRequest) -> impl Future<Output = Result<Issued, Fault>> + Send;

    /// A car wants a new certificate for the id it has. Returns the chain as PEM.
    fn renew(&self, vehicle: &VehicleId, csr_der: Bytes) -> impl Future<Output = Result<String, Fault>> + Send;

    /// A car says more of `what` than it may. To be counted, by nothing that names the car; must not wait.
    fn held(&self, _what: &'static str, _how: Held) {}

    /// Whether the car's Vehicle is gone or revoked. Asked at each call; must not wait. To end the session that a car has
    /// when it is revoked, close it through its handle.
    fn is_revoked(&self, vehicle: &VehicleId) -> bool;
}
