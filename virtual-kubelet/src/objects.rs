//! The objects that Pods on this replica's vehicles name, each read by one reader however many Pods name it.
//!
//! By GET when it is first named and then once a minute, never by list or watch: the adapter sees of a namespace what its Pods on vehicles
//! use, and nothing else. What must never happen: two readers of one object, or a reader that nobody needs any more.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kerbside_link::proto;
use kube::api::{Api, ListParams};
use kube::{Client, Error};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::context::PATIENCE;
use crate::references::Kind;

/// Between two looks at an object: 60 s, 10 s more or less.
const PERIOD: (Duration, Duration) = (Duration::from_secs(50), Duration::from_secs(70));
/// After a failure that says nothing of the object.
const RETRY: Duration = Duration::from_secs(2);

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// An object as it was read last; `Err`: why it is missing, in the kubelet's words.
pub(crate) type Read = Arc<Result<BTreeMap<String, bytes::Bytes>, String>>;

/// Every reader of this replica.
#[derive(Clone)]
pub(crate) struct Objects {
    client: Client,
    readers: Arc<Mutex<HashMap<Key, Weak<Reader>>>>,
}

/// One reader. It reads as long as somebody holds it.
#[derive(Debug)]
pub(crate) struct Reader {
    newest: watch::Receiver<Option<Read>>,
    task: AbortHandle,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reader {
    /// The object as it is read, `None` before it was read for the first time.
    pub(crate) fn newest(&self) -> watch::Receiver<Option<Read>> {
        self.newest.clone()
    }
}

impl Objects {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            readers: Arc::default(),
        }
    }

    /// The reader of an object, which begins now if there is none.
    pub(crate) fn reader(&self, key: Key) -> Arc<Reader> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reader) = readers.get(&key).and_then(Weak::upgrade) {
            return reader;
        }
        readers.retain(|_, reader| reader.strong_count() > 0);
        let (tell, newest) = watch::channel(None);
        let task = tokio::spawn(read(self.client.clone(), key.clone(), tell)).abort_handle();
        let reader = Arc::new(Reader { newest, task });
        readers.insert(key, Arc::downgrade(&reader));
        reader
    }
}

async fn read(client: Client, key: Key, tell: watch::Sender<Option<Read>>) {
    loop {
        let got = timeout(PATIENCE, get(&client, &key)).await;
        match got.unwrap_or_else(|_| Err("the API server did not answer in time".to_owned())) {
            Ok(read) => {
                tell.send_if_modified(|known| {
                    let changed = known.as_deref() != Some(&read);
                    if changed {
                        *known = Some(Arc::new(read));
                    }
                    changed
                });
                sleep(rand::random_range(PERIOD.0..PERIOD.1)).await;
            }
            // What was read before still holds.
            Err(error) => {
                tracing::warn!(kind = ?key.kind, namespace = key.namespace, name = key.name, error, "an object is not read");
                sleep(RETRY).await;
            }
        }
    }
}

type Data = BTreeMap<String, bytes::Bytes>;

/// `Ok(Err)`: it is not there, or may not be read. `Err`: nobody knows.
async fn get(client: &Client, key: &Key) -> Result<Result<Data, String>, String> {
    let Key { kind, namespace, name } = key;
    let got = match kind {
        Kind::ConfigMap => Api::<ConfigMap>::namespaced(client.clone(), namespace)
            .get(name)
            .await
            .map(|map| {
                let text = map
                    .data
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(key, value)| (key, value.into_bytes().into()));
                let binary = map
                    .binary_data
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(key, value)| (key, value.0.into()));
                text.chain(binary).collect()
            }),
        Kind::Secret => Api::<Secret>::namespaced(client.clone(), namespace)
            .get(name)
            .await
            .map(|secret| {
                let data = secret.data.unwrap_or_default();
                data.into_iter().map(|(key, value)| (key, value.0.into())).collect()
            }),
        Kind::Services => {
            let api = Api::<Service>::namespaced(client.clone(), namespace);
            let services = api.list(&ListParams::default()).await;
            services.map(|services| {
                let variables = variables(&services.items);
                variables
                    .into_iter()
                    .map(|(name, value)| (name, value.into_bytes().into()))
                    .collect()
            })
        }
    };
    let word = match kind {
        Kind::ConfigMap => "configmap",
        Kind::Secret => "secret",
        Kind::Services => "services",
    };
    match got {
        Ok(data) => Ok(Ok(data)),
        Err(Error::Api(status)) if status.code == 404 => Ok(Err(format!("{word} \"{name}\" not found"))),
        Err(Error::Api(status)) if status.code == 403 => Ok(Err(format!(
            "{word} \"{name}\" may not be read for Pods on vehicles: add the namespace {namespace} to the chart's workloadNamespaces"
        ))),
        Err(error) => Err(error.to_string()),
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
        Kind::Services => proto::ObjectKind::Unspecified,
    };
    let (data, missing) = match &**read {
        Ok(data) => (data.clone(), String::new()),
        Err(missing) => (BTreeMap::new(), missing.clone()),
    };
    proto::Object {
        kind: kind.into(),
        name: name.to_owned(),
        data,
        missing,
    }
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
