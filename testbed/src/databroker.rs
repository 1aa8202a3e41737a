//! A databroker for one car, as a process of its own, and who tells it what the car's signals are.
//!
//! Used by tests of cars that listen to a broker as real ones do, and by the benchmark of a driver's return. A broker can be stopped, killed and
//! started again; a provider can die, which a broker does not tell anybody. `played` has the brokers of cars that play scenarios.

pub mod played;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hyper_util::rt::TokioIo;
use kerbside_databroker::proto::val_client::ValClient;
use kerbside_databroker::proto::value::TypedValue;
use kerbside_databroker::proto::{Datapoint, PublishValueRequest, SignalId, Value, signal_id};
use kerbside_databroker::vss::{self, Release};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::layout::Layout;
use crate::process::{self, Program, Record};
use crate::{ports, tools};

const DEADLINE: Duration = Duration::from_secs(20);
/// Between two times that a provider says everything: as a car's network does while it is awake, only slower.
const AGAIN: Duration = Duration::from_millis(300);
/// The longest path of a Unix socket that Linux knows.
const SOCKET_PATH: usize = 107;
/// A broker that stands still answers nobody.
const ANSWER: Duration = Duration::from_secs(2);

/// By which way a car reaches its broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A Unix socket.
    Unix,
    /// An address, without TLS.
    Plain,
    /// An address, by TLS, and with a token.
    Tls,
}

/// A broker that runs.
#[derive(Debug, Clone)]
pub struct Databroker {
    layout: Layout,
    process: String,
    dir: PathBuf,
    way: Way,
    release: Release,
    /// Where it listens besides its Unix socket.
    pub port: u16,
}

impl Databroker {
    /// Starts the broker of the car of this name.
    pub async fn start(layout: &Layout, name: &str, release: Release, way: Way) -> Result<Self> {
        let process = format!("databroker-{name}");
        let dir = layout.dir(&format!("databrokers/{name}"))?;
        let broker = Self {
            layout: layout.clone(),
            process: process.clone(),
            port: ports::free()?,
            dir,
            way,
            release,
        };
        socket_fits(&broker.socket())?;
        let text = |path: &Path| path.display().to_string();
        let mut program = Program::new(&process, tools::own("kerbside-databroker")?)
            .args(["--unix-socket".to_owned(), text(&broker.socket())])
            .args(["--address".to_owned(), format!("127.0.0.1:{}", broker.port)])
            .args(["--vss", number(release)]);
        if way == Way::Tls {
            let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]);
            let made = made.context("failed to make a certificate")?;
            std::fs::write(broker.certificate(), made.cert.pem()).context("failed to write a certificate")?;
            let key = broker.dir.join("key.pem");
            std::fs::write(&key, made.signing_key.serialize_pem()).context("failed to write a key")?;
            broker.let_in(&[])?;
            program = program
                .args(["--tls-cert".to_owned(), text(&broker.certificate())])
                .args(["--tls-private-key".to_owned(), text(&key)])
                .args(["--tokens".to_owned(), text(&broker.dir.join("tokens"))]);
        }
        process::start(layout, &program)?;
        broker.listens().await?;
        Ok(broker)
    }

    async fn listens(&self) -> Result<()> {
        let record = process::find(&self.layout, &self.process).context("it was started")?;
        process::ready(&record, DEADLINE, || async {
            tokio::net::TcpStream::connect(("127.0.0.1", self.port))
                .await
                .context("nobody listens")?;
            UnixStream::connect(self.socket()).await.context("nobody listens")?;
            Ok(())
        })
        .await
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("b.sock")
    }

    /// The certificate by which it shows who it is, where it does.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("certificate.pem")
    }

    /// What the car shows: the file that its `tokenFile` names.
    pub fn token(&self) -> PathBuf {
        self.dir.join("token")
    }

    /// Takes these tokens from now on, and that of its provider.
    pub fn let_in(&self, tokens: &[String]) -> Result<()> {
        let all = [&[providers_token()], tokens].concat().join("\n");
        std::fs::write(self.dir.join("tokens"), all).context("failed to write the tokens that a broker takes")
    }

    /// The section `signals` of the `car.yaml` of its car.
    pub fn signals(&self) -> serde_json::Value {
        match self.way {
            Way::Unix => json!({"broker": format!("unix:{}", self.socket().display())}),
            Way::Plain => json!({"broker": format!("http://127.0.0.1:{}", self.port)}),
            Way::Tls => json!({
                "broker": format!("https://127.0.0.1:{}", self.port),
                "caFile": self.certificate(),
                "tokenFile": self.token(),
            }),
        }
    }

    /// Somebody who says from now on that the car is parked; done when all was said once.
    pub async fn provide(&self) -> Result<Provider> {
        let values = vss::parked(self.release)
            .into_iter()
            .map(|(path, _, value)| (path, value));
        let values = Arc::new(Mutex::new(values.collect::<BTreeMap<_, _>>()));
        let says = Says {
            socket: self.socket(),
            token: (self.way == Way::Tls).then(providers_token),
        };
        let mut client = says.client().await?;
        says.all(&mut client, &values).await?;
        let again = tokio::spawn(says.clone().for_ever(Arc::clone(&values)));
        Ok(Provider { says, values, again })
    }

    /// It stands still: connections stay, and nothing comes any more.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// It goes on.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.process()?.signal(signal);
        Ok(())
    }

    /// The process that it is now.
    pub fn process(&self) -> Result<Record> {
        process::find(&self.layout, &self.process).context("a databroker was started")
    }

    /// It is killed.
    pub async fn crash(&self) -> Result<()> {
        process::crash(&self.layout, &self.process).await.map(drop)
    }

    /// It is started again: it knows of no value, and gives its signals other numbers.
    pub async fn restart(&self) -> Result<()> {
        process::restart(&self.layout, &self.process)?;
        self.listens().await
    }

    /// Ends it.
    pub async fn end(&self) -> Result<()> {
        let record = self.process()?;
        // A stopped process does not hear that it should end.
        record.signal(Signal::SIGCONT);
        process::end(&self.layout, &[record], Duration::from_secs(5)).await
    }
}

/// Linux knows no longer paths of sockets.
pub fn socket_fits(path: &Path) -> Result<()> {
    ensure!(
        path.as_os_str().len() <= SOCKET_PATH,
        "the path {} is too long for a socket; put the testbed into a directory with a shorter name",
        path.display()
    );
    Ok(())
}

/// As the broker's program is told.
fn number(release: Release) -> &'static str {
    match release {
        Release::V4 => "4",
        Release::V5 => "5",
        Release::V6 => "6",
    }
}

fn providers_token() -> String {
    kerbside_databroker::unsigned("provider", None, "provide")
}

/// Somebody who tells a broker what a car's signals are; when it is dropped it is dead, and nobody is told.
#[derive(Debug)]
pub struct Provider {
    says: Says,
    values: Arc<Mutex<BTreeMap<String, TypedValue>>>,
    again: JoinHandle<()>,
}

impl Provider {
    /// Says something new; done when the broker has it.
    pub async fn set(&self, path: &str, value: TypedValue) -> Result<()> {
        let mut client = self.says.client().await?;
        // Held until it is said: what was said before must not be said again after it.
        let mut values = self.values.lock().await;
        values.insert(path.to_owned(), value.clone());
        self.says.one(&mut client, path, Some(value)).await
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.again.abort();
    }
}

#[derive(Debug, Clone)]
struct Says {
    socket: PathBuf,
    token: Option<String>,
}

impl Says {
    async fn client(&self) -> Result<ValClient<Channel>> {
        let socket = self.socket.clone();
        let connect = service_fn(move |_| {
            let socket = socket.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        // The address is only said to the other side.
        let endpoint = Endpoint::from_static("http://databroker");
        let channel = timeout(ANSWER, endpoint.connect_with_connector(connect))
            .await
            .context("the databroker does not answer")?;
        Ok(ValClient::new(channel.context("the databroker is not reached")?))
    }

    async fn for_ever(self, values: Arc<Mutex<BTreeMap<String, TypedValue>>>) {
        loop {
            // A broker that was away is told as soon as it is back.
            if let Ok(mut client) = self.client().await {
                while self.all(&mut client, &values).await.is_ok() {
                    sleep(AGAIN).await;
                }
            }
            sleep(AGAIN).await;
        }
    }

    async fn all(&self, client: &mut ValClient<Channel>, values: &Mutex<BTreeMap<String, TypedValue>>) -> Result<()> {
        let paths: Vec<_> = values.lock().await.keys().cloned().collect();
        for path in paths {
            let values = values.lock().await;
            if let Some(value) = values.get(&path) {
                self.one(client, &path, Some(value.clone())).await?;
            }
        }
        Ok(())
    }

    /// Says a value; without one, takes back what was said.
    async fn one(&self, client: &mut ValClient<Channel>, path: &str, value: Option<TypedValue>) -> Result<()> {
        let mut request = Request::new(PublishValueRequest {
            signal_id: Some(SignalId {
                signal: Some(signal_id::Signal::Path(path.to_owned())),
            }),
            data_point: Some(Datapoint {
                timestamp: None,
                value: value.map(|value| Value {
                    typed_value: Some(value),
                }),
            }),
        });
        if let Some(token) = &self.token {
            let header = format!("Bearer {token}").parse().context("a token is text")?;
            request.metadata_mut().insert("authorization", header);
        }
        match timeout(ANSWER, client.publish_value(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => bail!("the databroker refuses {path}: {status}"),
            Err(_) => bail!("the databroker does not answer"),
        }
    }
}
