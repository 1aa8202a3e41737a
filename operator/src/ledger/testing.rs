//! What the ledger's tests share: a CA, cars that sign, and a store with what the adapter and the reconciler leave in it.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use kerbside_core::attempt::{Kind, Outcome};
use kerbside_core::ids::VehicleId;
use kerbside_core::ledger::{Acceptance, Closing, Standing, Terms, Unaccepted};
use kerbside_core::names::store as path;
use kerbside_core::receipt::{Claim, Ending, Envelope, NOTHING, PAYLOAD_TYPE, Usage, digest, pae};
use kerbside_k8s::store::Store;
use kerbside_link::identity::{Ca, Identity, Signer, VEHICLE_VALIDITY, new_key_and_csr};
use object_store::ObjectStore;
use serde_json::json;

use crate::testing::HandClock;

/// When everything here was made.
pub(super) fn start() -> Timestamp {
    Timestamp::from_second(HandClock::START).unwrap()
}

pub(super) fn store(inner: &Arc<impl ObjectStore>) -> Store {
    Store::over(Arc::clone(inner) as Arc<dyn ObjectStore>)
}

/// What is paid: 0.02 EUR for an hour of a core, for results that count.
pub(super) fn terms() -> Terms {
    Terms {
        pool: "overnight".to_owned(),
        currency: "EUR".to_owned(),
        per_cpu_hour: "0.02".parse().unwrap(),
        per_kwh: "0".parse().unwrap(),
        unaccepted: Unaccepted::EnergyOnly,
    }
}

/// A car that signs its receipts in a chain.
pub(super) struct Car {
    pub(super) id: VehicleId,
    pub(super) signer: Signer,
    sequence: u64,
    previous: String,
}

impl Car {
    pub(super) fn new(ca: &Ca, n: u8) -> Self {
        let id = VehicleId::from_random([n; 10]);
        let made = new_key_and_csr(&[]).unwrap();
        let chain = ca
            .sign_vehicle(&made.csr_der, &id, "overnight", VEHICLE_VALIDITY, start())
            .unwrap();
        let identity = Identity::from_pem(&made.key_pem, &chain, &ca.certificate_pem()).unwrap();
        Self {
            id,
            signer: Signer::new(&identity).unwrap(),
            sequence: 0,
            previous: NOTHING.to_owned(),
        }
    }

    /// The next receipt, of an attempt that took an hour of processor time; its line.
    pub(super) fn sign(&mut self, attempt: &str) -> Bytes {
        self.sequence += 1;
        let usage = Usage {
            sequence: self.sequence,
            previous: std::mem::take(&mut self.previous),
            vehicle: self.id.clone(),
            claim: Claim {
                pod_uid: attempt.parse().unwrap(),
                images: Vec::new(),
                class: "inference".to_owned(),
                terms_sha256: Some(terms().digest()),
                consent: None,
                started_at_ms: 1_000,
                ended_at_ms: 3_601_000,
                cpu_ms: 3_600_000,
                frozen_ms: None,
                output_bytes: 0,
                energy: None,
                outcome: Ending::from(&Outcome::new(Kind::Succeeded, "", "")),
            },
        };
        let payload = serde_json::to_vec(&usage).unwrap();
        self.previous = digest(&payload);
        let signature = self.signer.sign(&pae(PAYLOAD_TYPE, &payload)).unwrap();
        let envelope = Envelope::new(&payload, self.signer.key_id(), &signature);
        serde_json::to_vec(&envelope).unwrap().into()
    }

    /// Signs for an attempt, and leaves the receipt, the key and the pointer in the store as the adapter does.
    pub(super) async fn deliver(&mut self, store: &Store, attempt: &str) {
        let line = self.sign(attempt);
        let key = path::ledger_key(self.id.as_str(), self.signer.key_id());
        let chain = Bytes::from(self.signer.chain_pem().to_owned());
        store.put_if_absent(&key, chain).await.unwrap();
        let usage = path::ledger_usage(self.id.as_str(), self.sequence);
        store.put_if_absent(&usage, line).await.unwrap();
        self.point(store, attempt).await;
    }

    /// Leaves the pointer to the newest receipt.
    pub(super) async fn point(&self, store: &Store, attempt: &str) {
        let pointer = json!({
            "vehicle": self.id, "podUid": attempt, "sequence": self.sequence, "storedAt": start(),
        });
        let place = path::ledger_pointer(self.id.as_str(), attempt);
        store.put(&place, Bytes::from(pointer.to_string())).await.unwrap();
    }

    /// What the reconciler knows of an attempt on this car whose result counts.
    pub(super) fn closing(&self, attempt: &str) -> Closing {
        Closing {
            job_uid: "job-uid".parse().unwrap(),
            index: 0,
            pod_uid: attempt.parse().unwrap(),
            vehicle: self.id.clone(),
            standing: Standing::Accepted,
            accepted_uid: Some(attempt.parse().unwrap()),
            terms: [("overnight".to_owned(), terms())].into(),
            running_ms: 3_601_000,
            milli_cpu: 1_000,
        }
    }

    /// Leaves it in the store.
    pub(super) async fn close(&self, store: &Store, attempt: &str) {
        let closing = serde_json::to_vec(&self.closing(attempt)).unwrap();
        let place = path::ledger_closing(attempt);
        store.put_if_absent(&place, closing.into()).await.unwrap();
    }

    /// The lines of the car's half, or of the operator's, one after the other.
    pub(super) async fn half(store: &Store, prefix: &str) -> Vec<u8> {
        let mut lines = Vec::new();
        for place in store.list(prefix).await.unwrap() {
            lines.extend(store.get(&place).await.unwrap());
            lines.push(b'\n');
        }
        lines
    }

    /// The acceptances of this car's receipts, in their order.
    pub(super) async fn acceptances(&self, store: &Store) -> Vec<Acceptance> {
        let lines = Self::half(store, &path::ledger_acceptances(self.id.as_str())).await;
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let payload = Envelope::parse(line).unwrap().payload().unwrap();
                serde_json::from_slice(&payload).unwrap()
            })
            .collect()
    }
}
