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
    /// Older operators say nothing of them.
    #[serde(default)]
    cas: BTreeMap<String, String>,
    /// That the operator has had them. Older ones do not say so: they hand on whatever lies in the store.
    #[serde(default)]
    cas_are_known: bool,
    operator_keys: BTreeMap<String, String>,
}

/// What `export` writes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Export {
    ca: String,
    #[serde(default)]
    cas: BTreeMap<String, String>,
    /// What the operator said of them; older exports do not say.
    #[serde(default)]
    cas_are_known: bool,
    operator_keys: BTreeMap<String, String>,
    vehicles: Vec<VehicleLedger>,
}

/// Ledgers, and what they are checked with.
pub(super) struct Book {
    /// Certificates, PEM: the cluster's present CA, or those that whoever checks has brought himself.
    pub(super) ca: String,
    /// Every CA that the cluster had, PEM by fingerprint. Empty where somebody has brought his own: no other is believed then.
    pub(super) cas: BTreeMap<String, String>,
    /// Whether the operator says that it has had these; if not, anybody who may write to the store may have left them there.
    pub(super) cas_are_known: bool,
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
            cas: index.cas,
            cas_are_known: index.cas_are_known,
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
            cas: export.cas,
            cas_are_known: export.cas_are_known,
            ca_is_known: false,
            operator_keys: export.operator_keys,
            vehicles: ledgers.keys().cloned().collect(),
            source: Source::Export(ledgers),
        })
    }

    /// Whether it is a file that somebody has handed on.
    pub(super) fn is_export(&self) -> bool {
        matches!(self.source, Source::Export(_))
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
