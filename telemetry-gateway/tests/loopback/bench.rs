//! A gateway of one car's fleet on a free port, authorities of its own, a played API server, and all that the gateway logs.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt as _;
use jiff::{SignedDuration, Timestamp};
use kerbside_core::clock::{Boottime, Clock};
use kerbside_link::SystemClock;
use kerbside_telemetry_gateway::car::{self, Car};
use kerbside_telemetry_gateway::cars::{Ages, Cars};
use kerbside_telemetry_gateway::config::Tls;
use kerbside_telemetry_gateway::metrics::Metrics;
use kerbside_telemetry_gateway::pseudonym::Pseudonyms;
use kerbside_telemetry_gateway::publish::{PublishError, Publisher};
use kerbside_telemetry_gateway::server::{Places, Server, listen, tls};
use kube::Client;
use kube::client::Body;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower_test::mock;

/// The fleet's one car.
pub(crate) const VIN: &str = "5YJ3E1EA7KF000001";
const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

static LOG: LazyLock<Arc<Mutex<Vec<u8>>>> = LazyLock::new(|| {
    let log = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&log);
    tracing_subscriber::fmt()
        .with_env_filter("info,kerbside_telemetry_gateway=trace,kerbside_k8s=trace")
        .with_ansi(false)
        // A time has figures like those that must not be there.
        .without_time()
        .with_writer(move || Writer(Arc::clone(&writer)))
        .init();
    log
});

struct Writer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A car's Vehicle is written once in this time.
const EVERY: Duration = Duration::from_mins(1);

/// Stands still until a test moves it on: what is published when is then no matter of how fast the test runs.
#[derive(Debug)]
struct HandClock {
    began: (Boottime, Timestamp),
    seconds: AtomicU64,
}

impl HandClock {
    fn new() -> Self {
        Self {
            began: (SystemClock.boottime(), SystemClock.wall()),
            seconds: AtomicU64::new(0),
        }
    }

    fn passed(&self) -> Duration {
        Duration::from_secs(self.seconds.load(Ordering::SeqCst))
    }
}

impl Clock for HandClock {
    fn boottime(&self) -> Boottime {
        self.began.0 + self.passed()
    }

    fn wall(&self) -> Timestamp {
        self.began.1 + SignedDuration::try_from(self.passed()).unwrap()
    }
}

/// A certificate and its key, as PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// For a car with this name.
    pub(crate) fn sign(&self, name: &str) -> Identity {
        self.issue(name, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        Identity {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A request that came to the API server.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) body: Value,
    /// As it came, head and all.
    text: String,
}

impl Sent {
    pub(crate) fn path(&self) -> &str {
        self.uri.split('?').next().unwrap()
    }
}

/// All of it.
pub(crate) struct Bench {
    cars: Arc<Cars>,
    pub(crate) publisher: Publisher,
    pub(crate) cars_authority: Authority,
    pub(crate) stop: CancellationToken,
    address: SocketAddr,
    gateways_authority: Authority,
    sent: Arc<Mutex<Vec<Sent>>>,
    fails: Arc<AtomicU16>,
    clock: Arc<HandClock>,
}

impl Bench {
    /// A car may send so many messages in a minute.
    pub(crate) async fn start(messages_per_minute: u32) -> Self {
        LazyLock::force(&LOG);
        let (cars_authority, gateways_authority) = (Authority::new("cars"), Authority::new("gateways"));
        let directory = tempfile::tempdir().unwrap();
        let tls = tls(&files(directory.path(), &cars_authority, &gateways_authority)).unwrap();
        let pseudonyms = Arc::new(Pseudonyms::new(KEY).unwrap());
        let ages = Ages {
            stale_after: Duration::from_mins(15),
            good_for: Duration::from_hours(1),
            retain_for: Duration::from_hours(72),
        };
        let cars = Arc::new(Cars::new(ages, pseudonyms.slots(EVERY)));
        let clock = Arc::new(HandClock::new());
        cars.allow(pseudonyms.of_list(VIN).unwrap(), (clock.boottime(), clock.wall()));
        let (service, handle) = mock::pair();
        let (sent, fails) = (Arc::default(), Arc::default());
        tokio::spawn(play(handle, Arc::clone(&sent), Arc::clone(&fails)));
        let names = ("depot-north".parse().unwrap(), "overnight".parse().unwrap());
        let (client, metrics) = (Client::new(service, "default"), Metrics::default());
        let publisher = Publisher::new(client, Arc::clone(&cars), clock.clone(), metrics.clone(), names, 5);
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let server = Arc::new(Server {
            cars: Arc::clone(&cars),
            pseudonyms,
            clock: clock.clone(),
            metrics,
            places: Arc::new(Places::new(256).unwrap()),
            messages_per_minute,
            idle_after: Duration::from_mins(15),
        });
        tokio::spawn(server.serve(listener, tls, stop.clone()));
        Self {
            cars,
            publisher,
            cars_authority,
            stop,
            address,
            gateways_authority,
            sent,
            fails,
            clock,
        }
    }

    /// Whatever was said is published: each car has come to another slot, and the publisher does all that there is to do.
    pub(crate) async fn publish(&self) {
        self.next_slot();
        self.look().await.unwrap();
    }

    /// Each car comes to another slot.
    pub(crate) fn next_slot(&self) {
        self.clock.seconds.fetch_add(EVERY.as_secs(), Ordering::SeqCst);
    }

    /// What there is to do now: a new Vehicle is made, and then says something.
    pub(crate) async fn look(&self) -> Result<(), PublishError> {
        self.publisher.look().await?;
        self.publisher.look().await
    }

    /// From now on these cars are the fleet's.
    pub(crate) fn allow(&self, vins: &str) {
        let allowed = Pseudonyms::new(KEY).unwrap().of_list(vins).unwrap();
        self.cars.allow(allowed, (self.clock.boottime(), self.clock.wall()));
    }

    pub(crate) async fn dial(&self, identity: &Identity) -> io::Result<Car> {
        let shown = (identity.certificate.as_str(), identity.key.as_str());
        Car::connect(self.address, &self.gateways_authority.pem, Some(shown)).await
    }

    /// Somebody who connects and says nothing.
    pub(crate) async fn silent(&self) -> tokio::net::TcpStream {
        tokio::net::TcpStream::connect(self.address).await.unwrap()
    }

    /// A car that is connected.
    pub(crate) async fn car(&self, vin: &str) -> Car {
        let mut car = self.dial(&self.cars_authority.sign(vin)).await.unwrap();
        car.upgrade().await.unwrap();
        car
    }

    /// Why somebody was not let in; None: they were.
    pub(crate) async fn refused(&self, identity: Option<&Identity>) -> Option<String> {
        let dialled = match identity {
            Some(identity) => self.dial(identity).await,
            None => Car::connect(self.address, &self.gateways_authority.pem, None).await,
        };
        // By TLS 1.3 a client hears only afterwards that its certificate is not good.
        match dialled {
            Ok(mut car) => car.upgrade().await.err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// What has come to the API server.
    pub(crate) fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap().clone()
    }

    /// From now on it answers with this code; 0 is as it should.
    pub(crate) fn fail(&self, code: u16) {
        self.fails.store(code, Ordering::SeqCst);
    }

    /// Every byte that went to the API server or into the log.
    pub(crate) fn everything_that_left(&self) -> String {
        let log = String::from_utf8_lossy(&LOG.lock().unwrap()).into_owned();
        let sent: Vec<_> = self.sent().into_iter().map(|sent| sent.text).collect();
        format!("{log}\n{}", sent.join("\n"))
    }
}

fn files(directory: &Path, cars: &Authority, gateways: &Authority) -> Tls {
    let own = gateways.issue("gateway", ExtendedKeyUsagePurpose::ServerAuth);
    let file = |name: &str, content: &str| {
        let path = directory.join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    Tls {
        certificate_file: file("tls.crt", &own.certificate),
        private_key_file: file("tls.key", &own.key),
        client_ca_file: file("cars.pem", &cars.pem),
    }
}

/// A message of a parked car, of this moment.
pub(crate) fn parked_message(vin: &str, charge: f64) -> Vec<u8> {
    car::message(vin, SystemClock.wall(), &car::parked(charge))
}

/// The API server: it takes everything, and has one Vehicle from before.
async fn play(
    mut server: mock::Handle<hyper::Request<Body>, hyper::Response<Body>>,
    sent: Arc<Mutex<Vec<Sent>>>,
    fails: Arc<AtomicU16>,
) {
    while let Some((request, reply)) = server.next_request().await {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let text = format!("{head:?}\n{}", String::from_utf8_lossy(&body));
        let (method, uri) = (head.method.to_string(), head.uri.to_string());
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let name = head.uri.path().trim_end_matches("/status").rsplit('/').next().unwrap();
        let vehicle = |name: &str, uid: &str| {
            json!({
                "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle", "metadata": {"name": name, "uid": uid},
                "spec": {"pool": "overnight", "source": "Telemetry"},
            })
        };
        let (code, answer) = match (fails.load(Ordering::SeqCst), method.as_str()) {
            (0, "GET") => (
                200,
                json!({
                    "apiVersion": "kerbside.dev/v1alpha1", "kind": "VehicleList", "metadata": {},
                    "items": [vehicle("car-zzzzzzzzzzzzzzzz", "uid-0")],
                }),
            ),
            (0, "DELETE") => (200, json!({"apiVersion": "v1", "kind": "Status", "status": "Success"})),
            (0, _) => (200, vehicle(name, "uid-1")),
            (code, _) => (
                code,
                json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "message": "not now", "reason": "x"}),
            ),
        };
        sent.lock().unwrap().push(Sent {
            method,
            uri,
            body,
            text,
        });
        let response = hyper::Response::builder().status(code);
        reply.send_response(response.body(Body::from(answer.to_string().into_bytes())).unwrap());
    }
}
