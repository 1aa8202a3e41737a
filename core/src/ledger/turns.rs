//! Whose receipts are looked at next, where more wait than one pass can take.
//!
//! Owned by the settler. Vehicles take turns, one receipt each, and the next pass begins behind the vehicle that had the last turn. Never: a
//! vehicle that waits for another's receipts beyond one turn of each vehicle.

use std::collections::{BTreeMap, VecDeque};

/// Remembers who had the last turn.
#[derive(Debug, Default)]
pub struct Turns<K> {
    last: Option<K>,
}

impl<K: Clone + Ord> Turns<K> {
    /// At most `most` of what waits, by whom it is of; of each in the order given.
    pub fn choose<T>(&mut self, mut waiting: BTreeMap<K, VecDeque<T>>, most: usize) -> Vec<T> {
        let mut behind = BTreeMap::new();
        if let Some(last) = &self.last {
            behind = waiting.split_off(last);
            if let Some((who, items)) = behind.remove_entry(last) {
                waiting.insert(who, items);
            }
        }
        let mut turns: VecDeque<(K, VecDeque<T>)> = behind.into_iter().chain(waiting).collect();
        let mut chosen = Vec::new();
        while chosen.len() < most {
            let Some((who, mut items)) = turns.pop_front() else {
                break;
            };
            let Some(item) = items.pop_front() else {
                continue;
            };
            chosen.push(item);
            self.last = Some(who.clone());
            turns.push_back((who, items));
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn waiting(counts: &[usize]) -> BTreeMap<usize, VecDeque<(usize, usize)>> {
        let of = |(who, count): (usize, &usize)| (who, (0..*count).map(|n| (who, n)).collect());
        counts.iter().enumerate().map(of).collect()
    }

    #[test]
    fn flood_of_one_is_taken_up_beside_the_others_and_not_before_them() {
        let mut turns = Turns::default();
        assert_eq!(
            turns.choose(waiting(&[1_000, 1, 2]), 5),
            [(0, 0), (1, 0), (2, 0), (0, 1), (2, 1)]
        );
    }

    #[test]
    fn next_pass_begins_behind_who_had_the_last_turn() {
        let mut turns = Turns::default();
        let all = [9, 9, 9, 9, 9];
        assert_eq!(turns.choose(waiting(&all), 2), [(0, 0), (1, 0)]);
        assert_eq!(turns.choose(waiting(&all), 2), [(2, 0), (3, 0)]);
        assert_eq!(turns.choose(waiting(&all), 2), [(4, 0), (0, 0)]);
    }

    #[test]
    fn who_had_the_last_turn_and_is_gone_stops_nobody() {
        let mut turns = Turns { last: Some(7) };
        assert_eq!(turns.choose(waiting(&[1, 1]), 9), [(0, 0), (1, 0)]);
    }

    proptest! {
        #[test]
        fn pass_takes_all_that_it_can_each_once_and_of_each_in_order(
            counts in prop::collection::vec(0usize..30, 0..20),
            most in 0usize..100,
            last in prop::option::of(0usize..25),
        ) {
            let all: usize = counts.iter().sum();
            let chosen = Turns { last }.choose(waiting(&counts), most);
            prop_assert_eq!(chosen.len(), all.min(most));
            let mut next = vec![0; counts.len()];
            for (who, n) in &chosen {
                prop_assert_eq!(*n, next[*who]);
                next[*who] += 1;
            }
            // Nobody has two turns more than another who still waits.
            for (who, count) in counts.iter().enumerate() {
                let fewest = next[who];
                prop_assert!(fewest == *count || next.iter().all(|had| *had <= fewest + 1));
            }
        }

        #[test]
        fn everyone_comes_round_whatever_the_others_send(
            counts in prop::collection::vec(1usize..50, 1..40),
            most in 1usize..10,
        ) {
            // Nothing of what waits ever goes, and all of it is always due.
            let mut turns = Turns::default();
            let mut seen = vec![false; counts.len()];
            for _ in 0..counts.len().div_ceil(most) {
                for (who, _) in turns.choose(waiting(&counts), most) {
                    seen[who] = true;
                }
            }
            prop_assert!(seen.iter().all(|seen| *seen));
        }
    }
}
