//! Who wrote what to the API server: read from its own audit log.
//!
//! Opened at a moment; gives what was written since. A line that is only half there is read with the next reading.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::layout::Layout;

/// Where Leases of Nodes are.
const NODE_LEASES: &str = "kube-node-lease";
/// Verbs that change something.
const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

/// The log from a moment on.
pub(super) struct Audit {
    path: PathBuf,
    from: u64,
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    /// The user agent.
    pub(super) agent: String,
    /// What kind of object, as in URLs, with its subresource if it has one: `pods/status`.
    pub(super) resource: String,
    /// Where.
    pub(super) namespace: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    verb: String,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: Option<Object>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Object {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
    #[serde(default)]
    namespace: String,
}

impl Audit {
    /// From now on; `None` if this API server keeps no such log.
    pub(super) fn now(layout: &Layout) -> Option<Self> {
        let path = layout.path("logs/audit.log");
        let from = std::fs::metadata(&path).ok()?.len();
        Some(Self { path, from })
    }

    /// What was written since; the next reading goes on from here.
    pub(super) fn writes(&mut self) -> Result<Vec<Write>> {
        let failed = || format!("failed to read {}", self.path.display());
        let mut file = File::open(&self.path).with_context(failed)?;
        file.seek(SeekFrom::Start(self.from)).with_context(failed)?;
        let mut reader = BufReader::new(file);
        let mut writes = Vec::new();
        let mut line = String::new();
        loop {
            line.clear();
            let length = reader.read_line(&mut line).with_context(failed)?;
            if !line.ends_with('\n') {
                return Ok(writes);
            }
            self.from += length as u64;
            writes.extend(write(&line)?);
        }
    }
}

fn write(line: &str) -> Result<Option<Write>> {
    let line: Line = serde_json::from_str(line).context("a line of the audit log is not an Event")?;
    if !WRITES.contains(&line.verb.as_str()) {
        return Ok(None);
    }
    let object = line.object_ref.unwrap_or_default();
    Ok(Some(Write {
        agent: line.user_agent,
        resource: if object.subresource.is_empty() {
            object.resource
        } else {
            format!("{}/{}", object.resource, object.subresource)
        },
        namespace: object.namespace,
    }))
}

impl Write {
    /// A renewal of a car's Lease.
    pub(super) fn is_node_lease(&self) -> bool {
        self.resource == "leases" && self.namespace == NODE_LEASES
    }

    /// What programs do for themselves whether there are cars or not: their own Leases, their reviews of tokens and rights.
    pub(super) fn is_housekeeping(&self) -> bool {
        let asks = self.resource.ends_with("reviews") || self.resource == "serviceaccounts/token";
        asks || (self.resource == "leases" && !self.is_node_lease())
    }

    /// Whether one of Kerbside's programs did it.
    pub(super) fn is_ours(&self) -> bool {
        self.agent.starts_with("kerbside-")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn line(verb: &str, agent: &str, resource: &str, namespace: &str) -> String {
        format!(
            "{{\"kind\":\"Event\",\"verb\":\"{verb}\",\"userAgent\":\"{agent}\",\"objectRef\":{{\"resource\":\"{resource}\",\
             \"namespace\":\"{namespace}\",\"name\":\"x\"}}}}\n"
        )
    }

    #[test]
    fn log_is_read_from_its_moment_on_and_line_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        assert!(Audit::now(&layout).is_none());
        let path = layout.dir("logs").unwrap().join("audit.log");
        std::fs::write(&path, line("create", "old", "pods", "a")).unwrap();
        let mut audit = Audit::now(&layout).unwrap();
        assert!(audit.writes().unwrap().is_empty());
        let mut file = File::options().append(true).open(&path).unwrap();
        let renewal = line("update", "kerbside-kubelet/0.1.0 a", "leases", NODE_LEASES);
        let (half, rest) = renewal.split_at(40);
        write!(file, "{}{half}", line("get", "x", "pods", "a")).unwrap();
        assert!(audit.writes().unwrap().is_empty());
        write!(file, "{rest}").unwrap();
        let writes = audit.writes().unwrap();
        assert_eq!(writes.len(), 1);
        assert!(writes[0].is_node_lease() && writes[0].is_ours() && !writes[0].is_housekeeping());
        assert!(audit.writes().unwrap().is_empty());
    }

    #[test]
    fn leases_of_programs_and_reviews_are_housekeeping() {
        for (resource, namespace) in [("leases", "kerbside-system"), ("subjectaccessreviews", "")] {
            let found = write(&line("update", "a", resource, namespace)).unwrap().unwrap();
            assert!(found.is_housekeeping(), "{found:?}");
        }
        assert!(write("no json").is_err());
    }
}
