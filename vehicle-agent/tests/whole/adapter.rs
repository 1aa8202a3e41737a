//! The cluster's end of the link, in memory, and a registry of a few lines: all that an agent meets outside the car.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::StreamExt as _;
use kerbside_core::clock::{Boottime, Clock as _};
use kerbside_core::ids::{PodUid, VehicleId};
use kerbside_link::SystemClock;
use kerbside_link::fault::Fault;
use kerbside_link::identity::{Ca, EnrolmentToken, SERVER_VALIDITY, ServerIdentity, VEHICLE_VALIDITY, new_key_and_csr};
use kerbside_link::proto::{AttemptStatus, CarState, OutputFile, OutputReceipt};
use kerbside_link::server::{
    Adapter, Arrival, Ended, EnrolmentRequest, FromCar, Greeting, Issued, LogStream, Options, OutputStream, Refusal,
    ServerTls, SessionHandle, SignedReceipt, TunnelEnds, serve,
};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// What the cluster has seen.
pub(crate) struct Cluster {
    ca: Ca,
    pub(crate) token: EnrolmentToken,
    pub(crate) session: watch::Sender<Option<SessionHandle>>,
    pub(crate) states: watch::Sender<Vec<CarState>>,
    pub(crate) statuses: watch::Sender<Vec<AttemptStatus>>,
    pub(crate) logs: watch::Sender<BTreeMap<String, String>>,
    pub(crate) files: Mutex<BTreeMap<String, Vec<u8>>>,
    pub(crate) receipts: watch::Sender<Vec<SignedReceipt>>,
    epoch: Mutex<u64>,
}

impl Cluster {
    /// Starts a link server and says where it is.
    pub(crate) async fn start() -> (Arc<Self>, String) {
        // Another test of the same process may have been faster.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let ca = Ca::generate(SystemClock.wall()).unwrap();
        let request = new_key_and_csr(&["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let sans = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let chain = ca
            .sign_server(&request.csr_der, &sans, SERVER_VALIDITY, SystemClock.wall())
            .unwrap();
        let identity = ServerIdentity::from_pem(&request.key_pem, &chain, &ca.certificate_pem()).unwrap();
        let tls = ServerTls::new(&identity).unwrap();
        let cluster = Arc::new(Self {
            token: EnrolmentToken::generate(ca.sha256()),
            ca,
            session: watch::Sender::new(None),
            states: watch::Sender::new(Vec::new()),
            statuses: watch::Sender::new(Vec::new()),
            logs: watch::Sender::new(BTreeMap::new()),
            files: Mutex::default(),
            receipts: watch::Sender::new(Vec::new()),
            epoch: Mutex::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let options = Options::new(Arc::new(SystemClock));
        tokio::spawn(serve(
            listener,
            tls,
            Arc::clone(&cluster),
            options,
            std::future::pending(),
        ));
        (cluster, url)
    }

    fn take_status(&self, status: AttemptStatus, session: Option<&SessionHandle>) {
        if let (Some(session), Ok(uid)) = (session, status.uid.parse::<PodUid>()) {
            session.ack_status(&uid, status.revision);
        }
        self.statuses.send_modify(|statuses| statuses.push(status));
    }
}

impl Adapter for Cluster {
    async fn connected(&self, arrival: Arrival) -> Result<Greeting, Refusal> {
        let epoch = {
            let mut epoch = self.epoch.lock().unwrap();
            *epoch += 1;
            *epoch
        };
        for status in arrival.hello.attempts {
            self.take_status(status, Some(&arrival.session));
        }
        self.states.send_modify(|states| states.extend(arrival.hello.state));
        self.session.send_replace(Some(arrival.session));
        Ok(Greeting::new(epoch))
    }

    async fn message(&self, _: &VehicleId, _: u64, message: FromCar, _: Boottime) {
        let session = self.session.borrow().clone();
        match message {
            FromCar::Heartbeat { seq } => {
                if let Some(session) = session {
                    session.ack_heartbeat(seq, true);
                }
            }
            FromCar::State(state) => self.states.send_modify(|states| states.push(state)),
            FromCar::Status(status) => self.take_status(status, session.as_ref()),
        }
    }

    async fn disconnected(&self, _: &VehicleId, _: u64, _: Ended) {}

    async fn logs(&self, _: &VehicleId, request_id: &str, mut log: LogStream) -> Result<(), Fault> {
        let mut text = String::new();
        while let Some(chunk) = log.next().await {
            match chunk {
                Ok(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(fault) => text.push_str(fault.message()),
            }
        }
        self.logs.send_modify(|logs| {
            logs.insert(request_id.to_owned(), text);
        });
        Ok(())
    }

    async fn tunnel(&self, _: &VehicleId, _: &str, _: Result<TunnelEnds, Fault>) -> Result<(), Fault> {
        Err(Fault::not_found("nobody waits for a tunnel"))
    }

    async fn output_offset(&self, _: &VehicleId, _: &PodUid, file: &OutputFile) -> Result<u64, Fault> {
        Ok(self
            .files
            .lock()
            .unwrap()
            .get(&file.path)
            .map_or(0, |bytes| bytes.len() as u64))
    }

    async fn put_output(
        &self,
        _: &VehicleId,
        _: &PodUid,
        file: &OutputFile,
        _: u64,
        mut data: OutputStream,
    ) -> Result<OutputReceipt, Fault> {
        let mut received = Vec::new();
        while let Some(bytes) = data.next().await {
            received.extend(bytes?);
        }
        assert_eq!(HEXLOWER.encode(&Sha256::digest(&received)), file.sha256);
        let offset = received.len() as u64;
        self.files.lock().unwrap().insert(file.path.clone(), received);
        Ok(OutputReceipt { offset, complete: true })
    }

    async fn seal_output(
        &self,
        _: &VehicleId,
        _: &PodUid,
        _: Vec<OutputFile>,
        _: Vec<OutputFile>,
    ) -> Result<(), Fault> {
        Ok(())
    }

    async fn put_receipt(&self, _: &VehicleId, receipt: SignedReceipt) -> Result<(), Fault> {
        self.receipts.send_modify(|receipts| receipts.push(receipt));
        Ok(())
    }

    async fn enrol(&self, request: EnrolmentRequest) -> Result<Issued, Fault> {
        assert_eq!(request.secret_hash, self.token.secret_hash());
        let vehicle = VehicleId::from_random([7; 10]);
        let now = SystemClock.wall();
        let chain = self
            .ca
            .sign_vehicle(&request.csr_der, &vehicle, "overnight", VEHICLE_VALIDITY, now);
        let chain_pem = chain.map_err(|e| Fault::invalid(e.to_string()))?;
        Ok(Issued {
            vehicle,
            chain_pem,
            ca_pem: self.ca.certificate_pem(),
        })
    }

    async fn renew(&self, _: &VehicleId, _: Bytes) -> Result<String, Fault> {
        Err(Fault::unavailable("not in this test"))
    }

    fn is_revoked(&self, _: &VehicleId) -> bool {
        false
    }
}

/// The network between a car and its cluster, which a test can cut.
pub(crate) struct Wire {
    carrying: AbortHandle,
}

impl Wire {
    /// A wire to this address, and where its near end is.
    pub(crate) async fn to(url: &str) -> (Self, String) {
        let far = url.trim_start_matches("https://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = format!("https://{}", listener.local_addr().unwrap());
        let carrying = tokio::spawn(async move {
            // Dropped with this task, and with it every connection.
            let mut connections = JoinSet::new();
            while let Ok((mut car, _)) = listener.accept().await {
                let far = far.clone();
                connections.spawn(async move {
                    let mut adapter = TcpStream::connect(far).await?;
                    tokio::io::copy_bidirectional(&mut car, &mut adapter).await
                });
            }
        });
        let carrying = carrying.abort_handle();
        (Self { carrying }, near)
    }

    /// Ends every connection; no new one is taken.
    pub(crate) fn cut(&self) {
        self.carrying.abort();
    }
}

/// A registry with one WebAssembly artefact per repository, tag `v1`.
pub(crate) async fn registry(programs: &[(&str, &str)]) -> SocketAddr {
    let mut answers: BTreeMap<String, Vec<u8>> = BTreeMap::from([("/v2/".to_owned(), Vec::new())]);
    for (name, text) in programs {
        let module = wat::parse_str(text).unwrap();
        let mut blob = |media_type: &str, bytes: &[u8]| {
            let digest = format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(bytes)));
            answers.insert(format!("/v2/{name}/blobs/{digest}"), bytes.to_vec());
            json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
        };
        let config = blob("application/vnd.wasm.config.v0+json", b"{}");
        let layer = blob("application/wasm", &module);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": [layer],
        });
        answers.insert(
            format!("/v2/{name}/manifests/v1"),
            serde_json::to_vec(&manifest).unwrap(),
        );
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = vec![0; 8192];
            let length = socket.read(&mut request).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            let answer = answers.get(text.split(' ').nth(1).unwrap_or_default());
            let (status, body) = answer.map_or(("404 Not Found", &[][..]), |body| ("200 OK", body));
            let head = format!(
                "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let _ = socket.write_all(head.as_bytes()).await;
            let _ = socket.write_all(body).await;
        }
    });
    address
}
