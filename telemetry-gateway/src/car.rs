//! The other side, for tests: a car that dials in with its certificate and says what a test has it say.
//!
//! No program that is shipped calls it. It speaks as a car does, by hand and without the server's own code where that would prove nothing: its
//! own handshake, its own reading of answers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use prost::Message as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::envelope;
use crate::proto::value::Value as Said;
use crate::proto::{Datum, Doors, Field, Moment, Payload, Value};
use crate::websocket::frame;

/// A mask that is none would hide a mistake with masks.
const MASK: Option<[u8; 4]> = Some([0x37, 0xfa, 0x21, 0x3d]);

/// A car that is connected.
pub struct Car(TlsStream<TcpStream>);

/// An error of whatever kind, as one of input and output.
fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::other(error)
}

impl Car {
    /// Dials `address`, which shows a certificate of `authority` for `localhost`, and shows `identity`: certificate and key. All PEM.
    pub async fn connect(address: SocketAddr, authority: &str, identity: Option<(&str, &str)>) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.as_bytes()).map_err(other)?)
            .map_err(other)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(other)?
            .with_root_certificates(roots);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some((chain, key)) => {
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(other)?;
                config
                    .with_client_auth_cert(chain.map_err(other)?, key)
                    .map_err(other)?
            }
        };
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").map_err(other)?;
        Ok(Self(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
    }

    /// The handshake of a WebSocket; an error has the first line of what was answered instead.
    pub async fn upgrade(&mut self) -> io::Result<()> {
        let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let head = self.ask(request).await?;
        let proof = "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=";
        if head.starts_with("HTTP/1.1 101") && head.to_ascii_lowercase().contains(proof) {
            return Ok(());
        }
        Err(other(head.lines().next().unwrap_or_default()))
    }

    /// Sends a request as it is; the head of its answer.
    pub async fn ask(&mut self, request: &str) -> io::Result<String> {
        self.0.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await?);
        }
        String::from_utf8(head).map_err(other)
    }

    /// Sends a message.
    pub async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.raw(&frame(2, message, MASK)).await
    }

    /// Sends bytes that need not be a frame.
    pub async fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }

    /// Waits for a frame: its first byte and what is in it.
    pub async fn hear(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let first = self.0.read_u8().await?;
        let length = match self.0.read_u8().await? {
            126 => usize::from(self.0.read_u16().await?),
            short @ 0..=125 => usize::from(short),
            _ => return Err(other("an answer is masked, or far too long")),
        };
        let mut content = vec![0; length];
        self.0.read_exact(&mut content).await?;
        Ok((first, content))
    }

    /// Sends a message and waits for its acknowledgement; the transaction and topic that it repeats.
    pub async fn say(&mut self, message: &[u8]) -> io::Result<(Vec<u8>, Vec<u8>)> {
        self.send(message).await?;
        let (first, answer) = self.hear().await?;
        if first != 0x82 {
            return Err(other(format!("a frame of the kind {first:#x} came, with {answer:?}")));
        }
        let answer = envelope::decode(&answer).map_err(other)?;
        if answer.stream.is_some() {
            return Err(other("it was refused"));
        }
        Ok((answer.txid.to_vec(), answer.topic.to_vec()))
    }
}

/// A message of signals, as the car with this VIN sends it.
pub fn message(vin: &str, created: jiff::Timestamp, data: &[(Field, Said)]) -> Vec<u8> {
    let datum = |(field, said): &(Field, Said)| Datum {
        key: i32::from(*field),
        value: Some(Value {
            value: Some(said.clone()),
        }),
    };
    let payload = Payload {
        data: data.iter().map(datum).collect(),
        created_at: Some(Moment {
            seconds: created.as_second(),
            nanos: created.subsec_nanosecond(),
        }),
    };
    let mut payload = payload.encode_to_vec();
    payload.extend(place_and_vin(vin));
    let sender = format!("vehicle_device.{vin}");
    envelope::stream(b"tx-1", b"V", sender.as_bytes(), vin.as_bytes(), &payload)
}

/// What cars also say and the gateway never reads: the position, 52.520008 13.404954, as a value of its own, and the VIN. In the words
/// of Protobuf, for the gateway has none for them.
fn place_and_vin(vin: &str) -> Vec<u8> {
    let mut place = vec![0x09];
    place.extend(52.520_008_f64.to_le_bytes());
    place.push(0x11);
    place.extend(13.404_954_f64.to_le_bytes());
    let inner = |tag: u8, content: &[u8]| {
        let mut field = vec![tag, u8::try_from(content.len()).unwrap_or(u8::MAX)];
        field.extend(content);
        field
    };
    let value = inner(0x12, &inner(0x3a, &place));
    let mut datum = vec![0x08, 21];
    datum.extend(value);
    [inner(0x0a, &datum), inner(0x1a, vin.as_bytes())].concat()
}

/// What a parked car says, with so many percent of charge.
pub fn parked(charge: f64) -> Vec<(Field, Said)> {
    vec![
        (Field::DriveRail, Said::Truth(false)),
        (Field::VehicleSpeed, Said::LongReal(0.0)),
        (Field::Gear, Said::Shift(2)),
        (Field::ModuleTempMax, Said::LongReal(21.5)),
        (Field::OutsideTemp, Said::LongReal(9.0)),
        (Field::BatteryLevel, Said::LongReal(charge)),
        (Field::DoorState, Said::Doors(Doors::default())),
        (Field::Locked, Said::Truth(true)),
        (Field::DriverSeatOccupied, Said::Truth(false)),
        (Field::DetailedChargeState, Said::Charge(4)),
    ]
}
