//! The names that more than one part writes or reads: labels, annotations, taints, conditions, reasons, paths in the store.
//!
//! Every part takes them from here, so that the same word stands in CRD, code, metric, log and doc. Nothing else belongs here:
//! a name that only one file uses stays in that file.

/// API group of everything Kerbside defines.
pub const GROUP: &str = "kerbside.dev";

/// What a vehicle's Node is called in `metadata.labels.type`; other controllers use it to leave such Nodes alone.
pub const NODE_TYPE: &str = "virtual-kubelet";

/// The RuntimeClass, and its handler, of Pods that are WebAssembly programs.
pub const RUNTIME_CLASS_WASM: &str = "kerbside-wasm";
/// The RuntimeClass of OCI containers in a car; also what a Pod without one means.
pub const RUNTIME_CLASS_CONTAINER: &str = "kerbside-container";

/// Labels.
pub mod label {
    /// On Nodes and Vehicles: the pool. The value is a VehiclePool's name.
    pub const POOL: &str = "kerbside.dev/pool";
    /// On Nodes: `true` where the car runs WebAssembly.
    pub const RUNTIME_WASM: &str = "kerbside.dev/runtime-wasm";
    /// On Nodes: `true` where the car runs OCI containers.
    pub const RUNTIME_CONTAINER: &str = "kerbside.dev/runtime-container";
    /// On Nodes: the minutes for which the car stays with 90 % confidence, one of 0, 15, 60, 120, 240, 480.
    pub const FREE_FOR: &str = "kerbside.dev/free-for";
    /// Prefix of a Node's labels, one per job class that its owner consented to; the value is `true`.
    pub const CLASS_PREFIX: &str = "class.kerbside.dev/";
    /// On plain Pods: their job class.
    pub const CLASS: &str = "kerbside.dev/class";
    /// On Pods: the FleetJob they belong to.
    pub const JOB_NAME: &str = "kerbside.dev/job-name";
    /// On Pods: the UID of the FleetJob.
    pub const JOB_UID: &str = "kerbside.dev/job-uid";
    /// On Pods: the completion index, as in batch/v1.
    pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
    /// On Vehicles without an agent: the telemetry gateway that made them and may delete them.
    pub const TELEMETRY_GATEWAY: &str = "kerbside.dev/telemetry-gateway";
    /// On Secrets: marks an enrolment token; the value is `true`.
    pub const ENROLMENT_TOKEN: &str = "kerbside.dev/enrolment-token";
}

/// Annotations.
pub mod annotation {
    /// On Pods: the completion index, as in batch/v1.
    pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
    /// On Pods of a FleetJob: failures of the program that this index had before this attempt.
    pub const FAILURES: &str = "kerbside.dev/index-failures";
    /// On Pods of a FleetJob: disruptions that this index had before this attempt.
    pub const DISRUPTIONS: &str = "kerbside.dev/index-disruptions";
    /// On Pods of a FleetJob: refusals that this index had before this attempt.
    pub const REFUSALS: &str = "kerbside.dev/index-refusals";
    /// On Pods of a FleetJob: which attempt of its index this is, from 0. The Pod's name follows from it.
    pub const ORDINAL: &str = "kerbside.dev/index-attempt";
    /// On Pods of a FleetJob: the UIDs, with commas between, of earlier attempts of this index that were still there when this one
    /// was made and whose ends are in its counts.
    pub const COUNTED: &str = "kerbside.dev/index-counted";
    /// On Pods of a FleetJob: the vehicles, with commas between, that this attempt must not go to, since they refused the job.
    pub const AVOID: &str = "kerbside.dev/avoid";
    /// On Pods of a FleetJob: why the operator deletes this attempt, written before it does; its end is then not counted.
    pub const DELETED_FOR: &str = "kerbside.dev/deleted-for";
    /// On Pods: the job class, for an attempt of a FleetJob.
    pub const CLASS: &str = "kerbside.dev/class";
    /// On Pods: a duration; unheard for that long, the car stops the attempt by itself.
    pub const RUN_UNHEARD_FOR: &str = "kerbside.dev/run-unheard-for";
    /// On Pods: `WhenFenced` for one that may run once only at a time, `WhenSuspected` for one that may run twice. Where it is not
    /// said, the kind of the controller decides.
    pub const REPLACE: &str = "kerbside.dev/replace";
    /// On Pods of a FleetJob: the terms that an attempt runs on, by pool, as JSON. Written when the Pod is made; none where no pool of the
    /// job pays.
    pub const TERMS: &str = "kerbside.dev/terms";
    /// On Pods: the directory in the first container whose files are the attempt's output.
    pub const OUTPUT_PATH: &str = "kerbside.dev/output-path";
    /// On Pods: the most bytes that the output may have.
    pub const OUTPUT_MAX_BYTES: &str = "kerbside.dev/output-max-bytes";
}

/// Finalizers.
pub mod finalizer {
    /// On Pods of a FleetJob: held until the attempt's end is in the job's ledger.
    pub const TRACKING: &str = "kerbside.dev/job-tracking";
}

/// Taints on vehicles' Nodes, all with effect `NoSchedule`. Only the adapter writes them.
pub mod taint {
    /// Always there: only what asks for vehicles comes to vehicles.
    pub const VEHICLE: &str = "kerbside.dev/vehicle";
    /// The owner's, the maker's or the pool's terms say no.
    pub const INELIGIBLE: &str = "kerbside.dev/ineligible";
    /// Somebody is at the car.
    pub const PAUSED: &str = "kerbside.dev/paused";
    /// Unheard, not yet given up.
    pub const SUSPECT: &str = "kerbside.dev/suspect";
    /// The car is leaving.
    pub const LEAVING: &str = "kerbside.dev/leaving";
    /// The car runs WebAssembly only.
    pub const WASM_ONLY: &str = "kerbside.dev/wasm-only";
    /// All of the above: the keys that the adapter owns in `spec.taints`.
    pub const ALL: [&str; 6] = [VEHICLE, INELIGIBLE, PAUSED, SUSPECT, LEAVING, WASM_ONLY];
}

/// Condition types.
pub mod condition {
    /// On Nodes: the car is parked and every term says yes.
    pub const ELIGIBLE: &str = "kerbside.dev/Eligible";
    /// On Nodes: the car is heard.
    pub const HEARD: &str = "kerbside.dev/Heard";
    /// On Vehicles: nothing is wrong with the car's own state. Only there once something was.
    pub const SOUND: &str = "kerbside.dev/Sound";
    /// On Pods: the car that runs the attempt is not heard. Only the adapter writes it.
    pub const UNHEARD: &str = "kerbside.dev/Unheard";
    /// On Pods: a program of the attempt runs or has run. Its transition is when the adapter first heard so. Only the adapter writes it.
    pub const STARTED: &str = "kerbside.dev/Started";
    /// On Pods: no process of the attempt is alive. Only the adapter writes it.
    pub const STOPPED: &str = "kerbside.dev/Stopped";
    /// On Pods: a car declined the Pod before starting it.
    pub const REFUSED: &str = "kerbside.dev/Refused";
    /// On VehiclePools: so many of its vehicles fell silent together that their attempts are held. Only the operator writes it.
    pub const LOSS_HELD: &str = "LossHeld";
    /// On Pods, Kubernetes' own: something other than the program ends the Pod.
    pub const DISRUPTION_TARGET: &str = "DisruptionTarget";
}

/// Reasons that appear in Pod status, conditions and Events, in more than one part.
pub mod reason {
    /// Stopped: the car said so.
    pub const REPORTED: &str = "Reported";
    /// Stopped: the car's fence and a margin have passed.
    pub const FENCED: &str = "Fenced";
    /// The car left with notice.
    pub const VEHICLE_DEPARTED: &str = "VehicleDeparted";
    /// The car is leaving.
    pub const VEHICLE_LEAVING: &str = "VehicleLeaving";
    /// The car was not heard until its fence.
    pub const VEHICLE_LOST: &str = "VehicleLost";
    /// Somebody is at the car.
    pub const VEHICLE_PAUSED: &str = "VehiclePaused";
    /// The car is not heard.
    pub const VEHICLE_UNHEARD: &str = "VehicleUnheard";
    /// The car is not heard, and neither are so many others of its pool that its attempts are held.
    pub const LOSS_HELD: &str = "LossHeld";
    /// Refusal: there is no valid consent of the owner.
    pub const OWNER_CONSENT_MISSING: &str = "OwnerConsentMissing";
    /// Refusal: the owner does not accept this job class.
    pub const CLASS_NOT_ACCEPTED: &str = "ClassNotAccepted";
    /// Refusal: the car is not parked, or cannot tell.
    pub const NOT_PARKED: &str = "NotParked";
    /// Refusal: the owner has paused the car.
    pub const OWNER_PAUSED: &str = "OwnerPaused";
    /// Refusal: a term of the owner about energy is not met, or the car saves power.
    pub const ENERGY_TERMS: &str = "EnergyTerms";
    /// Refusal: a term of the owner about the network is not met: that it costs by the byte, or the data of a month.
    pub const NETWORK_TERMS: &str = "NetworkTerms";
    /// Refusal: a term of the owner's own, an expression, is not met.
    pub const OWNER_TERMS: &str = "OwnerTerms";
    /// Refusal: after the cost of energy the work pays less than the owner wants; the message has the numbers.
    pub const PAY_BELOW_FLOOR: &str = "PayBelowFloor";
    /// Refusal: the pool pays in another currency than the owner reckons in.
    pub const CURRENCY_DIFFERS: &str = "CurrencyDiffers";
    /// Refusal: the owner wants images signed, and one of the Pod's is not. The kubelet's word for a runtime that wants so.
    pub const SIGNATURE_VALIDATION_FAILED: &str = "SignatureValidationFailed";
    /// Refusal: the car has no runtime for the Pod.
    pub const RUNTIME_MISSING: &str = "RuntimeMissing";
    /// Refusal: the Pod asks for something that no car gives.
    pub const NOT_SUPPORTED: &str = "NotSupported";
    /// Not sound: what the car has kept of its owner's word is cut off, changed, or set back to an old state.
    pub const STATE_NOT_TRUSTED: &str = "StateNotTrusted";
    /// Not sound: the car's clock was set, or shows an earlier time than it has shown before.
    pub const CLOCK_NOT_TRUSTED: &str = "ClockNotTrusted";
    /// Not sound: for a while nothing in the car judged it, so all work stood still.
    pub const AGENT_STALLED: &str = "AgentStalled";
    /// Not sound, and a refusal: the cluster does not take the car's receipts.
    pub const RECEIPTS_REFUSED: &str = "ReceiptsRefused";
    /// Failure: the output exceeds the job's `maxBytes`.
    pub const OUTPUT_TOO_LARGE: &str = "OutputTooLarge";
}

/// Paths in the result store.
pub mod store {
    /// Where the adapter writes what one attempt produced: `<ns>/attempts/<podUID>`.
    pub fn attempt(namespace: &str, uid: &str) -> String {
        format!("{namespace}/attempts/{uid}")
    }

    /// One file of an attempt, named by its content: `<ns>/attempts/<podUID>/<sha256>`.
    pub fn attempt_file(namespace: &str, uid: &str, sha256: &str) -> String {
        format!("{namespace}/attempts/{uid}/{sha256}")
    }

    /// The list of an attempt's files, written last: `<ns>/attempts/<podUID>/manifest.json`.
    pub fn attempt_manifest(namespace: &str, uid: &str) -> String {
        format!("{namespace}/attempts/{uid}/manifest.json")
    }

    /// The accepted result of one index, written once: `<ns>/results/<jobUID>/<index>.json`.
    pub fn result(namespace: &str, job_uid: &str, index: u32) -> String {
        format!("{namespace}/results/{job_uid}/{index}.json")
    }

    /// Below this, by vehicle, is what cars and the operator have signed. No namespace has such a name, so nobody's results are in the way.
    pub const LEDGER: &str = "_ledger/vehicles";
    /// Below this are the keys that the operator has signed with.
    pub const LEDGER_OPERATOR_KEYS: &str = "_ledger/keys";
    /// Below this are the certificates of all CAs that the link has had.
    pub const LEDGER_CAS: &str = "_ledger/cas";
    /// Below this, by vehicle and Pod UID, is what of the ledger waits for the operator.
    pub const LEDGER_POINTERS: &str = "_ledger/unsettled";

    /// One receipt, as its car signed it, written once: `_ledger/vehicles/<vehicle>/usage/<sequence>.json`. Numbers have 20 digits, so that names
    /// are in their order.
    pub fn ledger_usage(vehicle: &str, sequence: u64) -> String {
        format!("{LEDGER}/{vehicle}/usage/{sequence:020}.json")
    }

    /// Below this are a vehicle's receipts.
    pub fn ledger_usages(vehicle: &str) -> String {
        format!("{LEDGER}/{vehicle}/usage")
    }

    /// The certificates of one key that a car has signed with: `_ledger/vehicles/<vehicle>/keys/<keyid>.pem`.
    pub fn ledger_key(vehicle: &str, keyid: &str) -> String {
        format!("{LEDGER}/{vehicle}/keys/{keyid}.pem")
    }

    /// Below this are a vehicle's keys.
    pub fn ledger_keys(vehicle: &str) -> String {
        format!("{LEDGER}/{vehicle}/keys")
    }

    /// One acceptance, as the operator signed it, written once: `_ledger/vehicles/<vehicle>/acceptance/<sequence>.json`.
    pub fn ledger_acceptance(vehicle: &str, sequence: u64) -> String {
        format!("{LEDGER}/{vehicle}/acceptance/{sequence:020}.json")
    }

    /// Below this are the acceptances of a vehicle's receipts.
    pub fn ledger_acceptances(vehicle: &str) -> String {
        format!("{LEDGER}/{vehicle}/acceptance")
    }

    /// What the operator knew of an attempt when it closed it, written once: `_ledger/closings/<podUID>.json`.
    pub fn ledger_closing(pod_uid: &str) -> String {
        format!("_ledger/closings/{pod_uid}.json")
    }

    /// Says that there is a receipt of an attempt and no acceptance yet: `_ledger/unsettled/<vehicle>/<podUID>.json`. By vehicle, so that no car
    /// can lead the operator away from another's receipt.
    pub fn ledger_pointer(vehicle: &str, pod_uid: &str) -> String {
        format!("{LEDGER_POINTERS}/{vehicle}/{pod_uid}.json")
    }

    /// The certificate of a CA, written once: `_ledger/cas/<sha256>.pem`, by the SHA-256 of its DER.
    pub fn ledger_ca(sha256: &str) -> String {
        format!("{LEDGER_CAS}/{sha256}.pem")
    }

    /// The public key of one key of the operator: `_ledger/keys/<keyid>.pem`.
    pub fn ledger_operator_key(keyid: &str) -> String {
        format!("{LEDGER_OPERATOR_KEYS}/{keyid}.pem")
    }
}

#[cfg(test)]
mod tests {
    use super::store;

    #[test]
    fn paths_of_the_ledger_are_as_they_are_documented() {
        let usage = store::ledger_usage("car-a", 12);
        assert_eq!(usage, "_ledger/vehicles/car-a/usage/00000000000000000012.json");
        let last = store::ledger_usage("car-a", u64::MAX);
        assert_eq!(last, "_ledger/vehicles/car-a/usage/18446744073709551615.json");
        let acceptance = store::ledger_acceptance("car-a", 1);
        assert_eq!(
            acceptance,
            "_ledger/vehicles/car-a/acceptance/00000000000000000001.json"
        );
        let key = store::ledger_key("car-a", "9b1c");
        assert_eq!(key, "_ledger/vehicles/car-a/keys/9b1c.pem");
        assert_eq!(store::ledger_closing("u-1"), "_ledger/closings/u-1.json");
        assert_eq!(
            store::ledger_pointer("car-1", "u-1"),
            "_ledger/unsettled/car-1/u-1.json"
        );
        assert_eq!(store::ledger_operator_key("9b1c"), "_ledger/keys/9b1c.pem");
        assert_eq!(store::ledger_ca("0c1d"), "_ledger/cas/0c1d.pem");
        for (path, prefix) in [
            (usage, store::ledger_usages("car-a")),
            (acceptance, store::ledger_acceptances("car-a")),
            (key, store::ledger_keys("car-a")),
        ] {
            assert!(path.starts_with(&format!("{prefix}/")), "{path}");
        }
    }
}
