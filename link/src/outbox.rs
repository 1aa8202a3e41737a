//! What waits to be sent to one peer: the newest value per key, in two lanes, of bounded number.
//!
//! Pure; used by both sides of the link through `mailbox`. A value replaced before it went out never goes out: however long a
//! peer is slow or away, what waits for it is what it must know now, not what happened. Never: an entry of [`Lane::State`]
//! before one of [`Lane::Control`], two entries of one key, or more entries than the limit.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Which of the two queues an entry waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Stop, heartbeats and what ends a session: never waits behind anything else.
    Control,
    /// Everything else.
    State,
}

/// There are as many different keys waiting as are allowed: the peer has not taken anything for very long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("failed to queue message: {limit} others wait for the peer")]
pub struct Full {
    limit: usize,
}

/// The newest value of each key, until it is taken.
#[derive(Debug)]
pub struct Outbox<K, V> {
    control: VecDeque<K>,
    state: VecDeque<K>,
    values: HashMap<K, (Lane, V)>,
    limit: usize,
}

impl<K: Clone + Eq + Hash, V> Outbox<K, V> {
    /// An outbox that holds at most `limit` keys.
    pub fn new(limit: usize) -> Self {
        Self {
            control: VecDeque::new(),
            state: VecDeque::new(),
            values: HashMap::new(),
            limit,
        }
    }

    /// Puts the newest value of `key`. A value that waits already is replaced in its place, so that a key that changes often
    /// is not sent last for ever; a key put in another lane moves there.
    pub fn put(&mut self, lane: Lane, key: K, value: V) -> Result<(), Full> {
        if let Some((held_in, held)) = self.values.get_mut(&key) {
            *held = value;
            if *held_in != lane {
                *held_in = lane;
                self.unqueue(&key);
                self.queue(lane).push_back(key);
            }
            return Ok(());
        }
        if self.values.len() >= self.limit {
            return Err(Full { limit: self.limit });
        }
        self.queue(lane).push_back(key.clone());
        self.values.insert(key, (lane, value));
        Ok(())
    }

    /// Takes what is to be sent next.
    pub fn pop(&mut self) -> Option<V> {
        let key = self.control.pop_front().or_else(|| self.state.pop_front())?;
        if self.values.len() == 1 {
            // Back to nothing: an idle car must not hold the memory of its busiest minute.
            let value = self.values.remove(&key).map(|(_, value)| value);
            *self = Self::new(self.limit);
            return value;
        }
        self.values.remove(&key).map(|(_, value)| value)
    }

    /// Takes back what waits under `key`.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (_, value) = self.values.remove(key)?;
        self.unqueue(key);
        Some(value)
    }

    /// Takes back everything.
    pub fn clear(&mut self) {
        *self = Self::new(self.limit);
    }

    /// How many keys wait.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn queue(&mut self, lane: Lane) -> &mut VecDeque<K> {
        match lane {
            Lane::Control => &mut self.control,
            Lane::State => &mut self.state,
        }
    }

    fn unqueue(&mut self, key: &K) {
        self.control.retain(|k| k != key);
        self.state.retain(|k| k != key);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn value_put_twice_is_sent_once_and_the_newest() {
        let mut outbox = Outbox::new(4);
        outbox.put(Lane::State, "a", 1).unwrap();
        outbox.put(Lane::State, "b", 2).unwrap();
        outbox.put(Lane::State, "a", 3).unwrap();
        assert_eq!([outbox.pop(), outbox.pop(), outbox.pop()], [Some(3), Some(2), None]);
    }

    #[test]
    fn control_put_last_is_sent_first() {
        let mut outbox = Outbox::new(4);
        outbox.put(Lane::State, "status", 1).unwrap();
        outbox.put(Lane::Control, "stop", 2).unwrap();
        assert_eq!([outbox.pop(), outbox.pop()], [Some(2), Some(1)]);
    }

    #[test]
    fn key_put_in_the_other_lane_moves_there() {
        let mut outbox = Outbox::new(4);
        outbox.put(Lane::State, "a", 1).unwrap();
        outbox.put(Lane::State, "b", 2).unwrap();
        outbox.put(Lane::Control, "b", 3).unwrap();
        assert_eq!([outbox.pop(), outbox.pop(), outbox.pop()], [Some(3), Some(1), None]);
    }

    #[test]
    fn new_key_over_the_limit_is_refused_and_a_known_one_is_not() {
        let mut outbox = Outbox::new(1);
        outbox.put(Lane::State, "a", 1).unwrap();
        assert_eq!(outbox.put(Lane::Control, "b", 2), Err(Full { limit: 1 }));
        outbox.put(Lane::State, "a", 3).unwrap();
        assert_eq!(outbox.pop(), Some(3));
    }

    #[derive(Debug, Clone)]
    enum Op {
        Put(bool, u8, u32),
        Remove(u8),
        Pop,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (any::<bool>(), 0u8..12, any::<u32>()).prop_map(|(c, k, v)| Op::Put(c, k, v)),
            1 => (0u8..12).prop_map(Op::Remove),
            2 => Just(Op::Pop),
        ]
    }

    proptest! {
        #[test]
        fn outbox_after_any_operations_gives_each_key_once_newest_and_control_first(ops in prop::collection::vec(op(), 0..200)) {
            const LIMIT: usize = 8;
            let mut outbox = Outbox::new(LIMIT);
            let mut model: HashMap<u8, (bool, u32)> = HashMap::new();
            for op in ops {
                match op {
                    Op::Put(control, key, value) => {
                        let lane = if control { Lane::Control } else { Lane::State };
                        let fits = model.contains_key(&key) || model.len() < LIMIT;
                        prop_assert_eq!(outbox.put(lane, key, (key, value)).is_ok(), fits);
                        if fits {
                            model.insert(key, (control, value));
                        }
                    }
                    Op::Remove(key) => {
                        let held = model.remove(&key).map(|(_, v)| (key, v));
                        prop_assert_eq!(outbox.remove(&key), held);
                    }
                    Op::Pop => match outbox.pop() {
                        None => prop_assert!(model.is_empty()),
                        Some((key, value)) => {
                            let (control, newest) = model.remove(&key).expect("a key is given once");
                            prop_assert_eq!(value, newest);
                            prop_assert!(control || model.values().all(|(c, _)| !c), "state before control");
                        }
                    },
                }
                prop_assert_eq!(outbox.len(), model.len());
            }
        }
    }
}
