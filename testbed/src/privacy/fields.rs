//! The table of docs/privacy.md says of every field that a car can send what it tells. A new field has to be thought about there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What a car sends; all other messages that it sends are parts of these.
const FROM_CARS: [&str; 9] = [
    "EnrolRequest",
    "RenewRequest",
    "CarMessage",
    "LogChunk",
    "TunnelPart",
    "OutputOffsetRequest",
    "OutputChunk",
    "SealOutputRequest",
    "PutReceiptRequest",
];

/// Fields with their types, by message.
type Messages = BTreeMap<String, BTreeMap<String, String>>;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

/// The messages of a `.proto` that has one field on a line.
fn messages(proto: &str) -> Messages {
    let mut all = Messages::new();
    let mut message = None;
    for line in proto.lines() {
        let line = line.split("//").next().unwrap_or_default().trim();
        if let Some(rest) = line.strip_prefix("message ") {
            let name = rest.trim_end_matches(['{', '}', ' ']).to_owned();
            all.entry(name.clone()).or_default();
            message = (!rest.contains('}')).then_some(name);
        } else if line.starts_with("enum ") || line.starts_with("service ") {
            message = None;
        } else if let (Some(message), Some((declared, _))) = (&message, line.split_once('='))
            && let Some((kind, name)) = declared.trim().rsplit_once(' ')
        {
            let kind = kind
                .trim_start_matches("repeated ")
                .trim_start_matches("optional ")
                .to_owned();
            all.entry(message.clone()).or_default().insert(name.to_owned(), kind);
        }
    }
    all
}

/// The messages that cars send, with all that is in them.
fn sent(all: &Messages) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut next: Vec<String> = FROM_CARS.map(str::to_owned).to_vec();
    while let Some(message) = next.pop() {
        let fields = all.get(&message).unwrap_or_else(|| panic!("no message {message}"));
        // One that was there before has brought along what is in it.
        if found.insert(message) {
            next.extend(fields.values().filter(|kind| all.contains_key(*kind)).cloned());
        }
    }
    found
}

/// What stands between backticks.
fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Fields by message, as the table under this heading has them.
fn table(docs: &str, heading: &str) -> BTreeMap<String, BTreeSet<String>> {
    let section = docs.split(heading).nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        (quoted(cells[1]).pop_first().unwrap(), quoted(cells[2]))
    })
    .collect()
}

#[test]
fn every_field_that_a_car_can_send_is_in_the_docs() {
    let all = messages(&read("link/proto/kerbside/link/v1/link.proto"));
    let written = table(&read("docs/privacy.md"), "## What leaves the car\n");
    let sent = sent(&all);
    let known: BTreeSet<String> = written.keys().cloned().collect();
    assert_eq!(sent, known, "messages that a car sends, and those in docs/privacy.md");
    for message in &sent {
        let fields: BTreeSet<String> = all[message].keys().cloned().collect();
        assert_eq!(
            fields, written[message],
            "fields of {message}, and those in docs/privacy.md"
        );
    }
}

#[test]
fn field_that_is_new_is_seen() {
    let all = messages(
        "message CarState {
           // Where it is.
           double latitude = 9;  // no
           map<string, string> a = 1;
           repeated Part parts = 2;
         }
         message Part {}
         enum E {
           X = 0;
         }",
    );
    let fields = &all["CarState"];
    assert_eq!(fields["latitude"], "double");
    assert_eq!(fields["a"], "map<string, string>");
    assert_eq!(fields["parts"], "Part");
    assert_eq!(all.len(), 2);
    assert!(all["Part"].is_empty());
}
