//! What the API server's audit log has on record: who wrote what, and whose the vehicles were at the time.
//!
//! Called by tests and by `chaos`. The log is there if the testbed was started with `--audit`. What must never happen in any log: two
//! adapters write the Node of one vehicle in turn without the vehicle's having become the other's in between.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::layout::Layout;

/// How an adapter calls itself begins with this; its replica's name is the last word.
const ADAPTER: &str = "kerbside-kubelet/";
/// Verbs that change something.
const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

/// The log from a moment on.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    from: u64,
}

/// A write that was answered.
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
    /// When the API server had answered; of a write that says whose a vehicle is, when it was asked, for its writer sees by its watch that
    /// it holds and may act on it before the answer is there.
    pub at: String,
    /// Whether it was done, and not refused.
    pub done: bool,
    /// Whose the vehicle is from then on, if the write says so.
    pub owner: Option<String>,
}

/// A request that was made, of whatever kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The user agent.
    pub agent: String,
    /// `get`, `list`, `watch` and so on.
    pub verb: String,
    /// Plural.
    pub resource: String,
    /// Of the object, or where it is looked for; empty: everywhere.
    pub namespace: String,
    /// Of the object.
    pub name: String,
}

impl Write {
    /// Whose write it is, if it is an adapter's.
    pub fn replica(&self) -> Option<&str> {
        self.agent.strip_prefix(ADAPTER)?.rsplit(' ').next()
    }

    /// Whether one of Kerbside's programs did it.
    pub fn is_ours(&self) -> bool {
        self.agent.starts_with("kerbside-")
    }

    /// Whether it is to the Node of a vehicle, or to the Lease by which the Node is known to live.
    pub fn is_to_a_node(&self) -> bool {
        matches!(self.resource.as_str(), "nodes" | "nodes/status") || self.is_node_lease()
    }

    /// Whether it is to the Lease of a Node.
    pub fn is_node_lease(&self) -> bool {
        self.resource == "leases" && self.namespace == kerbside_k8s::lease::NAMESPACE
    }

    /// What programs do for themselves whether there are cars or not: their own Leases, their reviews of tokens and rights.
    pub fn is_housekeeping(&self) -> bool {
        let asks = self.resource.ends_with("reviews") || self.resource == "serviceaccounts/token";
        asks || (self.resource == "leases" && !self.is_node_lease())
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
    request_received_timestamp: String,
    #[serde(default)]
    object_ref: ObjectRef,
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
        if !WRITES.contains(&self.verb.as_str()) || self.stage != "ResponseComplete" {
            return None;
        }
        let object = self.object_ref;
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
            at: if owner.is_some() {
                self.request_received_timestamp
            } else {
                self.stage_timestamp
            },
            done: self.response_status.is_some_and(|s| (200..300).contains(&s.code)),
            owner,
        })
    }
}

impl Audit {
    /// From the beginning.
    pub fn whole(layout: &Layout) -> Self {
        Self {
            path: layout.path("logs/audit.log"),
            from: 0,
        }
    }

    /// From now on; `None` if this API server keeps no such log.
    pub fn now(layout: &Layout) -> Option<Self> {
        let audit = Self::whole(layout);
        let from = std::fs::metadata(&audit.path).ok()?.len();
        Some(Self { from, ..audit })
    }

    /// What was written since, in the order of [`Write::at`]; the next reading goes on from here. A line that is only half there is
    /// read with the next reading.
    pub fn writes(&mut self) -> Result<Vec<Write>> {
        let mut writes: Vec<_> = self.lines()?.into_iter().filter_map(Line::write).collect();
        writes.sort_by(|a, b| a.at.cmp(&b.at));
        Ok(writes)
    }

    /// What was asked for since, reads too. The next reading goes on from here.
    pub fn requests(&mut self) -> Result<Vec<Request>> {
        // Once each: a watch is complete only when it ends.
        let stage = |verb: &str| {
            if verb == "watch" {
                "ResponseStarted"
            } else {
                "ResponseComplete"
            }
        };
        let answered = self.lines()?.into_iter().filter(|line| line.stage == stage(&line.verb));
        Ok(answered
            .map(|line| Request {
                agent: line.user_agent,
                verb: line.verb,
                resource: line.object_ref.resource,
                namespace: line.object_ref.namespace,
                name: line.object_ref.name,
            })
            .collect())
    }

    fn lines(&mut self) -> Result<Vec<Line>> {
        let failed = || {
            format!(
                "failed to read {}: was the testbed started with --audit?",
                self.path.display()
            )
        };
        let mut file = File::open(&self.path).with_context(failed)?;
        file.seek(SeekFrom::Start(self.from)).with_context(failed)?;
        let mut reader = BufReader::new(file);
        let mut lines = Vec::new();
        let mut line = String::new();
        loop {
            line.clear();
            let length = reader.read_line(&mut line).with_context(failed)?;
            if !line.ends_with('\n') {
                break;
            }
            self.from += length as u64;
            let read = serde_json::from_str(&line).with_context(|| format!("not a line of an audit log: {line}"))?;
            lines.push(read);
        }
        Ok(lines)
    }
}

/// Writes to a vehicle's Node by an adapter after another one had written it, though the vehicle was not this adapter's again: there must
/// be none. `writes` are in their order; what was refused counts for nothing.
pub fn intrusions(writes: &[Write]) -> Vec<&Write> {
    #[derive(Default)]
    struct Vehicle<'a> {
        owner: Option<&'a str>,
        writer: Option<&'a str>,
    }
    let mut vehicles: BTreeMap<&str, Vehicle<'_>> = BTreeMap::new();
    let mut intrusions = Vec::new();
    for write in writes.iter().filter(|write| write.done) {
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
    use std::io::Write as _;

    use super::*;

    fn write(replica: &str, resource: &str, owner: Option<&str>) -> Write {
        let lease = resource == "leases";
        Write {
            agent: format!("{ADAPTER}0.1.0 {replica}"),
            resource: resource.to_owned(),
            namespace: if lease { "kube-node-lease" } else { "" }.to_owned(),
            name: "car-a".to_owned(),
            at: String::new(),
            done: true,
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
        let mut refused = late;
        refused[5].done = false;
        assert!(intrusions(&refused).is_empty(), "a write that was refused");
    }

    #[test]
    fn write_that_is_answered_before_the_claim_that_it_rests_on_comes_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let node = "{\"resource\":\"nodes\",\"subresource\":\"status\",\"name\":\"car-a\"}";
        let vehicle = "{\"resource\":\"vehicles\",\"subresource\":\"status\",\"name\":\"car-a\"}";
        let body = ",\"requestObject\":{\"status\":{\"connection\":{\"replica\":\"r-1\",\"epoch\":2}}}";
        // The watch showed the claim before its own answer came.
        let lines = [
            line("ResponseComplete", "patch", 200, node, ""),
            line("ResponseComplete", "patch", 200, vehicle, body),
        ];
        std::fs::write(layout.dir("logs").unwrap().join("audit.log"), lines.concat()).unwrap();
        let mut writes = vec![claim("other"), write("other", "nodes", None)];
        writes.extend(Audit::whole(&layout).writes().unwrap());
        assert!(intrusions(&writes).is_empty(), "{writes:?}");
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

    fn line(stage: &str, verb: &str, code: u16, object: &str, rest: &str) -> String {
        format!(
            "{{\"stage\":\"{stage}\",\"verb\":\"{verb}\",\"userAgent\":\"kerbside-kubelet/0.1.0 r-1\",\"stageTimestamp\":\
             \"2026-11-26T20:00:00.000001Z\",\"requestReceivedTimestamp\":\"2026-11-26T19:59:59.000001Z\",\"objectRef\":{object},\"responseStatus\":{{\"code\":{code}}}{rest}}}\n"
        )
    }

    #[test]
    fn log_is_read_from_its_moment_on_and_line_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        assert!(Audit::now(&layout).is_none());
        let error = Audit::whole(&layout).writes().unwrap_err();
        assert!(error.to_string().contains("--audit"), "{error}");
        let node = "{\"resource\":\"nodes\",\"subresource\":\"status\",\"name\":\"car-a\"}";
        let vehicle = "{\"resource\":\"vehicles\",\"subresource\":\"status\",\"name\":\"car-a\"}";
        let lease = "{\"resource\":\"leases\",\"namespace\":\"kube-node-lease\",\"name\":\"car-a\"}";
        let body = ",\"requestObject\":{\"status\":{\"connection\":{\"replica\":\"r-1\",\"epoch\":2}}}";
        let old = [
            line("ResponseComplete", "patch", 200, node, ""),
            line("ResponseComplete", "patch", 409, node, ""),
            line("ResponseComplete", "get", 200, node, ""),
            line("ResponseStarted", "patch", 200, node, ""),
            line("ResponseComplete", "patch", 200, vehicle, body),
        ];
        let path = layout.dir("logs").unwrap().join("audit.log");
        std::fs::write(&path, old.concat()).unwrap();
        let mut audit = Audit::now(&layout).unwrap();
        assert!(audit.writes().unwrap().is_empty());
        let mut file = File::options().append(true).open(&path).unwrap();
        let renewal = line("ResponseComplete", "update", 200, lease, "");
        let (half, rest) = renewal.split_at(40);
        write!(file, "{half}").unwrap();
        assert!(audit.writes().unwrap().is_empty());
        write!(file, "{rest}").unwrap();
        let writes = audit.writes().unwrap();
        assert_eq!(writes.len(), 1);
        assert!(writes[0].is_node_lease() && writes[0].is_ours() && !writes[0].is_housekeeping());
        assert!(audit.writes().unwrap().is_empty());

        let whole = Audit::whole(&layout).writes().unwrap();
        assert_eq!(
            whole.iter().map(|w| w.done).collect::<Vec<_>>(),
            [true, true, false, true]
        );
        assert_eq!(
            whole[0].owner.as_deref(),
            Some("r-1"),
            "a claim counts from when it was asked for"
        );
        assert_eq!(whole[1].replica(), Some("r-1"));
        assert!(whole[1].is_to_a_node() && whole[1].owner.is_none());
        writeln!(file, "no json").unwrap();
        assert!(audit.writes().is_err());
    }

    #[test]
    fn leases_of_programs_and_reviews_are_housekeeping() {
        let mut own = write("a", "leases", None);
        own.namespace = "kerbside-system".to_owned();
        for write in [own, write("a", "subjectaccessreviews", None)] {
            assert!(write.is_housekeeping(), "{write:?}");
        }
    }
}
