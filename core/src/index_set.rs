//! Sets of completion indexes in the interval form of batch/v1: `0-41,43`.
//!
//! Owned by a job's ledger: the indexes that are completed, and those that have failed. A set of any 100,000 indexes is kept as
//! its ranges, so that a job that completes in order costs a few bytes. Ranges are sorted and never touch each other.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One more than the largest index that a set takes: the most completions that a FleetJob may have.
pub const BOUND: u32 = 100_000;

/// A set of completion indexes below [`BOUND`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IndexSet {
    ranges: Vec<Range>,
}

/// Both ends are in the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Range {
    first: u32,
    last: u32,
}

/// A text that is not a set of indexes, or an index that is too large for one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexSetError {
    /// A part of the text is neither `3` nor `5-8`.
    #[error("'{0}' is not an index or a range of indexes such as 3 or 5-8")]
    Malformed(String),
    /// A part does not come after the part before it.
    #[error("'{0}' does not come after the indexes before it")]
    Unsorted(String),
    /// An index is not below [`BOUND`].
    #[error("index {0} is too large: a FleetJob has at most {BOUND} completions")]
    TooLarge(u32),
}

impl IndexSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// All indexes below `end`, of which there are at most [`BOUND`].
    pub fn below(end: u32) -> Self {
        let ranges = end.min(BOUND).checked_sub(1).map(|last| Range { first: 0, last });
        Self {
            ranges: ranges.into_iter().collect(),
        }
    }

    /// Whether `index` is in the set.
    pub fn contains(&self, index: u32) -> bool {
        self.ranges
            .get(self.position(index))
            .is_some_and(|range| range.first <= index)
    }

    /// Puts `index` in; says whether it was not there before.
    pub fn insert(&mut self, index: u32) -> Result<bool, IndexSetError> {
        if index >= BOUND {
            return Err(IndexSetError::TooLarge(index));
        }
        let at = self.position(index);
        let after = self.ranges.get(at).copied();
        if after.is_some_and(|range| range.first <= index) {
            return Ok(false);
        }
        let before = at.checked_sub(1).map(|i| self.ranges[i]);
        let joins_before = before.is_some_and(|range| range.last + 1 == index);
        let joins_after = after.is_some_and(|range| index + 1 == range.first);
        match (joins_before, joins_after) {
            (true, true) => {
                self.ranges[at - 1].last = self.ranges[at].last;
                self.ranges.remove(at);
            }
            (true, false) => self.ranges[at - 1].last = index,
            (false, true) => self.ranges[at].first = index,
            (false, false) => self.ranges.insert(
                at,
                Range {
                    first: index,
                    last: index,
                },
            ),
        }
        Ok(true)
    }

    /// How many indexes are in the set.
    pub fn len(&self) -> u32 {
        self.ranges.iter().map(|range| range.last - range.first + 1).sum()
    }

    /// Whether no index is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The indexes, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.ranges.iter().flat_map(|range| range.first..=range.last)
    }

    /// The indexes that are in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all: Vec<_> = self.ranges.iter().chain(&other.ranges).copied().collect();
        all.sort_unstable_by_key(|range| range.first);
        let mut ranges: Vec<Range> = Vec::with_capacity(all.len());
        for range in all {
            match ranges.last_mut() {
                Some(last) if range.first <= last.last + 1 => last.last = last.last.max(range.last),
                _ => ranges.push(range),
            }
        }
        Self { ranges }
    }

    /// The indexes below `end` that are not in the set.
    #[must_use]
    pub fn complement(&self, end: u32) -> Self {
        Self {
            ranges: self.gaps(end.min(BOUND)).collect(),
        }
    }

    /// The indexes below `end` that are not in the set, in order; `take(n)` for the first of them, at no more cost than that.
    pub fn missing(&self, end: u32) -> impl Iterator<Item = u32> {
        self.gaps(end.min(BOUND)).flat_map(|range| range.first..=range.last)
    }

    fn gaps(&self, end: u32) -> impl Iterator<Item = Range> {
        let starts = std::iter::once(0).chain(self.ranges.iter().map(|range| range.last + 1));
        let ends = self.ranges.iter().map(|range| range.first).chain(std::iter::once(end));
        let gaps = starts.zip(ends).take_while(move |(start, _)| *start < end);
        gaps.filter_map(move |(first, next)| {
            let last = next.min(end).checked_sub(1)?;
            (first <= last).then_some(Range { first, last })
        })
    }

    /// Where the first range is that does not end before `index`.
    fn position(&self, index: u32) -> usize {
        self.ranges.partition_point(|range| range.last < index)
    }
}

impl fmt::Display for IndexSet {
    /// As batch/v1 writes it: two neighbours are two indexes, `3,4`; from three on they are a range, `3-5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.ranges.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match range.last - range.first {
                0 => write!(f, "{comma}{}", range.first)?,
                1 => write!(f, "{comma}{},{}", range.first, range.last)?,
                _ => write!(f, "{comma}{}-{}", range.first, range.last)?,
            }
        }
        Ok(())
    }
}

impl FromStr for IndexSet {
    type Err = IndexSetError;

    fn from_str(text: &str) -> Result<Self, IndexSetError> {
        let mut ranges: Vec<Range> = Vec::new();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let shown = || part.chars().take(40).collect();
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = index(first)
                .zip(index(last))
                .ok_or_else(|| IndexSetError::Malformed(shown()))?;
            if last >= BOUND {
                return Err(IndexSetError::TooLarge(last));
            }
            if last < first || ranges.last().is_some_and(|range| first <= range.last) {
                return Err(IndexSetError::Unsorted(shown()));
            }
            match ranges.last_mut() {
                Some(range) if range.last + 1 == first => range.last = last,
                _ => ranges.push(Range { first, last }),
            }
        }
        Ok(Self { ranges })
    }
}

/// Digits only: `u32::from_str` would also take a sign.
fn index(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

impl TryFrom<String> for IndexSet {
    type Error = IndexSetError;
    fn try_from(text: String) -> Result<Self, IndexSetError> {
        text.parse()
    }
}

impl From<IndexSet> for String {
    fn from(set: IndexSet) -> Self {
        set.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    #[rstest::rstest]
    #[case("", "")]
    #[case("0", "0")]
    #[case("0-41,43", "0-41,43")]
    #[case("1,2", "1,2")]
    #[case("1-2", "1,2")]
    #[case("1,2,3", "1-3")]
    #[case("0-3,4-9,99999", "0-9,99999")]
    fn index_set_read_and_printed_is_canonical(#[case] text: &str, #[case] canonical: &str) {
        assert_eq!(text.parse::<IndexSet>().unwrap().to_string(), canonical);
    }

    #[rstest::rstest]
    #[case("a", "such as 3 or 5-8")]
    #[case("1,", "such as 3 or 5-8")]
    #[case(",", "such as 3 or 5-8")]
    #[case("-", "such as 3 or 5-8")]
    #[case("1-2-3", "such as 3 or 5-8")]
    #[case("+1", "such as 3 or 5-8")]
    #[case("99999999999", "such as 3 or 5-8")]
    #[case("5-3", "does not come after")]
    #[case("5,5", "does not come after")]
    #[case("5,3", "does not come after")]
    #[case("100000", "at most 100000 completions")]
    #[case("0-4294967295", "at most 100000 completions")]
    fn index_set_of_another_form_is_refused(#[case] text: &str, #[case] advice: &str) {
        let message = text.parse::<IndexSet>().unwrap_err().to_string();
        assert!(message.contains(advice), "{message}");
    }

    #[test]
    fn index_set_insert_beyond_the_bound_is_refused() {
        let mut set = IndexSet::below(u32::MAX);
        assert_eq!(set.len(), BOUND);
        assert_eq!(set.insert(BOUND), Err(IndexSetError::TooLarge(BOUND)));
        assert_eq!(set.insert(BOUND - 1), Ok(false));
        assert_eq!(IndexSet::below(0), IndexSet::new());
    }

    #[test]
    fn index_set_missing_stops_at_the_end() {
        let set: IndexSet = "0-2,5,8-20".parse().unwrap();
        assert_eq!(set.missing(10).take(3).collect::<Vec<_>>(), [3, 4, 6]);
        assert_eq!(set.complement(10).to_string(), "3,4,6,7");
        assert_eq!(set.complement(1), IndexSet::new());
        assert_eq!(set.complement(0), IndexSet::new());
    }

    fn of(indexes: &BTreeSet<u32>) -> IndexSet {
        let mut set = IndexSet::new();
        for index in indexes {
            assert!(set.insert(*index).unwrap());
        }
        set
    }

    fn indexes() -> impl Strategy<Value = Vec<u32>> {
        proptest::collection::vec(prop_oneof![0u32..40, 0u32..BOUND], 0..60)
    }

    proptest! {
        #[test]
        fn index_set_agrees_with_a_plain_set(inserts in indexes(), end in 0u32..60) {
            let (mut set, mut plain) = (IndexSet::new(), BTreeSet::new());
            for index in inserts {
                prop_assert_eq!(set.insert(index).unwrap(), plain.insert(index));
            }
            prop_assert_eq!(set.len() as usize, plain.len());
            prop_assert_eq!(set.is_empty(), plain.is_empty());
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), plain.iter().copied().collect::<Vec<_>>());
            for index in 0..60 {
                prop_assert_eq!(set.contains(index), plain.contains(&index));
            }
            let missing: Vec<_> = (0..end).filter(|i| !plain.contains(i)).collect();
            prop_assert_eq!(set.missing(end).collect::<Vec<_>>(), missing.clone());
            prop_assert_eq!(set.complement(end), of(&missing.into_iter().collect()));
        }

        #[test]
        fn index_set_printed_and_read_is_the_same(inserts in indexes()) {
            let set = of(&inserts.into_iter().collect());
            prop_assert_eq!(set.to_string().parse(), Ok(set));
        }

        #[test]
        fn index_set_union_agrees_with_a_plain_set(a in indexes(), b in indexes()) {
            let (a, b): (BTreeSet<_>, BTreeSet<_>) = (a.into_iter().collect(), b.into_iter().collect());
            prop_assert_eq!(of(&a).union(&of(&b)), of(&a.union(&b).copied().collect()));
        }

        #[test]
        fn index_set_of_any_text_never_panics(text in "[0-9,-]{0,30}") {
            if let Ok(set) = text.parse::<IndexSet>() {
                prop_assert_eq!(set.to_string().parse(), Ok(set));
            }
        }
    }
}
