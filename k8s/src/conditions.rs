//! Conditions of our own kinds, of Nodes and of Pods: set by type, with a transition time that changes only when the status
//! does.
//!
//! Called wherever a status is computed. Pure: the caller brings the time. Conditions of other writers are never touched.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NodeCondition, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// What a condition says now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Says<'a> {
    /// The condition's type.
    pub type_: &'a str,
    /// True, False, or unknown.
    pub status: Option<bool>,
    /// A word in CamelCase.
    pub reason: &'a str,
    /// A sentence for people.
    pub message: &'a str,
}

fn text(status: Option<bool>) -> &'static str {
    match status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    }
}

/// Sets a condition of one of our kinds; returns whether anything changed.
pub fn set(conditions: &mut Vec<Condition>, says: &Says<'_>, generation: Option<i64>, now: Timestamp) -> bool {
    let new = Condition {
        type_: says.type_.to_owned(),
        status: text(says.status).to_owned(),
        reason: says.reason.to_owned(),
        message: says.message.to_owned(),
        observed_generation: generation,
        last_transition_time: Time(now),
    };
    match conditions.iter_mut().find(|c| c.type_ == says.type_) {
        None => {
            conditions.push(new);
            true
        }
        Some(old) => {
            let same_status = old.status == new.status;
            let new = if same_status {
                Condition {
                    last_transition_time: old.last_transition_time.clone(),
                    ..new
                }
            } else {
                new
            };
            let changed = *old != new;
            *old = new;
            changed
        }
    }
}

/// Sets a Pod's condition; returns whether anything changed.
pub fn set_pod(conditions: &mut Vec<PodCondition>, says: &Says<'_>, generation: Option<i64>, now: Timestamp) -> bool {
    let some = |s: &str| if s.is_empty() { None } else { Some(s.to_owned()) };
    let new = PodCondition {
        type_: says.type_.to_owned(),
        status: text(says.status).to_owned(),
        reason: some(says.reason),
        message: some(says.message),
        observed_generation: generation,
        last_transition_time: Some(Time(now)),
        last_probe_time: None,
    };
    match conditions.iter_mut().find(|c| c.type_ == says.type_) {
        None => {
            conditions.push(new);
            true
        }
        Some(old) => {
            let kept = if old.status == new.status {
                old.last_transition_time.clone()
            } else {
                new.last_transition_time.clone()
            };
            let new = PodCondition {
                last_transition_time: kept,
                last_probe_time: old.last_probe_time.clone(),
                ..new
            };
            let changed = *old != new;
            *old = new;
            changed
        }
    }
}

/// Sets a Node's condition; returns whether anything changed. The heartbeat time moves only with a change: Kerbside's
/// heartbeat is the Lease, and a Node is written on a change alone.
pub fn set_node(conditions: &mut Vec<NodeCondition>, says: &Says<'_>, now: Timestamp) -> bool {
    let some = |s: &str| if s.is_empty() { None } else { Some(s.to_owned()) };
    let new = NodeCondition {
        type_: says.type_.to_owned(),
        status: text(says.status).to_owned(),
        reason: some(says.reason),
        message: some(says.message),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    match conditions.iter_mut().find(|c| c.type_ == says.type_) {
        None => {
            conditions.push(new);
            true
        }
        Some(old) => {
            if old.status == new.status && old.reason == new.reason && old.message == new.message {
                return false;
            }
            let kept = if old.status == new.status {
                old.last_transition_time.clone()
            } else {
                new.last_transition_time.clone()
            };
            *old = NodeCondition {
                last_transition_time: kept,
                ..new
            };
            true
        }
    }
}

/// Whether the condition of this type is True.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|c| c.type_ == type_ && c.status == "True")
}

/// Whether a Pod's condition of this type is True.
pub fn pod_is_true(conditions: &[PodCondition], type_: &str) -> bool {
    conditions.iter().any(|c| c.type_ == type_ && c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn says(status: bool, message: &'static str) -> Says<'static> {
        Says {
            type_: "Ready",
            status: Some(status),
            reason: "Because",
            message,
        }
    }

    #[test]
    fn condition_with_another_message_keeps_its_transition_time() {
        let mut c = Vec::new();
        assert!(set(&mut c, &says(true, "a"), Some(1), at(10)));
        assert!(set(&mut c, &says(true, "b"), Some(2), at(20)));
        assert_eq!(c[0].last_transition_time, Time(at(10)));
        assert_eq!((c.len(), c[0].observed_generation), (1, Some(2)));
    }

    #[test]
    fn condition_with_another_status_moves_its_transition_time() {
        let mut c = Vec::new();
        set(&mut c, &says(true, "a"), None, at(10));
        assert!(set(&mut c, &says(false, "a"), None, at(20)));
        assert_eq!(c[0].last_transition_time, Time(at(20)));
    }

    #[test]
    fn condition_set_twice_is_no_change() {
        let mut c = Vec::new();
        set(&mut c, &says(true, "a"), Some(1), at(10));
        assert!(!set(&mut c, &says(true, "a"), Some(1), at(20)));
        let mut n = Vec::new();
        set_node(&mut n, &says(true, "a"), at(10));
        assert!(!set_node(&mut n, &says(true, "a"), at(20)));
        let mut p = Vec::new();
        set_pod(&mut p, &says(true, "a"), None, at(10));
        assert!(!set_pod(&mut p, &says(true, "a"), None, at(20)));
    }
}
