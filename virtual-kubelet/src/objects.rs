//! The objects that Pods on this replica's vehicles name, each read by one reader however many Pods name it.
//!
//! By GET when it is first named and then once a minute, never by list or watch: the adapter sees of a namespace what its Pods on vehicles
//! use, and nothing else. What must never happen: two readers of one object, or a reader that nobody needs any more.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kerbside_link::proto;
use kube::api::{Api, ListParams};
use kube::{Client, Error};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::context::PATIENCE;
use crate::gate::{Gate, Lane};
use crate::references::Kind;

/// Between two looks at an object: 60 s, 10 s more or less.
const PERIOD: (Duration, Duration) = (Duration::from_secs(50), Duration::from_secs(70));
/// After a failure that says nothing of the object.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(10));

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// An object as it was read last; `Err`: why it is missing.
pub(crate) type Read = Arc<Result<Data, Missing>>;

/// The values of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Data {
    pub(crate) text: BTreeMap<String, Bytes>,
    /// Of a ConfigMap: values that are files and no variables.
    pub(crate) binary: BTreeMap<String, Bytes>,
}

/// Why an object is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    /// In the kubelet's words.
    pub(crate) why: String,
    /// It does not exist.
    pub(crate) absent: bool,
}

/// What a reader has to show: which asking it answers, and the object.
type Newest = (u64, Option<Read>);

/// Every reader of this replica.
#[derive(Clone)]
pub(crate) struct Objects {
    client: Client,
    gate: Arc<Gate>,
    readers: Arc<Mutex<HashMap<Key, Weak<Reader>>>>,
}

/// One reader. It reads as long as somebody holds it.
#[derive(Debug)]
struct Reader {
    newest: watch::Receiver<Newest>,
    asked: Arc<Asked>,
    task: AbortHandle,
}

/// How often somebody new has asked.
#[derive(Debug, Default)]
struct Asked {
    count: AtomicU64,
    news: Notify,
}

impl Asked {
    /// The number of this asking: an answer with it, or a higher one, was read after it.
    fn ask(&self) -> u64 {
        let number = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        self.news.notify_one();
        number
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An object that somebody has asked for, as it is read from then on. Its reader lives as long as this.
pub(crate) struct Reading {
    newest: watch::Receiver<Newest>,
    /// Of the asking: what was read a minute before it may be older than the Pod.
    number: u64,
    _reader: Arc<dyn Send + Sync>,
}

impl Reading {
    /// Waits until it was read after it was asked for.
    pub(crate) async fn settled(&mut self) {
        let number = self.number;
        // An error would mean that the reader ends, which is held here.
        let _ = self
            .newest
            .wait_for(|(read, newest)| *read >= number && newest.is_some())
            .await;
    }

    /// As it was read last.
    pub(crate) fn now(&mut self) -> Option<Read> {
        self.newest.borrow_and_update().1.clone()
    }

    /// What a test says that was read.
    #[cfg(test)]
    pub(crate) fn of(data: Data) -> Self {
        Self {
            newest: watch::channel((1, Some(Arc::new(Ok(data))))).1,
            number: 1,
            _reader: Arc::new(()),
        }
    }
}

/// Waits for news of any of them; for ever, if there is none.
pub(crate) async fn any_news<'a>(readings: impl Iterator<Item = &'a mut Reading>) {
    let changes: Vec<_> = readings.map(|reading| Box::pin(reading.newest.changed())).collect();
    if changes.is_empty() {
        std::future::pending::<()>().await;
    }
    // An error would mean that a reader ends, which is held here.
    let _ = futures::future::select_all(changes).await;
}

impl Objects {
    pub(crate) fn new(client: Client, gate: Arc<Gate>) -> Self {
        Self {
            client,
            gate,
            readers: Arc::default(),
        }
    }

    /// Asks for an object: its reader reads it now.
    pub(crate) fn ask(&self, key: Key) -> Reading {
        let (reader, number) = self.reader(key);
        Reading {
            newest: reader.newest.clone(),
            number,
            _reader: reader,
        }
    }

    /// The reader of an object, and the number of this asking.
    fn reader(&self, key: Key) -> (Arc<Reader>, u64) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reader) = readers.get(&key).and_then(Weak::upgrade) {
            let number = reader.asked.ask();
            return (reader, number);
        }
        readers.retain(|_, reader| reader.strong_count() > 0);
        let (tell, newest) = watch::channel((0, None));
        // The first asking is what begins it.
        let asked = Arc::new(Asked::default());
        let number = 1;
        asked.count.store(number, Ordering::SeqCst);
        let (client, gate) = (self.client.clone(), Arc::clone(&self.gate));
        let task = tokio::spawn(read(client, gate, key.clone(), Arc::clone(&asked), tell)).abort_handle();
        let reader = Arc::new(Reader { newest, asked, task });
        readers.insert(key, Arc::downgrade(&reader));
        (reader, number)
    }
}

async fn read(client: Client, gate: Arc<Gate>, key: Key, asked: Arc<Asked>, tell: watch::Sender<Newest>) {
    loop {
        let number = asked.count.load(Ordering::SeqCst);
        let got = {
            let _place = gate.enter(Lane::Object).await;
            timeout(PATIENCE, get(&client, &key)).await
        };
        let got = got.unwrap_or_else(|_| Err("the API server did not answer in time".to_owned()));
        let (answer, wait) = match got {
            Ok(read) => (Some(read), rand::random_range(PERIOD.0..PERIOD.1)),
            Err(error) => {
                tracing::warn!(kind = ?key.kind, namespace = key.namespace, name = key.name, error, "an object is not read");
                // What was read before still holds; with nothing, whoever waits hears why.
                let why = format!("{} \"{}\" cannot be read: {error}", key.kind.word(), key.name);
                let missing = tell.borrow().1.is_none().then_some(Err(Missing { why, absent: false }));
                (missing, rand::random_range(RETRY.0..RETRY.1))
            }
        };
        tell.send_if_modified(|(known, newest)| {
            let changed = answer.is_some() && newest.as_deref() != answer.as_ref();
            if changed {
                *newest = answer.map(Arc::new);
            }
            std::mem::replace(known, number) != number || changed
        });
        tokio::select! {
            () = sleep(wait) => {}
            () = asked.news.notified() => {}
        }
    }
}

/// `Ok(Err)`: it is not there, or may not be read. `Err`: nobody knows.
async fn get(client: &Client, key: &Key) -> Result<Result<Data, Missing>, String> {
    let Key { kind, namespace, name } = key;
    let got = match kind {
        Kind::ConfigMap => {
            let map = Api::<ConfigMap>::namespaced(client.clone(), namespace).get(name).await;
            map.map(|map| Data {
                text: of_strings(map.data.unwrap_or_default()),
                binary: of_bytes(map.binary_data.unwrap_or_default()),
            })
        }
        Kind::Secret => {
            let secret = Api::<Secret>::namespaced(client.clone(), namespace).get(name).await;
            secret.map(|secret| Data {
                text: of_bytes(secret.data.unwrap_or_default()),
                binary: BTreeMap::new(),
            })
        }
        Kind::Service => {
            let service = Api::<Service>::namespaced(client.clone(), namespace).get(name).await;
            service.map(|service| of_services(&[service]))
        }
        Kind::Services => {
            let api = Api::<Service>::namespaced(client.clone(), namespace);
            let services = api.list(&ListParams::default()).await;
            services.map(|services| of_services(&services.items))
        }
    };
    let missing = |why: String, absent: bool| Ok(Err(Missing { why, absent }));
    let word = kind.word();
    match got {
        Ok(data) => Ok(Ok(data)),
        Err(Error::Api(status)) if status.code == 404 => missing(format!("{word} \"{name}\" not found"), true),
        Err(Error::Api(status)) if status.code == 403 => missing(
            format!(
                "{word} \"{name}\" may not be read for Pods on vehicles: add the namespace {namespace} to the chart's \
                 workloadNamespaces"
            ),
            false,
        ),
        Err(error) => Err(error.to_string()),
    }
}

fn of_strings(values: BTreeMap<String, String>) -> BTreeMap<String, Bytes> {
    values
        .into_iter()
        .map(|(key, value)| (key, value.into_bytes().into()))
        .collect()
}

fn of_bytes(values: BTreeMap<String, ByteString>) -> BTreeMap<String, Bytes> {
    values.into_iter().map(|(key, value)| (key, value.0.into())).collect()
}

fn of_services(services: &[Service]) -> Data {
    Data {
        text: of_strings(variables(services)),
        binary: BTreeMap::new(),
    }
}

/// The variables that tell a container of Services, as the kubelet makes them.
fn variables(services: &[Service]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let Some(address) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
            continue;
        };
        let Some(ports) = spec.ports.as_ref().filter(|ports| !ports.is_empty()) else {
            continue;
        };
        let upper = |name: &str| name.replace('-', "_").to_uppercase();
        let name = upper(service.metadata.name.as_deref().unwrap_or_default());
        all.insert(format!("{name}_SERVICE_HOST"), address.to_owned());
        all.insert(format!("{name}_SERVICE_PORT"), ports[0].port.to_string());
        for (index, port) in ports.iter().enumerate() {
            if let Some(named) = port.name.as_deref().filter(|named| !named.is_empty()) {
                all.insert(format!("{name}_SERVICE_PORT_{}", upper(named)), port.port.to_string());
            }
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let host = if address.contains(':') {
                format!("[{address}]")
            } else {
                address.to_owned()
            };
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if index == 0 {
                all.insert(format!("{name}_PORT"), url.clone());
            }
            let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
            all.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
            all.insert(format!("{prefix}_PORT"), port.port.to_string());
            all.insert(format!("{prefix}_ADDR"), address.to_owned());
            all.insert(prefix, url);
        }
    }
    all
}

/// As a vehicle is told of it.
pub(crate) fn told(kind: Kind, name: &str, read: &Read) -> proto::Object {
    let kind = match kind {
        Kind::ConfigMap => proto::ObjectKind::ConfigMap,
        Kind::Secret => proto::ObjectKind::Secret,
        Kind::Service | Kind::Services => proto::ObjectKind::Unspecified,
    };
    let mut object = proto::Object {
        kind: kind.into(),
        name: name.to_owned(),
        ..proto::Object::default()
    };
    match &**read {
        Ok(data) => {
            object.data.clone_from(&data.text);
            object.binary_data.clone_from(&data.binary);
        }
        Err(missing) => {
            object.missing.clone_from(&missing.why);
            object.absent = missing.absent;
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn services_become_the_kubelets_variables() {
        let service = |name: &str, ip: &str| {
            serde_json::from_value::<Service>(json!({
                "metadata": {"name": name},
                "spec": {"clusterIP": ip, "ports": [{"name": "web", "port": 80, "protocol": "TCP"}, {"name": "dns-udp", "port": 53, "protocol": "UDP"}]},
            }))
            .unwrap()
        };
        let all = variables(&[service("red-db", "192.0.2.9"), service("headless", "None")]);
        let lines: Vec<_> = all.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            lines,
            [
                "RED_DB_PORT=tcp://192.0.2.9:80",
                "RED_DB_PORT_53_UDP=udp://192.0.2.9:53",
                "RED_DB_PORT_53_UDP_ADDR=192.0.2.9",
                "RED_DB_PORT_53_UDP_PORT=53",
                "RED_DB_PORT_53_UDP_PROTO=udp",
                "RED_DB_PORT_80_TCP=tcp://192.0.2.9:80",
                "RED_DB_PORT_80_TCP_ADDR=192.0.2.9",
                "RED_DB_PORT_80_TCP_PORT=80",
                "RED_DB_PORT_80_TCP_PROTO=tcp",
                "RED_DB_SERVICE_HOST=192.0.2.9",
                "RED_DB_SERVICE_PORT=80",
                "RED_DB_SERVICE_PORT_DNS_UDP=53",
                "RED_DB_SERVICE_PORT_WEB=80",
            ]
        );
    }
}
