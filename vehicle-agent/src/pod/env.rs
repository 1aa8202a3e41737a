//! A container's environment, and the `$(NAME)` in its command and arguments, by the kubelet's rules.
//!
//! Read with the Pod; resolved at each start of the container, with what the Pod refers to as it is then.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, ObjectFieldSelector, Pod, ResourceFieldSelector};
use kerbside_core::quantity::{Quantity, Resources};

use super::given::{Given, Kind};
use super::{Engine, amount};

/// The environment as the Pod says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    from: Vec<From>,
    variables: Vec<(String, Value)>,
    /// It has the variables of Services.
    services: bool,
}

/// All of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct From {
    prefix: String,
    kind: Kind,
    name: String,
    optional: bool,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// What the Pod says, with `$(NAME)` in it.
    Text(String),
    /// A field of the Pod.
    Field(String),
    /// An amount of a container's resources.
    Amount(String),
    /// A value of an object.
    Key {
        /// Of which kind.
        kind: Kind,
        /// Its name.
        name: String,
        /// Which value.
        key: String,
        /// It may be missing.
        optional: bool,
    },
}

/// What a value is resolved with.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// The Pod.
    pub pod: &'a Pod,
    /// What it refers to.
    pub given: &'a Given,
    /// Its own address in the car.
    pub address: Option<IpAddr>,
}

/// The fields that a container may be told.
const FIELDS: [&str; 11] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "metadata.labels",
    "metadata.annotations",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.podIP",
    "status.podIPs",
    "status.hostIP",
    "status.hostIPs",
];

impl Environment {
    /// Reads it. `Err`: which variable cannot be given, and why. `allocatable` is what a resource is that has no limit.
    pub(super) fn read(
        container: &Container,
        pod: &Pod,
        engine: Engine,
        allocatable: &Resources,
    ) -> Result<Self, String> {
        let from = container.env_from.iter().flatten().map(|source| {
            let prefix = source.prefix.clone().unwrap_or_default();
            let (kind, name, optional) = match (&source.config_map_ref, &source.secret_ref) {
                (Some(reference), _) => (Kind::ConfigMap, reference.name.clone(), reference.optional),
                (None, Some(reference)) => (Kind::Secret, reference.name.clone(), reference.optional),
                (None, None) => return Err("envFrom has neither configMapRef nor secretRef".to_owned()),
            };
            Ok(From {
                prefix,
                kind,
                name,
                optional: optional == Some(true),
            })
        });
        let variables = container.env.iter().flatten().map(|variable| {
            let value = match &variable.value_from {
                None => Value::Text(variable.value.clone().unwrap_or_default()),
                Some(source) => {
                    value(source, container, pod, allocatable).map_err(|m| format!("env {}: {m}", variable.name))?
                }
            };
            Ok((variable.name.clone(), value))
        });
        let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links);
        Ok(Self {
            from: from.collect::<Result<_, String>>()?,
            variables: variables.collect::<Result<_, String>>()?,
            // A WebAssembly program opens no connection.
            services: engine == Engine::Container && links != Some(false),
        })
    }

    /// Whether it needs what the cluster gives beside the Pod.
    pub(super) fn refers(&self) -> bool {
        !self.from.is_empty()
            || self.services
            || self.variables.iter().any(|(_, value)| match value {
                Value::Key { .. } => true,
                Value::Field(path) => path.starts_with("status.hostIP"),
                Value::Text(_) | Value::Amount(_) => false,
            })
    }

    /// The variables in the order of the Pod, those of Services and of whole objects before them. `Err`: what is missing.
    pub fn resolve(&self, around: Around<'_>) -> Result<Vec<(String, String)>, String> {
        let mut all = Ordered::default();
        if self.services {
            for (name, value) in &around.given.services {
                all.set(name, value.clone());
            }
        }
        for from in &self.from {
            let data = around.given.object(from.kind, &from.name, from.optional)?;
            for (key, value) in data.into_iter().flat_map(|data| &data.text) {
                all.set(&format!("{}{key}", from.prefix), text(value));
            }
        }
        for (name, value) in &self.variables {
            let value = match value {
                Value::Text(value) => Some(expand(value, &all.known)),
                other => other.resolve(around)?.map(|bytes| text(&bytes)),
            };
            if let Some(value) = value {
                all.set(name, value);
            }
        }
        Ok(all.list())
    }
}

/// Variables in the order in which they were first set.
#[derive(Default)]
struct Ordered {
    order: Vec<String>,
    known: BTreeMap<String, String>,
}

impl Ordered {
    fn set(&mut self, name: &str, value: String) {
        if self.known.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }

    fn list(mut self) -> Vec<(String, String)> {
        let mut value = |name: &String| self.known.remove(name).unwrap_or_default();
        self.order.iter().map(|name| (name.clone(), value(name))).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Value {
    /// Its bytes; `None`: it may be missing, and is.
    pub(super) fn resolve(&self, around: Around<'_>) -> Result<Option<Vec<u8>>, String> {
        match self {
            Self::Text(text) | Self::Amount(text) => Ok(Some(text.clone().into_bytes())),
            Self::Field(path) => Ok(Some(field(path, around).into_bytes())),
            Self::Key {
                kind,
                name,
                key,
                optional,
            } => Ok(around.given.key(*kind, name, key, *optional)?.map(<[u8]>::to_vec)),
        }
    }
}

fn value(source: &EnvVarSource, container: &Container, pod: &Pod, allocatable: &Resources) -> Result<Value, String> {
    if let Some(field) = &source.field_ref {
        return of_field(field);
    }
    if let Some(resource) = &source.resource_field_ref {
        return of_resource(resource, container, pod, allocatable);
    }
    if let Some(key) = &source.config_map_key_ref {
        return Ok(Value::Key {
            kind: Kind::ConfigMap,
            name: key.name.clone(),
            key: key.key.clone(),
            optional: key.optional == Some(true),
        });
    }
    match &source.secret_key_ref {
        Some(key) => Ok(Value::Key {
            kind: Kind::Secret,
            name: key.name.clone(),
            key: key.key.clone(),
            optional: key.optional == Some(true),
        }),
        None => Err("vehicles know fieldRef, resourceFieldRef, configMapKeyRef and secretKeyRef".to_owned()),
    }
}

/// A field of the Pod, if a vehicle knows it.
pub(super) fn of_field(selector: &ObjectFieldSelector) -> Result<Value, String> {
    let path = selector.field_path.as_str();
    let known = match subscript(path) {
        Some((map, _)) => matches!(map, "metadata.labels" | "metadata.annotations"),
        None => FIELDS.contains(&path),
    };
    if known {
        Ok(Value::Field(path.to_owned()))
    } else {
        Err(format!("fieldRef {path} is not known in a vehicle"))
    }
}

/// An amount of a container's resources, in units of the divisor, rounded up. What has no limit has what the car gives.
pub(super) fn of_resource(
    selector: &ResourceFieldSelector,
    own: &Container,
    pod: &Pod,
    allocatable: &Resources,
) -> Result<Value, String> {
    let spec = pod.spec.as_ref();
    let named = selector
        .container_name
        .as_deref()
        .filter(|name| !name.is_empty() && *name != own.name);
    let container = match named {
        None => own,
        Some(name) => spec
            .iter()
            .flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
            .find(|container| container.name == name)
            .ok_or_else(|| format!("resourceFieldRef: no container {name}"))?,
    };
    let unknown = || format!("resourceFieldRef {} is not known in a vehicle", selector.resource);
    let (which, resource) = selector.resource.split_once('.').ok_or_else(unknown)?;
    let resources = container.resources.as_ref();
    let (limits, requests) = (
        resources.and_then(|r| r.limits.as_ref()),
        resources.and_then(|r| r.requests.as_ref()),
    );
    let quantity = match which {
        "limits" => amount(limits, resource)?.unwrap_or_else(|| allocatable.get(resource)),
        "requests" => amount(requests, resource)?.unwrap_or_default(),
        _ => return Err(unknown()),
    };
    let divisor = selector
        .divisor
        .as_ref()
        .map(|q| q.0.parse::<Quantity>().map_err(|e| e.to_string()));
    let divisor = divisor.transpose()?.unwrap_or_default();
    let number = if resource == "cpu" {
        let by = if divisor.millis() > 0 { divisor.millis() } else { 1000 };
        div_ceil(quantity.millis(), by)
    } else {
        div_ceil(quantity.units(), divisor.units().max(1))
    };
    Ok(Value::Amount(number.to_string()))
}

fn div_ceil(amount: i64, by: i64) -> i64 {
    amount / by + i64::from(amount % by > 0)
}

fn field(path: &str, around: Around<'_>) -> String {
    let (metadata, spec) = (&around.pod.metadata, around.pod.spec.as_ref());
    let (labels, annotations) = match &around.given.metadata {
        Some(now) => (Some(&now.labels), Some(&now.annotations)),
        None => (metadata.labels.as_ref(), metadata.annotations.as_ref()),
    };
    if let Some((map, key)) = subscript(path) {
        let map = if map == "metadata.labels" { labels } else { annotations };
        return map.and_then(|map| map.get(key)).cloned().unwrap_or_default();
    }
    let lines = |map: Option<&BTreeMap<String, String>>| {
        let mut text = String::new();
        for (key, value) in map.into_iter().flatten() {
            writeln!(text, "{key}={value:?}").expect("writing to a String cannot fail");
        }
        text.trim_end().to_owned()
    };
    match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(labels),
        "metadata.annotations" => lines(annotations),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_default(),
        "status.podIP" | "status.podIPs" => around.address.map(|address| address.to_string()).unwrap_or_default(),
        // The only ones that are left: others are refused when the Pod is read.
        _ => around.given.host_ip.clone(),
    }
}

/// `metadata.labels['key']` → (`metadata.labels`, `key`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.split_once('[')?;
    let key = key.strip_suffix(']')?;
    let key = key.strip_prefix('\'').and_then(|key| key.strip_suffix('\''))?;
    Some((map, key))
}

/// Replaces `$(NAME)`. A name that is not known stays as it is; `$$` is `$`.
pub fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|after| after.split_once(')')) {
            match known.get(name) {
                Some(value) => out.push_str(value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use kerbside_link::proto::{ObjectKind, Provide};
    use rstest::rstest;
    use serde_json::{Value as Json, json};

    use super::super::given::tests::{absent, object};
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"team": "vision"}, "annotations": {"a": "b\"c"}},
            "spec": {"nodeName": "car-x", "containers": [{"name": "other", "resources": {"limits": {"memory": "64Mi"}}}]},
        }))
        .unwrap()
    }

    #[expect(clippy::unwrap_in_result, reason = "the container is written here")]
    fn read(container: Json) -> Result<Environment, String> {
        let mut container = container;
        container["name"] = "c".into();
        let container = serde_json::from_value(container).unwrap();
        let allocatable = Resources([("cpu".to_owned(), Quantity::from_units(3))].into());
        Environment::read(&container, &pod(), Engine::Container, &allocatable)
    }

    fn resolve(container: Json, given: &Given) -> Result<Vec<String>, String> {
        let around = Around {
            pod: &pod(),
            given,
            address: "10.98.0.2".parse().ok(),
        };
        let resolved = read(container)?.resolve(around)?;
        Ok(resolved.iter().map(|(name, value)| format!("{name}={value}")).collect())
    }

    #[test]
    fn environment_keeps_its_order_and_later_values_see_earlier_ones() {
        let container = json!({"env": [
            {"name": "Z", "value": "1"},
            {"name": "A", "value": "$(Z)$(LATER)"},
            {"name": "LATER", "value": "2"},
            {"name": "Z", "value": "3"},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "TEAM", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['team']"}}},
            {"name": "NONE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['none']"}}},
            {"name": "ALL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
        ]});
        let given = Given::from(Provide {
            host_ip: "192.0.2.1".to_owned(),
            ..Provide::default()
        });
        let expected = [
            "Z=3",
            "A=1$(LATER)",
            "LATER=2",
            "NAME=p",
            "TEAM=vision",
            "NONE=",
            "ALL=a=\"b\\\"c\"",
            "NODE=car-x",
            "IP=10.98.0.2",
            "HOST=192.0.2.1",
        ];
        assert_eq!(resolve(container, &given).unwrap(), expected);
    }

    #[test]
    fn labels_are_those_that_the_pod_has_now() {
        let labels = json!({"env": [
            {"name": "TEAM", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['team']"}}},
            {"name": "ALL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels"}}},
        ]});
        let given = Given::from(Provide {
            metadata: Some(kerbside_link::proto::Metadata {
                labels: [("team".to_owned(), "maps".to_owned()), ("b".to_owned(), "1".to_owned())].into(),
                ..kerbside_link::proto::Metadata::default()
            }),
            ..Provide::default()
        });
        let expected = ["TEAM=maps", "ALL=b=\"1\"\nteam=\"maps\""];
        assert_eq!(resolve(labels, &given).unwrap(), expected);
    }

    #[test]
    fn variables_come_from_objects_and_services_and_the_containers_own_win() {
        let given = Given::from(Provide {
            objects: vec![
                object(ObjectKind::ConfigMap, "c", &[("A", "1"), ("B", "2")]),
                object(ObjectKind::Secret, "s", &[("k", "hush")]),
                absent(ObjectKind::ConfigMap, "none"),
            ],
            services: [("DB_SERVICE_HOST".to_owned(), "192.0.2.9".to_owned())].into(),
            ..Provide::default()
        });
        let container = json!({
            "envFrom": [{"configMapRef": {"name": "c"}, "prefix": "P_"}, {"configMapRef": {"name": "none", "optional": true}}],
            "env": [
                {"name": "P_B", "value": "own"},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "none", "optional": true}}},
                {"name": "ALL", "value": "$(P_A)$(P_B)$(S)$(DB_SERVICE_HOST)"},
            ],
        });
        let expected = [
            "DB_SERVICE_HOST=192.0.2.9",
            "P_A=1",
            "P_B=own",
            "S=hush",
            "ALL=1ownhush192.0.2.9",
        ];
        assert_eq!(resolve(container, &given).unwrap(), expected);
    }

    #[rstest]
    #[case("limits.cpu", "0", "2")]
    #[case("limits.cpu", "1m", "1500")]
    #[case("requests.memory", "1Mi", "34")]
    #[case("limits.memory", "0", "0")]
    #[case("requests.cpu", "1", "0")]
    fn amounts_are_in_units_of_the_divisor_rounded_up(
        #[case] resource: &str,
        #[case] divisor: &str,
        #[case] value: &str,
    ) {
        let container = json!({
            "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "34000Ki"}},
            "env": [{"name": "X", "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}}],
        });
        assert_eq!(resolve(container, &Given::default()).unwrap(), [format!("X={value}")]);
    }

    #[test]
    fn amount_of_another_container_and_of_the_car() {
        let container = json!({"env": [
            {"name": "OTHER", "valueFrom": {"resourceFieldRef": {"containerName": "other", "resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "CAR", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        ]});
        assert_eq!(resolve(container, &Given::default()).unwrap(), ["OTHER=64", "CAR=3"]);
    }

    #[rstest]
    #[case(json!({"env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}}]}), "env X: fieldRef status.phase")]
    #[case(json!({"env": [{"name": "X", "valueFrom": {"resourceFieldRef": {"resource": "cpu"}}}]}), "env X: resourceFieldRef cpu")]
    #[case(json!({"env": [{"name": "X", "valueFrom": {}}]}), "env X")]
    #[case(json!({"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}), "secret \"s\" not found")]
    #[case(json!({"envFrom": [{"configMapRef": {"name": "c"}}]}), "configmap \"c\" not found")]
    fn variable_that_cannot_be_given_is_named(#[case] container: Json, #[case] says: &str) {
        let message = resolve(container, &Given::default()).unwrap_err();
        assert!(message.contains(says), "{message}");
    }
}
