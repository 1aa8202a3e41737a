//! Turns what a car says of itself into our own types, and leaves out what is not well-formed.
//!
//! Called by the actor for each Hello and each change. A car is a stranger: nothing of what it says may break a label, a Node or
//! another Pod, so each value is checked for its form here and nowhere later.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use kerbside_api::v1alpha1::{FreeFor, FreeForMinutes, Offer, Runtime};
use kerbside_core::names::reason;
use kerbside_core::quantity::Quantity;
use kerbside_core::vehicle::{AttemptPhase, Report, Standing};
use kerbside_link::proto;

/// Resources that a Node names without a domain.
const NATIVE: [&str; 4] = ["cpu", "memory", "ephemeral-storage", "pods"];
/// A Vehicle's schema takes no more classes.
const MOST_CLASSES: usize = 64;
/// More kinds of resources than any car has.
const MOST_RESOURCES: usize = 32;
/// Longest text from a car that goes into a Pod's status; the kubelet's limit for a termination message.
pub(crate) const LONGEST_TEXT: usize = 4096;

/// How the car stands.
pub(crate) fn standing(state: &proto::CarState) -> Standing {
    match state.standing() {
        proto::Standing::Available => Standing::Available,
        proto::Standing::Paused => Standing::Paused,
        proto::Standing::Leaving => Standing::Leaving {
            notice: Duration::from_millis(u64::from(state.notice_ms)),
        },
        proto::Standing::Away | proto::Standing::Unspecified => Standing::Away,
    }
}

/// What is wrong with the car's own state, if it is a word that we know: a stranger's words are not repeated.
pub(crate) fn fault(state: &proto::CarState) -> Option<&'static str> {
    [
        reason::STATE_NOT_TRUSTED,
        reason::CLOCK_NOT_TRUSTED,
        reason::RECEIPTS_REFUSED,
        reason::AGENT_STALLED,
    ]
    .into_iter()
    .find(|word| *word == state.fault)
}

/// What the car offers.
pub(crate) fn offer(said: &proto::Offer) -> Offer {
    let allocatable = said
        .allocatable
        .iter()
        .filter(|(name, _)| resource_name(name))
        .filter_map(|(name, value)| {
            let amount: Quantity = value.parse().ok()?;
            // Written as the API server writes it, so that what is read back is equal.
            (amount >= Quantity::ZERO).then(|| (name.clone(), ApiQuantity(amount.to_string())))
        });
    let mut runtimes: Vec<_> = said.runtimes.iter().filter_map(|r| runtime(r)).collect();
    runtimes.sort_unstable();
    runtimes.dedup();
    let mut classes: Vec<_> = said
        .classes
        .iter()
        .filter(|c| dns_label(c))
        .take(MOST_CLASSES)
        .cloned()
        .collect();
    classes.sort_unstable();
    classes.dedup();
    let band = |minutes| FreeForMinutes::at_most(minutes);
    Offer {
        allocatable: allocatable.take(MOST_RESOURCES).collect::<BTreeMap<_, _>>(),
        runtimes,
        arch: plain(&said.arch),
        classes,
        free_for: said.free_for.map_or_else(FreeFor::default, |f| FreeFor {
            p50: band(f.p50),
            p90: band(f.p90),
        }),
    }
}

/// The operating system for the Node's label; a car that does not say runs Linux, as all do today.
pub(crate) fn os(said: &proto::Offer) -> String {
    let os = plain(&said.os);
    if os.is_empty() { "linux".to_owned() } else { os }
}

/// The part of a status that decides something.
pub(crate) fn report(status: &proto::AttemptStatus) -> Option<Report> {
    let phase = match status.phase() {
        proto::AttemptPhase::Unspecified | proto::AttemptPhase::Pending => AttemptPhase::Pending,
        proto::AttemptPhase::Running => AttemptPhase::Running,
        proto::AttemptPhase::Frozen => AttemptPhase::Frozen,
        proto::AttemptPhase::Succeeded => AttemptPhase::Succeeded,
        proto::AttemptPhase::Failed => AttemptPhase::Failed,
        proto::AttemptPhase::Disrupted => AttemptPhase::Disrupted,
        proto::AttemptPhase::Refused => AttemptPhase::Refused,
    };
    Some(Report {
        uid: status.uid.parse().ok()?,
        revision: status.revision,
        phase,
        reason: word(&status.reason),
        message: text(&status.message),
        stopped: status.stopped,
    })
}

/// A reason as Kubernetes has them: a word of letters and digits.
pub(crate) fn word(said: &str) -> String {
    said.chars().filter(char::is_ascii_alphanumeric).take(128).collect()
}

/// A text of bounded length.
pub(crate) fn text(said: &str) -> String {
    let mut end = said.len().min(LONGEST_TEXT);
    while !said.is_char_boundary(end) {
        end -= 1;
    }
    said.get(..end).unwrap_or_default().to_owned()
}

fn runtime(said: &str) -> Option<Runtime> {
    match said {
        "wasm" => Some(Runtime::Wasm),
        "container" => Some(Runtime::Container),
        _ => None,
    }
}

fn plain(said: &str) -> String {
    let good = said.len() <= 32 && said.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if good { said.to_owned() } else { String::new() }
}

fn dns_label(said: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = said.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    bytes.len() <= 63 && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner)
}

/// A native resource, or an extended one outside of Kubernetes' own domains.
fn resource_name(name: &str) -> bool {
    if NATIVE.contains(&name) {
        return true;
    }
    let Some((domain, rest)) = name.split_once('/') else {
        return false;
    };
    let name_ok = rest.len() <= 63
        && rest
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && rest.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && rest.bytes().next_back().is_some_and(|b| b.is_ascii_alphanumeric());
    let ours = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io") || domain.ends_with("k8s.io");
    domain.len() <= 200 && domain.split('.').all(dns_label) && name_ok && !ours
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(resources: &[(&str, &str)]) -> proto::Offer {
        proto::Offer {
            allocatable: resources
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            ..proto::Offer::default()
        }
    }

    #[test]
    fn offer_keeps_what_is_well_formed_and_drops_the_rest() {
        let mut said = said(&[
            ("cpu", "2000m"),
            ("memory", "many"),
            ("pods", "-1"),
            ("kerbside.dev/npu", "1"),
            ("npu", "1"),
            ("node.kubernetes.io/x", "1"),
            ("../x/y", "1"),
        ]);
        said.runtimes = vec!["wasm".into(), "flash".into(), "wasm".into()];
        said.classes = vec!["training".into(), "a/b".into(), "inference".into(), String::new()];
        said.arch = "Arm 64".into();
        said.free_for = Some(proto::FreeFor { p50: 500, p90: 59 });
        let offer = offer(&said);
        assert_eq!(
            offer.allocatable.keys().collect::<Vec<_>>(),
            ["cpu", "kerbside.dev/npu"]
        );
        assert_eq!(offer.allocatable.get("cpu").unwrap().0, "2");
        assert_eq!(offer.runtimes, vec![Runtime::Wasm]);
        assert_eq!(offer.classes, ["inference", "training"]);
        assert_eq!(offer.arch, "");
        assert_eq!((offer.free_for.p50.get(), offer.free_for.p90.get()), (480, 15));
    }

    #[test]
    fn fault_that_is_no_word_of_ours_is_not_repeated() {
        let said = |fault: &str| {
            let state = proto::CarState {
                fault: fault.to_owned(),
                ..proto::CarState::default()
            };
            super::fault(&state)
        };
        assert_eq!(said("StateNotTrusted"), Some(reason::STATE_NOT_TRUSTED));
        assert_eq!(said("AgentStalled"), Some(reason::AGENT_STALLED));
        assert_eq!((said(""), said("AtHome")), (None, None));
    }

    #[test]
    fn standing_unknown_is_away() {
        let state = proto::CarState {
            standing: 77,
            ..proto::CarState::default()
        };
        assert_eq!(standing(&state), Standing::Away);
    }

    #[test]
    fn report_without_a_uid_is_none_and_texts_are_bounded() {
        assert_eq!(report(&proto::AttemptStatus::default()), None);
        let long = proto::AttemptStatus {
            uid: "u-1".into(),
            reason: "Out Of\nMemory".into(),
            message: "é".repeat(5_000),
            ..proto::AttemptStatus::default()
        };
        let report = report(&long).unwrap();
        assert_eq!(report.reason, "OutOfMemory");
        assert!(report.message.len() <= LONGEST_TEXT);
    }
}
