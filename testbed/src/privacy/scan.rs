//! Finds needles in what was recorded, all of them in one pass.
//!
//! Called by tests, once per recording. What must never happen: a finding without the place, so that nobody can say whence it came.

use std::collections::BTreeMap;

use aho_corasick::AhoCorasick;
use anyhow::{Context, Result};

use super::canary::Needle;

/// Bytes of what is around a finding that are shown on each side.
const AROUND: usize = 60;

/// Looks for needles.
#[derive(Debug)]
pub struct Scanner {
    needles: Vec<Needle>,
    automaton: AhoCorasick,
}

/// A needle was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Of which canary.
    pub what: &'static str,
    /// In which form.
    pub form: String,
    /// Where in what was searched.
    pub at: usize,
    /// What is around it, as text.
    pub around: String,
}

impl Scanner {
    /// For these needles.
    pub fn new(needles: Vec<Needle>) -> Result<Self> {
        let automaton = AhoCorasick::new(needles.iter().map(|needle| &needle.bytes));
        Ok(Self {
            automaton: automaton.context("failed to build the search")?,
            needles,
        })
    }

    /// Everything that is found; each needle once, at its first place.
    pub fn find(&self, hay: &[u8]) -> Vec<Finding> {
        let mut first: BTreeMap<usize, usize> = BTreeMap::new();
        for found in self.automaton.find_overlapping_iter(hay) {
            first.entry(found.pattern().as_usize()).or_insert_with(|| found.start());
        }
        let finding = |(pattern, at): (usize, usize)| {
            let needle = self.needles.get(pattern)?;
            let until = at.saturating_add(needle.bytes.len() + AROUND).min(hay.len());
            let around = hay.get(at.saturating_sub(AROUND)..until).unwrap_or_default();
            Some(Finding {
                what: needle.what,
                form: needle.form.clone(),
                at,
                around: String::from_utf8_lossy(around).into_owned(),
            })
        };
        first.into_iter().filter_map(finding).collect()
    }
}

/// What was recorded, by where it comes from.
#[derive(Debug, Clone, Default)]
pub struct Recordings(BTreeMap<String, Vec<u8>>);

impl Recordings {
    /// More of a place; what was there before is kept.
    pub fn add(&mut self, place: impl Into<String>, bytes: impl AsRef<[u8]>) {
        let of = self.0.entry(place.into()).or_default();
        of.extend_from_slice(bytes.as_ref());
        // Nothing is made of the end of one and the beginning of the next.
        of.push(b'\n');
    }

    /// All of others too.
    pub fn extend(&mut self, others: Self) {
        for (place, bytes) in others.0 {
            self.0.entry(place).or_default().extend(bytes);
        }
    }

    /// How many bytes there are of each place.
    pub fn sizes(&self) -> BTreeMap<&str, usize> {
        self.0
            .iter()
            .map(|(place, bytes)| (place.as_str(), bytes.len()))
            .collect()
    }

    /// What a scanner finds, with the place of each finding.
    pub fn search(&self, scanner: &Scanner) -> Vec<(&str, Finding)> {
        let mut all = Vec::new();
        for (place, bytes) in &self.0 {
            all.extend(scanner.find(bytes).into_iter().map(|finding| (place.as_str(), finding)));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::canary::{Canary, needles};

    #[test]
    fn finding_says_what_was_found_where_and_what_is_around() {
        let scanner = Scanner::new(needles(&[Canary::text("VIN", "WKB9ZQ7XJ4T508213")])).unwrap();
        let mut recordings = Recordings::default();
        recordings.add("objects", "nothing");
        recordings.add("log of the adapter", "a car WKB9ZQ7XJ4T508213 came");
        recordings.add("log of the adapter", "and went");
        let found = recordings.search(&scanner);
        let (place, finding) = &found[0];
        assert_eq!((*place, finding.what), ("log of the adapter", "VIN"));
        assert!(finding.around.contains("a car WKB9"), "{finding:?}");
        assert!(found.iter().all(|(place, _)| *place == "log of the adapter"));
        assert_eq!(recordings.sizes()["objects"], 8);
    }

    #[test]
    fn needle_that_lies_in_another_is_found_too() {
        let needle = |bytes: &str, what| Needle {
            bytes: bytes.into(),
            what,
            form: String::new(),
        };
        let scanner = Scanner::new(vec![needle("abcdef", "long"), needle("cde", "short")]).unwrap();
        let found: Vec<_> = scanner.find(b"..abcdef..").into_iter().map(|f| f.what).collect();
        assert_eq!(found, ["long", "short"]);
    }
}
