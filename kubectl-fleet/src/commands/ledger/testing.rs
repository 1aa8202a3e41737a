//! A fleet whose ledgers are in order, for tests to spoil.

use jiff::Timestamp;
use kerbside_core::attempt::{Kind, Outcome};
use kerbside_core::ids::VehicleId;
use kerbside_core::ledger::{ACCEPTANCE_TYPE, Closing, Place, Standing, Terms, Unaccepted};
use kerbside_core::receipt::{Claim, Ending, Envelope, NOTHING, PAYLOAD_TYPE, Usage, digest, pae};
use kerbside_link::identity::{Ca, Identity, Signer, VEHICLE_VALIDITY, cas_from_pem, new_key_and_csr};
use serde_json::{Value, json};

/// Years ago: what is signed then is to hold now.
fn then() -> Timestamp {
    Timestamp::from_second(1_600_000_000).unwrap()
}

fn terms() -> Terms {
    Terms {
        pool: "overnight".to_owned(),
        currency: "EUR".to_owned(),
        per_cpu_hour: "0.02".parse().unwrap(),
        per_kwh: "0".parse().unwrap(),
        unaccepted: Unaccepted::EnergyOnly,
    }
}

/// A CA, and the operator's key.
pub(super) struct Cluster {
    pub(super) ca: Ca,
    pub(super) operator: Signer<String>,
}

impl Cluster {
    pub(super) fn new() -> Self {
        let ca = Ca::generate(then()).unwrap();
        let made = new_key_and_csr(&[]).unwrap();
        let chain = ca.sign_ledger(&made.csr_der, then()).unwrap();
        Self {
            operator: Signer::named(&made.key_pem, &chain, Ca::LEDGER).unwrap(),
            ca,
        }
    }

    /// An export of these vehicles' ledgers.
    pub(super) fn export(&self, vehicles: &[Value]) -> Value {
        let (keyid, chain) = (self.operator.key_id(), self.operator.chain_pem());
        json!({
            "ca": self.ca.certificate_pem(), "cas": {}, "casAreKnown": true, "operatorKeys": { keyid: chain },
            "vehicles": vehicles,
        })
    }

    /// The CA's certificate by its fingerprint, as the store has it.
    pub(super) fn cas(&self) -> Value {
        json!(cas_from_pem(&self.ca.certificate_pem()).unwrap())
    }

    /// A vehicle's ledger: so many attempts of an hour each, all accepted; one for each of the operator's and the car's chains.
    pub(super) fn ledger(&self, n: u8, attempts: u64) -> Value {
        let id = VehicleId::from_random([n; 10]);
        let car = self.car(&id);
        let (mut usages, mut acceptances) = (Vec::new(), Vec::new());
        let (mut before, mut accepted_before) = (NOTHING.to_owned(), NOTHING.to_owned());
        for sequence in 1..=attempts {
            let usage = Usage {
                sequence,
                previous: before,
                vehicle: id.clone(),
                claim: claim(&format!("a-{n}-{sequence}")),
            };
            let payload = serde_json::to_vec(&usage).unwrap();
            before = digest(&payload);
            usages.push(envelope(PAYLOAD_TYPE, &payload, &car));
            let place = Place {
                sequence,
                previous: &accepted_before,
            };
            let acceptance = closing(&usage).accept(&usage, &before, place).unwrap();
            let payload = serde_json::to_vec(&acceptance).unwrap();
            acceptances.push(envelope(ACCEPTANCE_TYPE, &payload, &self.operator));
            accepted_before = digest(&payload);
        }
        let (keyid, chain) = (car.key_id(), car.chain_pem());
        json!({ "vehicle": id, "certificates": { keyid: chain }, "usage": usages, "acceptances": acceptances })
    }

    fn car(&self, id: &VehicleId) -> Signer {
        let made = new_key_and_csr(&[]).unwrap();
        let chain = self
            .ca
            .sign_vehicle(&made.csr_der, id, "overnight", VEHICLE_VALIDITY, then())
            .unwrap();
        let identity = Identity::from_pem(&made.key_pem, &chain, &self.ca.certificate_pem()).unwrap();
        Signer::new(&identity).unwrap()
    }
}

fn claim(attempt: &str) -> Claim {
    Claim {
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
    }
}

fn closing(usage: &Usage) -> Closing {
    Closing {
        job_uid: "job-1".parse().unwrap(),
        index: 0,
        pod_uid: usage.claim.pod_uid.clone(),
        vehicle: usage.vehicle.clone(),
        standing: Standing::Accepted,
        accepted_uid: Some(usage.claim.pod_uid.clone()),
        terms: [("overnight".to_owned(), terms())].into(),
        running_ms: 3_601_000,
        milli_cpu: 1_000,
    }
}

/// Signed by whoever it is.
pub(super) fn envelope<O>(payload_type: &str, payload: &[u8], signer: &Signer<O>) -> Value {
    let signature = signer.sign(&pae(payload_type, payload)).unwrap();
    json!(Envelope::of(payload_type, payload, signer.key_id(), &signature))
}
