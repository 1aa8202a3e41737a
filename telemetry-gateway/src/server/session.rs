//! One car's connection after its handshake: each message in turn is read, folded in and answered.
//!
//! Answers are those of the server that the cars' maker publishes: a message is acknowledged whatever becomes of it, so that the car does not send
//! it again and again; only a payload that cannot be read is refused. A car is told nothing else.

use std::sync::Arc;

use kerbside_core::ids::VehicleId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Server;
use super::allowance::{Allowance, Allowed};
use crate::envelope;
use crate::pseudonym::Vin;
use crate::signals::PayloadError;
use crate::websocket::{self, Came, Code, Incoming, SocketError};

/// The most bytes of a message: the bound of the server that the cars' maker publishes.
const MESSAGE: usize = 1_000_000;
/// A car that does not take an answer for so long is gone.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// A car that is connected.
pub(super) struct Session {
    pub(super) server: Arc<Server>,
    pub(super) vin: Arc<Vin>,
    pub(super) id: VehicleId,
    /// The car has come again, or is not the fleet's any more.
    pub(super) ended: CancellationToken,
    /// It counts as connected for as long as this is there.
    pub(super) _guard: DropGuard,
}

impl Session {
    pub(super) async fn run(self, mut stream: impl AsyncRead + AsyncWrite + Unpin, stop: CancellationToken) {
        let _connected = self.server.metrics.connected();
        let code = tokio::select! {
            () = stop.cancelled() => Some(Code::GoingAway),
            () = self.ended.cancelled() => Some(Code::Policy),
            code = self.hear(&mut stream) => code,
        };
        if let Some(code) = code {
            let _ = timeout(PATIENCE, websocket::close(&mut stream, code)).await;
        }
        tracing::debug!(vehicle.id = %self.id, ?code, "a car's connection has ended");
    }

    /// Until it ends; with what the car is to be told, if it can be told anything.
    async fn hear(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Option<Code> {
        let (mut incoming, clock) = (Incoming::default(), &self.server.clock);
        let mut allowance = Allowance::new(self.server.messages_per_minute, clock.boottime());
        loop {
            let came = match timeout(self.server.idle_after, incoming.next(stream, MESSAGE)).await {
                Err(_) => return Some(Code::GoingAway),
                Ok(Err(SocketError::Io(_))) => return None,
                Ok(Err(SocketError::Ended(code))) => return Some(code),
                Ok(Ok(came)) => came,
            };
            // Pings and pongs are counted like messages: they cost time, too.
            let bytes = match &came {
                Came::Message(content) | Came::Ping(content) => content.len(),
                Came::Pong | Came::Close => 0,
            };
            let allowed = allowance.take(bytes, clock.boottime());
            let sent = match (came, allowed) {
                (_, Allowed::End) => return Some(Code::Policy),
                (Came::Close, _) => return Some(Code::Normal),
                (Came::Pong, _) => continue,
                (Came::Ping(content), _) => timeout(PATIENCE, websocket::pong(stream, &content)).await,
                (Came::Message(message), Allowed::Read) => {
                    let answer = self.take(&message);
                    timeout(PATIENCE, websocket::send(stream, &answer)).await
                }
                (Came::Message(message), Allowed::Skip) => {
                    self.server.metrics.message("skipped");
                    timeout(PATIENCE, websocket::send(stream, &acknowledged(&message))).await
                }
            };
            if !matches!(sent, Ok(Ok(()))) {
                return None;
            }
        }
    }

    /// Folds a message in; the answer to it.
    fn take(&self, message: &[u8]) -> Vec<u8> {
        let metrics = &self.server.metrics;
        let Ok(envelope) = envelope::decode(message) else {
            metrics.message("malformed");
            return envelope::ack(b"", b"");
        };
        let acknowledged = || envelope::ack(envelope.txid, envelope.topic);
        let Some(stream) = envelope.stream.filter(|_| envelope.topic == b"V") else {
            // Alerts, errors, connectivity: none of it is wanted here.
            metrics.message("others");
            return acknowledged();
        };
        if !self.vin.is_sender(stream.sender) || !self.vin.is_sender(stream.device) {
            metrics.message("foreign");
            return acknowledged();
        }
        let clock = &self.server.clock;
        let now = (clock.boottime(), clock.wall());
        match self.server.cars.hear(&self.id, stream.payload, now) {
            Ok(_) => metrics.message("folded"),
            Err(PayloadError::Undated | PayloadError::NotNow) => metrics.message("not now"),
            Err(PayloadError::Malformed) => {
                metrics.message("malformed");
                return envelope::refusal(envelope.txid);
            }
        }
        acknowledged()
    }
}

/// Of a message that is not looked into further.
fn acknowledged(message: &[u8]) -> Vec<u8> {
    match envelope::decode(message) {
        Ok(envelope) => envelope::ack(envelope.txid, envelope.topic),
        Err(_) => envelope::ack(b"", b""),
    }
}
