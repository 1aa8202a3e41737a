//! What the API server's audit log has on record: who wrote what, and whose the vehicles were at the time.
//!
//! Called by tests. The log is there if the testbed was started with `--audit`. What must never happen in any log: two adapters write the
//! Node of one vehicle in turn without the vehicle's having become the other's in between.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::layout::Layout;

/// How an adapter calls itself begins with this; its replica's name is the last word.
const ADAPTER: &str = "kerbside-kubelet/";

/// A write that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The user agent.
    pub agent: String,
    /// Plural, with the subresource behind a slash.
    pub resource: String,
    /// Of the object; empty for something without one.
    pub namespace: String,
    /// Of the object.
    pub name: String,
    /// When the API server had done it.
    pub at: String,
    /// Whose the vehicle is from then on, if the write says so.
    pub owner: Option<String>,
}

impl Write {
    /// Whose write it is, if it is an adapter's.
    pub fn replica(&self) -> Option<&str> {
        self.agent.strip_prefix(ADAPTER)?.rsplit(' ').next()
    }

    /// Whether it is to the Node of a vehicle, or to the Lease by which the Node is known to live.
    pub fn is_to_a_node(&self) -> bool {
        matches!(self.resource.as_str(), "nodes" | "nodes/status")
            || self.resource == "leases" && self.namespace == kerbside_k8s::lease::NAMESPACE
    }
}

/// A line of the log, as far as it is read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    stage: String,
    verb: String,
    #[serde(default)]
    user_agent: String,
    stage_timestamp: String,
    object_ref: Option<ObjectRef>,
    response_status: Option<Status>,
    /// Only of the writes to a Vehicle's status.
    request_object: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ObjectRef {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
}

impl Line {
    fn write(self) -> Option<Write> {
        let done = self.response_status.is_some_and(|s| (200..300).contains(&s.code));
        let writes = matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete");
        let object = self
            .object_ref
            .filter(|_| done && writes && self.stage == "ResponseComplete")?;
        let resource = if object.subresource.is_empty() {
            object.resource
        } else {
            format!("{}/{}", object.resource, object.subresource)
        };
        let body = self.request_object.filter(|_| resource == "vehicles/status");
        let owner = body.and_then(|b| Some(b["status"]["connection"]["replica"].as_str()?.to_owned()));
        Some(Write {
            agent: self.user_agent,
            resource,
            namespace: object.namespace,
            name: object.name,
            at: self.stage_timestamp,
            owner,
        })
    }
}

/// Every write on record, in the order in which they were done.
pub fn writes(layout: &Layout) -> Result<Vec<Write>> {
    let path = layout.path("logs/audit.log");
    let file = File::open(&path);
    let file = file.with_context(|| format!("no {}: start the testbed with --audit", path.display()))?;
    let mut writes = Vec::new();
    read(BufReader::new(file), &mut writes).with_context(|| format!("failed to read {}", path.display()))?;
    writes.sort_by(|a, b| a.at.cmp(&b.at));
    Ok(writes)
}

fn read(log: impl BufRead, writes: &mut Vec<Write>) -> Result<()> {
    for line in log.lines() {
        let line = line?;
        match serde_json::from_str::<Line>(&line) {
            Ok(line) => writes.extend(line.write()),
            // The last line of a log that is being written may be a part only.
            Err(e) if e.is_eof() => {}
            Err(e) => return Err(e).with_context(|| format!("not a line of an audit log: {line}")),
        }
    }
    Ok(())
}

/// Writes to a vehicle's Node by an adapter after another one had written it, though the vehicle was not this adapter's again: there must
/// be none. `writes` are in their order.
pub fn intrusions(writes: &[Write]) -> Vec<&Write> {
    #[derive(Default)]
    struct Vehicle<'a> {
        owner: Option<&'a str>,
        writer: Option<&'a str>,
    }
    let mut vehicles: BTreeMap<&str, Vehicle<'_>> = BTreeMap::new();
    let mut intrusions = Vec::new();
    for write in writes {
        let Some(replica) = write.replica() else { continue };
        let vehicle = vehicles.entry(&write.name).or_default();
        if let Some(owner) = &write.owner {
            vehicle.owner = Some(owner);
        }
        if write.is_to_a_node() {
            if vehicle.writer.is_some_and(|w| w != replica) && vehicle.owner != Some(replica) {
                intrusions.push(write);
            } else {
                vehicle.writer = Some(replica);
            }
        }
    }
    intrusions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(replica: &str, resource: &str, owner: Option<&str>) -> Write {
        let lease = resource == "leases";
        Write {
            agent: format!("{ADAPTER}0.1.0 {replica}"),
            resource: resource.to_owned(),
            namespace: if lease { "kube-node-lease" } else { "" }.to_owned(),
            name: "car-a".to_owned(),
            at: String::new(),
            owner: owner.map(str::to_owned),
        }
    }

    fn claim(replica: &str) -> Write {
        write(replica, "vehicles/status", Some(replica))
    }

    #[test]
    fn node_is_written_by_another_adapter_only_after_the_vehicle_became_its_own() {
        let in_order = [
            claim("a"),
            write("a", "nodes", None),
            write("a", "leases", None),
            claim("b"),
            // On its way when the vehicle became the other's.
            write("a", "nodes/status", None),
            write("b", "leases", None),
            write("b", "nodes/status", None),
            claim("a"),
            write("a", "nodes/status", None),
        ];
        assert!(intrusions(&in_order).is_empty());
        let late = [
            claim("a"),
            write("a", "nodes", None),
            claim("b"),
            write("b", "leases", None),
            // Nothing about whose it is.
            write("a", "vehicles/status", None),
            write("a", "nodes/status", None),
        ];
        assert_eq!(intrusions(&late), [&late[5]]);
    }

    #[test]
    fn other_programs_and_other_leases_are_nobodys_intrusion() {
        let mut controller = write("node-controller", "nodes/status", None);
        controller.agent = "kube-controller-manager/v1.37.0 node-controller".to_owned();
        let mut own = write("b", "leases", None);
        own.namespace = "kerbside-system".to_owned();
        let writes = [claim("a"), write("a", "nodes", None), controller, own];
        assert!(intrusions(&writes).is_empty());
    }

    #[test]
    fn log_gives_the_writes_that_were_done() {
        let line = |stage: &str, verb: &str, code: u16, object: &str, rest: &str| {
            format!(
                "{{\"stage\":\"{stage}\",\"verb\":\"{verb}\",\"userAgent\":\"kerbside-kubelet/0.1.0 r-1\",\"stageTimestamp\":\
                 \"2026-11-26T20:00:00.000001Z\",\"objectRef\":{object},\"responseStatus\":{{\"code\":{code}}}{rest}}}\n"
            )
        };
        let node = "{\"resource\":\"nodes\",\"subresource\":\"status\",\"name\":\"car-a\"}";
        let vehicle = "{\"resource\":\"vehicles\",\"subresource\":\"status\",\"name\":\"car-a\"}";
        let body = ",\"requestObject\":{\"status\":{\"connection\":{\"replica\":\"r-1\",\"epoch\":2}}}";
        let log = [
            line("ResponseComplete", "patch", 200, node, ""),
            line("ResponseComplete", "patch", 409, node, ""),
            line("ResponseComplete", "get", 200, node, ""),
            line("ResponseStarted", "patch", 200, node, ""),
            line("ResponseComplete", "patch", 200, vehicle, body),
            "{\"stage\":\"Respon".to_owned(),
        ];
        let mut writes = Vec::new();
        read(log.concat().as_bytes(), &mut writes).unwrap();
        assert_eq!(writes.len(), 2, "{writes:?}");
        assert_eq!(writes[0].replica(), Some("r-1"));
        assert!(writes[0].is_to_a_node() && writes[0].owner.is_none());
        assert_eq!(writes[1].owner.as_deref(), Some("r-1"));
    }
}
