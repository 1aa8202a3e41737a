//! The CustomResourceDefinitions as they are installed, and the files in `crds/`.
//!
//! Called by the `crds` program, by the testbed and by tests. What `Kind::crd()` of kube gives is the raw form; only
//! what comes from here is to be installed.

use std::path::{Path, PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::schema;
use crate::v1alpha1::{FleetJob, Vehicle, VehiclePool};

const HEADER: &str = "# Generated from api/ by 'make crds'. Do not edit.\n";

/// Generated files could not be written or compared.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// A definition does not become YAML.
    #[error("failed to write {name} as YAML")]
    Yaml {
        /// The definition's name.
        name: String,
        /// What the YAML library says.
        #[source]
        source: serde_saphyr::ser::Error,
    },
    /// A file cannot be written.
    #[error("failed to write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what the types say.
    #[error("{} is not what api/ generates; run 'make crds' and commit the result", path.display())]
    Differs {
        /// The file.
        path: PathBuf,
    },
}

/// All definitions, ready to be installed.
pub fn all() -> Vec<CustomResourceDefinition> {
    [FleetJob::crd(), VehiclePool::crd(), Vehicle::crd()]
        .into_iter()
        .map(finished)
        .collect()
}

/// The files of the folder `crds/`: name and content.
pub fn files() -> Result<Vec<(String, String)>, CrdError> {
    all().iter().map(|crd| Ok((file_name(crd), yaml(crd)?))).collect()
}

/// Writes every file into `dir`.
pub fn write(dir: &Path) -> Result<(), CrdError> {
    for (name, content) in files()? {
        let path = dir.join(name);
        std::fs::write(&path, content).map_err(|source| CrdError::Write { path, source })?;
    }
    Ok(())
}

/// Compares every file with what is in `dir`.
pub fn check(dir: &Path) -> Result<(), CrdError> {
    for (name, content) in files()? {
        let path = dir.join(name);
        match std::fs::read_to_string(&path) {
            Ok(found) if found == content => {}
            Ok(_) => return Err(CrdError::Differs { path }),
            Err(source) => return Err(CrdError::Read { path, source }),
        }
    }
    Ok(())
}

fn finished(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let Some(props) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) else {
            continue;
        };
        let mut value = serde_json::to_value(&*props).expect("a schema is JSON");
        schema::finish(&mut value);
        *props = serde_json::from_value(value).expect("finishing a schema leaves a schema");
    }
    crd
}

fn file_name(crd: &CustomResourceDefinition) -> String {
    format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural)
}

fn json(crd: &CustomResourceDefinition) -> Value {
    serde_json::to_value(crd).expect("a definition is JSON")
}

fn yaml(crd: &CustomResourceDefinition) -> Result<String, CrdError> {
    let mut value = json(crd);
    whole_numbers(&mut value);
    let body = serde_saphyr::to_string(&value).map_err(|source| CrdError::Yaml {
        name: file_name(crd),
        source,
    })?;
    Ok(format!("{HEADER}{body}"))
}

/// Bounds are floats in the typed form; a file for people says `1`, not `1.0`.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(whole) = number.as_f64().filter(|_| number.is_f64()).and_then(schema::integer) {
                *value = whole.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
