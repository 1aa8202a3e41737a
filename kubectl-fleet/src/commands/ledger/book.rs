//! Where a ledger comes from: the operator, or an export that somebody has written.

use std::collections::BTreeMap;
use std::path::Path;

use kerbside_core::ids::VehicleId;
use kube::Client;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::read;
use crate::Error;
use crate::operator_client::OperatorClient;

/// One vehicle's ledger, as the operator serves it and as it stands in an export.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct VehicleLedger {
    pub(super) vehicle: VehicleId,
    /// PEM, by the id of the key.
    pub(super) certificates: BTreeMap<String, String>,
    /// The car's half: envelopes in the order of their numbers. They are taken as they come: what is none is a finding, and no error.
    pub(super) usage: Vec<Value>,
    /// The operator's half.
    pub(super) acceptances: Vec<Value>,
}

/// The operator's answer to `/ledger`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    vehicles: Vec<VehicleId>,
    ca: String,
    operator_keys: BTreeMap<String, String>,
}

/// What `export` writes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Export {
    ca: String,
    operator_keys: BTreeMap<String, String>,
    vehicles: Vec<VehicleLedger>,
}

/// Ledgers, and what they are checked with.
pub(super) struct Book {
    /// Certificates, PEM.
    pub(super) ca: String,
    /// Whether whoever checks has brought the CA himself.
    pub(super) ca_is_known: bool,
    /// The operator's certificates, PEM, by the id of the key.
    pub(super) operator_keys: BTreeMap<String, String>,
    pub(super) vehicles: Vec<VehicleId>,
    source: Source,
}

enum Source {
    Operator(Box<OperatorClient>),
    Export(BTreeMap<VehicleId, VehicleLedger>),
}

impl Book {
    /// The ledgers that the operator serves, at `address` or by a forwarded port.
    pub(super) async fn of_operator(client: &Client, system: &str, address: Option<&str>) -> Result<Self, Error> {
        let operator = OperatorClient::connect(client, system, address).await?;
        let index: Index = operator.get_json("/ledger").await?;
        Ok(Self {
            ca: index.ca,
            ca_is_known: false,
            operator_keys: index.operator_keys,
            vehicles: index.vehicles,
            source: Source::Operator(Box::new(operator)),
        })
    }

    /// The ledgers in an export.
    pub(super) fn of_export(file: &Path) -> Result<Self, Error> {
        let export: Export = serde_json::from_str(&read(file)?).map_err(|source| Error::Unreadable {
            what: file.display().to_string(),
            source,
        })?;
        let mut ledgers = BTreeMap::new();
        for ledger in export.vehicles {
            if let Some(twice) = ledgers.insert(ledger.vehicle.clone(), ledger) {
                let message = format!("{} has the ledger of {} twice", file.display(), twice.vehicle);
                return Err(Error::Refused(message));
            }
        }
        Ok(Self {
            ca: export.ca,
            ca_is_known: false,
            operator_keys: export.operator_keys,
            vehicles: ledgers.keys().cloned().collect(),
            source: Source::Export(ledgers),
        })
    }

    /// One vehicle's ledger.
    pub(super) async fn ledger(&self, vehicle: &VehicleId) -> Result<VehicleLedger, Error> {
        let found: Option<VehicleLedger> = match &self.source {
            Source::Operator(operator) => Some(operator.get_json(&format!("/ledger/{vehicle}")).await?),
            Source::Export(ledgers) => ledgers.get(vehicle).cloned(),
        };
        let found = found.filter(|ledger| ledger.vehicle == *vehicle);
        found.ok_or_else(|| Error::Refused(format!("there is no ledger of {vehicle}")))
    }
}
