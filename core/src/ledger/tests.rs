//! Attempts as the car and the operator know of them; in the modules, what they are worth and what is found when somebody changes it.

mod amounts;
mod checking;
mod settlement;

use proptest::prelude::*;

use super::*;
use crate::attempt::Kind;
use crate::energy::most_joules;
use crate::receipt::testing::vehicle;
use crate::receipt::{Claim, Ending, Energy, NOTHING, Usage};

const TERMS: &str =
    r#"{"pool":"overnight","currency":"EUR","perCPUHour":"0.02","perKWh":"0.3","unaccepted":"EnergyOnly"}"#;
const FIRST: Place<'static> = Place {
    sequence: 1,
    previous: NOTHING,
};

/// An attempt, as the car and the operator know of it.
#[derive(Debug, Clone)]
struct Given {
    terms: Option<Terms>,
    standing: Standing,
    running_ms: u64,
    milli_cpu: u64,
    duration_ms: u32,
    cpu_ms: u64,
    joules: u64,
}

fn uid(sequence: u64) -> PodUid {
    format!("u-{sequence}").parse().unwrap()
}

fn terms() -> Terms {
    serde_json::from_str(TERMS).unwrap()
}

/// One that was accepted, of a car that claims what was seen. It is worth 917 millionths, and its energy 417 of them.
fn honest() -> Given {
    Given {
        terms: Some(terms()),
        standing: Standing::Accepted,
        running_ms: 61_000,
        milli_cpu: 2000,
        duration_ms: 60_000,
        cpu_ms: 90_000,
        joules: 5000,
    }
}

impl Given {
    fn usage(&self, sequence: u64, previous: &str) -> Usage {
        Usage {
            sequence,
            previous: previous.to_owned(),
            vehicle: vehicle(1),
            claim: Claim {
                pod_uid: uid(sequence),
                images: vec!["sha256:aa".to_owned()],
                class: "inference".to_owned(),
                terms_sha256: self.terms.as_ref().map(Terms::digest),
                consent: None,
                started_at_ms: 1000,
                ended_at_ms: 1000 + i64::from(self.duration_ms),
                cpu_ms: self.cpu_ms,
                frozen_ms: Some(0),
                output_bytes: 0,
                energy: Some(Energy {
                    joules: self.joules,
                    method: "model".to_owned(),
                    error_permille: Some(300),
                }),
                outcome: Ending {
                    kind: Kind::Succeeded,
                    reason: String::new(),
                },
            },
        }
    }

    fn closing(&self, sequence: u64) -> Closing {
        let accepted_uid = match self.standing {
            Standing::Accepted => Some(uid(sequence)),
            Standing::Superseded => Some("u-of-another".parse().unwrap()),
            Standing::Failed | Standing::Disrupted => None,
        };
        let terms = self.terms.iter().map(|terms| (terms.pool.clone(), terms.clone()));
        Closing {
            job_uid: "job-1".parse().unwrap(),
            index: 7,
            pod_uid: uid(sequence),
            vehicle: vehicle(1),
            standing: self.standing,
            accepted_uid,
            terms: terms.collect(),
            running_ms: self.running_ms,
            milli_cpu: self.milli_cpu,
        }
    }

    /// What the operator makes of it, as the first of its chain.
    fn settled(&self) -> Acceptance {
        let usage = self.usage(1, NOTHING);
        self.closing(1).accept(&usage, "aa", FIRST).unwrap()
    }
}

fn any_price(below: u64) -> impl Strategy<Value = Price> {
    (0..below).prop_map(|nanos| {
        let text = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
        text.parse::<Price>().unwrap()
    })
}

prop_compose! {
    fn any_terms(below: u64)(
        pool in "[a-z]{1,8}",
        currency in prop::sample::select(vec!["EUR", "USD"]),
        per_cpu_hour in any_price(below),
        per_kwh in any_price(below),
        nothing in any::<bool>(),
    ) -> Terms {
        Terms {
            pool,
            currency: currency.to_owned(),
            per_cpu_hour,
            per_kwh,
            unaccepted: if nothing { Unaccepted::Nothing } else { Unaccepted::EnergyOnly },
        }
    }
}

fn any_standing() -> impl Strategy<Value = Standing> {
    use Standing::{Accepted, Disrupted, Failed, Superseded};
    prop::sample::select(vec![Accepted, Superseded, Failed, Disrupted])
}

prop_compose! {
    /// Of a car that claims what was seen, at prices up to 10,000.
    fn any_honest()(
        terms in proptest::option::weighted(0.8, any_terms(10_000_000_000_000)),
        standing in any_standing(),
        running_ms in 0u64..1_000_000_000,
        milli_cpu in 0u64..64_000,
        parts in (0u64..=1000, 0u64..=1000, 0u64..=1000),
    ) -> Given {
        Given {
            terms,
            standing,
            running_ms,
            milli_cpu,
            duration_ms: u32::try_from(running_ms * parts.0 / 1000).unwrap(),
            cpu_ms: running_ms * milli_cpu / 1000 * parts.1 / 1000,
            joules: most_joules(running_ms, milli_cpu) * parts.2 / 1000,
        }
    }
}

prop_compose! {
    /// Of a car that claims anything, at any price.
    fn any_given()(
        terms in proptest::option::weighted(0.8, any_terms(1_000_000_000_000_000_000)),
        standing in any_standing(),
        running_ms in prop_oneof![0u64..100_000_000, any::<u64>()],
        milli_cpu in prop_oneof![0u64..64_000, any::<u64>()],
        duration_ms in any::<u32>(),
        cpu_ms in prop_oneof![0u64..100_000_000, any::<u64>()],
        joules in prop_oneof![0u64..100_000_000, any::<u64>()],
    ) -> Given {
        Given { terms, standing, running_ms, milli_cpu, duration_ms, cpu_ms, joules }
    }
}
