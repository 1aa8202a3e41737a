//! An adapter that does as it is told and tells what it sees, and cars to go with it.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use jiff::Timestamp;
use kerbside_core::clock::{Boottime, Clock};
use kerbside_core::ids::{PodUid, VehicleId};
use kerbside_link::SystemClock;
use kerbside_link::client::{Client, Config, Connection, Event, Events, Pace};
use kerbside_link::fault::Fault;
use kerbside_link::heartbeat::Intervals;
use kerbside_link::identity::{Ca, Identity, ServerIdentity, VEHICLE_VALIDITY, new_key_and_csr};
use kerbside_link::proto::{AttemptStatus, CarState, Hello, OutputFile, OutputReceipt, Stop};
use kerbside_link::server::{
    Adapter, Arrival, Ended, EnrolmentRequest, FromCar, Greeting, Issued, LogStream, Options, OutputStream, Refusal,
    ServeError, ServerTls, SessionHandle, SignedReceipt, TunnelEnds, serve,
};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

/// Nothing on one machine takes this long.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) const DAY: i64 = 24 * 3600;

#[derive(Debug)]
pub(crate) enum Seen {
    Connected {
        vehicle: VehicleId,
        epoch: u64,
        hello: Hello,
        session: SessionHandle,
    },
    Message {
        message: FromCar,
    },
    Disconnected {
        epoch: u64,
        why: Ended,
    },
    Log {
        request_id: String,
        bytes: Vec<u8>,
        end: Option<Fault>,
    },
    LogBegun,
    PutBegun,
    Put {
        offset: u64,
        bytes: usize,
    },
    Sealed {
        files: usize,
    },
    Receipt(SignedReceipt),
    TunnelEnded(Option<Fault>),
    Enrol(EnrolmentRequest),
    Renew,
}

/// What the adapter is told to do.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) refusals: VecDeque<Refusal>,
    pub(crate) ack_heartbeats: bool,
    pub(crate) proven: bool,
    pub(crate) ack_statuses: bool,
    pub(crate) revoked: bool,
    pub(crate) enrol_fault: Option<Fault>,
    /// What it says of the next receipts.
    pub(crate) receipt_faults: VecDeque<Fault>,
    pub(crate) intervals: Intervals,
    /// What a car is told to stop while it is greeted.
    pub(crate) stops: Vec<Stop>,
    /// How many chunks of a log it wants.
    pub(crate) log_chunks: usize,
    /// Leaves uploads and logs unread until it is notified.
    pub(crate) stalled: bool,
    pub(crate) files: HashMap<String, Vec<u8>>,
}

#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) ca: Arc<Ca>,
    pub(crate) script: Mutex<Script>,
    pub(crate) go_on: Notify,
    epoch: AtomicU64,
    sessions: Mutex<HashMap<u64, SessionHandle>>,
    seen: mpsc::UnboundedSender<Seen>,
}

impl Scripted {
    fn see(&self, seen: Seen) {
        // An error means that the test is over.
        let _ = self.seen.send(seen);
    }

    pub(crate) fn tell(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    fn sign(&self, csr_der: &[u8], vehicle: &VehicleId) -> Result<String, Fault> {
        self.ca
            .sign_vehicle(csr_der, vehicle, "overnight", VEHICLE_VALIDITY, SystemClock.wall())
            .map_err(|e| Fault::invalid(e.to_string()))
    }

    fn acknowledge(&self, session: &SessionHandle, status: &AttemptStatus) {
        if self.script.lock().unwrap().ack_statuses {
            session.ack_status(&status.uid.parse().unwrap(), status.revision);
        }
    }
}

impl Adapter for Scripted {
    async fn connected(&self, arrival: Arrival) -> Result<Greeting, Refusal> {
        if let Some(refusal) = self.script.lock().unwrap().refusals.pop_front() {
            return Err(refusal);
        }
        let epoch = self.epoch.fetch_add(1, Ordering::SeqCst) + 1;
        for status in &arrival.hello.attempts {
            self.acknowledge(&arrival.session, status);
        }
        for stop in self.script.lock().unwrap().stops.clone() {
            arrival.session.stop(stop);
        }
        self.sessions.lock().unwrap().insert(epoch, arrival.session.clone());
        let Arrival {
            vehicle,
            hello,
            session,
            ..
        } = arrival;
        self.see(Seen::Connected {
            vehicle,
            epoch,
            hello,
            session,
        });
        Ok(Greeting {
            epoch,
            heartbeat: self.script.lock().unwrap().intervals,
        })
    }

    async fn message(&self, _: &VehicleId, epoch: u64, message: FromCar, _: Boottime) {
        let session = self.sessions.lock().unwrap().get(&epoch).cloned();
        match (&message, session) {
            (FromCar::Heartbeat { seq }, Some(session)) if self.script.lock().unwrap().ack_heartbeats => {
                session.ack_heartbeat(*seq, self.script.lock().unwrap().proven);
            }
            (FromCar::Status(status), Some(session)) => self.acknowledge(&session, status),
            _ => {}
        }
        self.see(Seen::Message { message });
    }

    async fn disconnected(&self, _: &VehicleId, epoch: u64, why: Ended) {
        self.sessions.lock().unwrap().remove(&epoch);
        self.see(Seen::Disconnected { epoch, why });
    }

    async fn logs(&self, _: &VehicleId, request_id: &str, mut log: LogStream) -> Result<(), Fault> {
        if request_id == "unknown" {
            return Err(Fault::not_found("nobody waits for this log"));
        }
        let mut wanted = self.script.lock().unwrap().log_chunks;
        let (mut bytes, mut end) = (Vec::new(), None);
        self.see(Seen::LogBegun);
        if self.script.lock().unwrap().stalled {
            self.go_on.notified().await;
        }
        while wanted > 0 {
            match log.next().await {
                None => break,
                Some(Ok(data)) => bytes.extend_from_slice(&data),
                Some(Err(fault)) => {
                    end = Some(fault);
                    break;
                }
            }
            wanted -= 1;
        }
        self.see(Seen::Log {
            request_id: request_id.to_owned(),
            bytes,
            end,
        });
        Ok(())
    }

    /// Says everything back.
    async fn tunnel(&self, _: &VehicleId, request_id: &str, answer: Result<TunnelEnds, Fault>) -> Result<(), Fault> {
        if request_id == "unknown" {
            return Err(Fault::not_found("nobody waits for this tunnel"));
        }
        let mut ends = match answer {
            Ok(ends) => ends,
            Err(fault) => {
                self.see(Seen::TunnelEnded(Some(fault)));
                return Ok(());
            }
        };
        let seen = self.seen.clone();
        tokio::spawn(async move {
            let end = loop {
                match ends.from_car.next().await {
                    None => break None,
                    Some(Err(fault)) => break Some(fault),
                    Some(Ok(part)) => {
                        if ends.to_car.send(part).await.is_err() {
                            break None;
                        }
                    }
                }
            };
            // An error means that the test is over.
            let _ = seen.send(Seen::TunnelEnded(end));
        });
        Ok(())
    }

    async fn output_offset(&self, _: &VehicleId, _: &PodUid, file: &OutputFile) -> Result<u64, Fault> {
        Ok(self
            .script
            .lock()
            .unwrap()
            .files
            .get(&file.path)
            .map_or(0, |held| held.len() as u64))
    }

    async fn put_output(
        &self,
        _: &VehicleId,
        _: &PodUid,
        file: &OutputFile,
        offset: u64,
        mut data: OutputStream,
    ) -> Result<OutputReceipt, Fault> {
        self.see(Seen::PutBegun);
        if self.script.lock().unwrap().stalled {
            self.go_on.notified().await;
        }
        let mut bytes = 0;
        while let Some(chunk) = data.next().await {
            let Ok(chunk) = chunk else { break };
            let mut script = self.script.lock().unwrap();
            let held = script.files.entry(file.path.clone()).or_default();
            if bytes == 0 && held.len() as u64 != offset {
                return Err(Fault::conflict("the offset is not where the file ends"));
            }
            held.extend_from_slice(&chunk);
            bytes += chunk.len();
        }
        self.see(Seen::Put { offset, bytes });
        let mut script = self.script.lock().unwrap();
        let held = script.files.entry(file.path.clone()).or_default();
        let offset = held.len() as u64;
        let complete = offset == file.size;
        if complete && sha256(held) != file.sha256 {
            held.clear();
            return Err(Fault::invalid("the file's SHA-256 is another"));
        }
        Ok(OutputReceipt { offset, complete })
    }

    async fn seal_output(
        &self,
        _: &VehicleId,
        _: &PodUid,
        files: Vec<OutputFile>,
        _: Vec<OutputFile>,
    ) -> Result<(), Fault> {
        self.see(Seen::Sealed { files: files.len() });
        Ok(())
    }

    async fn put_receipt(&self, _: &VehicleId, receipt: SignedReceipt) -> Result<(), Fault> {
        let fault = self.script.lock().unwrap().receipt_faults.pop_front();
        self.see(Seen::Receipt(receipt));
        fault.map_or(Ok(()), Err)
    }

    async fn enrol(&self, request: EnrolmentRequest) -> Result<Issued, Fault> {
        self.see(Seen::Enrol(request.clone()));
        if let Some(fault) = self.script.lock().unwrap().enrol_fault.clone() {
            return Err(fault);
        }
        let vehicle = vehicle();
        let chain_pem = self.sign(&request.csr_der, &vehicle)?;
        Ok(Issued {
            vehicle,
            chain_pem,
            ca_pem: self.ca.certificate_pem(),
        })
    }

    async fn renew(&self, vehicle: &VehicleId, csr_der: Bytes) -> Result<String, Fault> {
        self.see(Seen::Renew);
        self.sign(&csr_der, vehicle)
    }

    fn is_revoked(&self, _: &VehicleId) -> bool {
        self.script.lock().unwrap().revoked
    }
}

/// The machine's clock, whose wall can be moved.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    seconds: AtomicI64,
}

impl Moved {
    pub(crate) fn by(&self, seconds: i64) {
        self.seconds.store(seconds, Ordering::SeqCst);
    }
}

impl Clock for Moved {
    fn boottime(&self) -> Boottime {
        SystemClock.boottime()
    }

    fn wall(&self) -> Timestamp {
        let now = SystemClock.wall();
        Timestamp::from_second(now.as_second() + self.seconds.load(Ordering::SeqCst)).unwrap()
    }
}

pub(crate) struct World {
    pub(crate) adapter: Arc<Scripted>,
    pub(crate) address: SocketAddr,
    pub(crate) tls: ServerTls,
    pub(crate) clock: Arc<Moved>,
    seen: mpsc::UnboundedReceiver<Seen>,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<Result<(), ServeError>>>,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Options)) -> Self {
        let ca = Arc::new(Ca::generate(SystemClock.wall()).unwrap());
        Self::start_at(&ca, TcpListener::bind("127.0.0.1:0").await.unwrap(), change)
    }

    pub(crate) fn start_at(ca: &Arc<Ca>, listener: TcpListener, change: impl FnOnce(&mut Options)) -> Self {
        let (sender, seen) = mpsc::unbounded_channel();
        let script = Script {
            refusals: VecDeque::new(),
            ack_heartbeats: true,
            proven: true,
            ack_statuses: true,
            revoked: false,
            enrol_fault: None,
            receipt_faults: VecDeque::new(),
            // Not too short: a busy machine must not look like a dead peer.
            stops: Vec::new(),
            intervals: Intervals {
                idle: Duration::from_secs(1),
                busy: Duration::from_millis(600),
            },
            log_chunks: usize::MAX,
            stalled: false,
            files: HashMap::new(),
        };
        let adapter = Arc::new(Scripted {
            ca: Arc::clone(ca),
            script: Mutex::new(script),
            go_on: Notify::new(),
            epoch: AtomicU64::new(0),
            sessions: Mutex::new(HashMap::new()),
            seen: sender,
        });
        let clock = Arc::new(Moved::default());
        let mut options = Options::new(Arc::<Moved>::clone(&clock));
        change(&mut options);
        let address = listener.local_addr().unwrap();
        let tls = ServerTls::new(&server_identity(ca, "127.0.0.1")).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(serve(listener, tls.clone(), Arc::clone(&adapter), options, async {
            let _ = stopped.await;
        }));
        Self {
            adapter,
            address,
            tls,
            clock,
            seen,
            stop: Some(stop),
            serving: Some(serving),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(crate) fn identity(&self) -> Identity {
        identity_of(&self.adapter.ca, &self.adapter.ca, &vehicle(), 0)
    }

    pub(crate) fn config(&self, identity: Identity) -> Config {
        config(&self.url(), identity)
    }

    /// A car that is connected.
    pub(crate) async fn car(&mut self) -> Car {
        let mut car = Car::start(self.config(self.identity()));
        car.connected().await;
        self.connected().await;
        car
    }

    /// The next thing that the adapter sees and `pick` is about.
    pub(crate) async fn see<T>(&mut self, what: &str, mut pick: impl FnMut(Seen) -> Option<T>) -> T {
        let found = async {
            loop {
                if let Some(found) = pick(self.seen.recv().await.expect("the adapter lives")) {
                    return found;
                }
            }
        };
        tokio::time::timeout(LIMIT, found)
            .await
            .unwrap_or_else(|_| panic!("the adapter did not see {what}"))
    }

    pub(crate) async fn connected(&mut self) -> (u64, Hello, SessionHandle) {
        self.see("a session", |seen| match seen {
            Seen::Connected {
                epoch, hello, session, ..
            } => Some((epoch, hello, session)),
            _ => None,
        })
        .await
    }

    pub(crate) async fn disconnected(&mut self) -> (u64, Ended) {
        self.see("the end of a session", |seen| match seen {
            Seen::Disconnected { epoch, why } => Some((epoch, why)),
            _ => None,
        })
        .await
    }

    pub(crate) async fn status(&mut self) -> AttemptStatus {
        self.see("a status", |seen| match seen {
            Seen::Message {
                message: FromCar::Status(status),
            } => Some(status),
            _ => None,
        })
        .await
    }

    pub(crate) async fn heartbeat(&mut self) -> u64 {
        self.see("a heartbeat", |seen| match seen {
            Seen::Message {
                message: FromCar::Heartbeat { seq },
            } => Some(seq),
            _ => None,
        })
        .await
    }

    pub(crate) fn begin_stop(&mut self) {
        self.stop
            .take()
            .expect("stopped once")
            .send(())
            .expect("the adapter serves");
    }

    /// Waits until it has stopped serving.
    pub(crate) async fn stopped(&mut self) {
        let serving = self.serving.take().expect("stopped once");
        tokio::time::timeout(LIMIT, serving)
            .await
            .expect("the adapter stops")
            .unwrap()
            .unwrap();
    }
}

/// A car, and what its agent hears.
pub(crate) struct Car {
    pub(crate) client: Client,
    pub(crate) events: Events,
}

impl Car {
    pub(crate) fn start(config: Config) -> Self {
        Self::start_with(config, Vec::new())
    }

    pub(crate) fn start_with(config: Config, attempts: Vec<AttemptStatus>) -> Self {
        let (client, events) = Client::start(config, CarState::default(), attempts, |_| Ok(())).unwrap();
        Self { client, events }
    }

    pub(crate) async fn hear<T>(&mut self, what: &str, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let found = async {
            loop {
                if let Some(found) = pick(self.events.next().await.expect("the client lives")) {
                    return found;
                }
            }
        };
        tokio::time::timeout(LIMIT, found)
            .await
            .unwrap_or_else(|_| panic!("the car did not hear {what}"))
    }

    pub(crate) async fn connected(&mut self) -> u64 {
        self.hear("that it is connected", |event| match event {
            Event::Connected { epoch } => Some(epoch),
            _ => None,
        })
        .await
    }

    pub(crate) async fn disconnected(&mut self) -> String {
        self.hear("that it is disconnected", |event| match event {
            Event::Disconnected { why } => Some(why),
            _ => None,
        })
        .await
    }

    /// Waits until the reason why it is not connected contains `text`.
    pub(crate) async fn told(&self, text: &str) {
        let mut connection = self.client.connection();
        let told = connection.wait_for(|c| matches!(c, Connection::Disconnected { why } if why.contains(text)));
        let told = tokio::time::timeout(LIMIT, told).await.is_ok();
        assert!(
            told,
            "the car was not told '{text}' but {:?}",
            self.client.connection().borrow()
        );
    }
}

impl Drop for Car {
    fn drop(&mut self) {
        self.client.shutdown();
    }
}

pub(crate) fn config(url: &str, identity: Identity) -> Config {
    let mut config = Config::new(url, "1.2.3", "instance", identity, Arc::new(SystemClock));
    config.pace = Pace {
        first: Duration::from_millis(20),
        longest: Duration::from_millis(100),
        refused_first: Duration::from_millis(50),
        refused_longest: Duration::from_millis(200),
        patience: Duration::from_secs(10),
        settled: Duration::ZERO,
        look: Duration::from_millis(50),
        renewal_first: Duration::from_millis(20),
        renewal_longest: Duration::from_millis(100),
    };
    config
}

pub(crate) fn vehicle() -> VehicleId {
    VehicleId::from_random([5; 10])
}

/// A car's identity that `signer` signed `days_ago` days ago and that trusts `trusted`.
pub(crate) fn identity_of(signer: &Ca, trusted: &Ca, vehicle: &VehicleId, days_ago: i64) -> Identity {
    let request = new_key_and_csr(&[]).unwrap();
    let now = Timestamp::from_second(SystemClock.wall().as_second() - days_ago * DAY).unwrap();
    let chain = signer
        .sign_vehicle(&request.csr_der, vehicle, "overnight", VEHICLE_VALIDITY, now)
        .unwrap();
    Identity::from_pem(&request.key_pem, &chain, &trusted.certificate_pem()).unwrap()
}

pub(crate) fn server_identity(ca: &Ca, name: &str) -> ServerIdentity {
    let names = [name.to_owned()];
    let request = new_key_and_csr(&names).unwrap();
    let chain = ca
        .sign_server(&request.csr_der, &names, Duration::from_hours(24), SystemClock.wall())
        .unwrap();
    ServerIdentity::from_pem(&request.key_pem, &chain, &ca.certificate_pem()).unwrap()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

pub(crate) fn uid(uid: &str) -> PodUid {
    uid.parse().unwrap()
}

pub(crate) fn status(uid: &str, revision: u64) -> AttemptStatus {
    AttemptStatus {
        uid: uid.to_owned(),
        revision,
        ..AttemptStatus::default()
    }
}
