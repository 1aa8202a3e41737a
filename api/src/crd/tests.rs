//! Tests of the definitions as a whole, without an API server. `validator` stands in for the one; the cluster tests
//! then ask the real one.

mod examples;
mod rules;
mod shape;
mod validator;

use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

use super::*;

static ALL: LazyLock<Vec<CustomResourceDefinition>> = LazyLock::new(all);

/// The definition of a kind as it is installed.
fn definition(kind: &str) -> &'static CustomResourceDefinition {
    ALL.iter().find(|crd| crd.spec.names.kind == kind).unwrap()
}

/// The schema of a kind as it is installed.
fn schema_of(kind: &str) -> Value {
    let definition = definition(kind);
    serde_json::to_value(
        definition.spec.versions[0]
            .schema
            .as_ref()
            .unwrap()
            .open_api_v3_schema
            .as_ref()
            .unwrap(),
    )
    .unwrap()
}

/// The example of a kind as the file has it.
fn example(kind: &str) -> Value {
    let file = format!("{}/testdata/{}.yaml", env!("CARGO_MANIFEST_DIR"), kind.to_lowercase());
    serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

const KINDS: [&str; 3] = ["FleetJob", "VehiclePool", "Vehicle"];
