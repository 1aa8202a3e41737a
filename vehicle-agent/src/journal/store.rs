//! The journal's format and its rules for torn writes, on any medium.
//!
//! A record is its length (4 bytes, little endian), the CRC-32 of its content (4 bytes) and the content, JSON. What follows the last
//! whole record is a torn write: it was never acknowledged, so it is cut off. A failed append is cut off too, so that the next one
//! does not stand behind garbage. Compacting only makes room: one that fails takes nothing back, and is tried again when as much again
//! has been written.

use std::collections::BTreeMap;
use std::io;

use kerbside_core::attempt::Record;
use kerbside_core::ids::PodUid;
use kerbside_core::receipt::Tally;
use serde::{Deserialize, Serialize};

use super::medium::Medium;

/// No record is longer: a larger length is garbage, not a reason to allocate.
const LONGEST: usize = 8 << 20;
/// Below this nothing is gained by compacting.
pub(super) const COMPACT_FROM: u64 = 256 << 10;

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::large_enum_variant, reason = "one at a time is read or written")]
pub(super) enum Entry {
    /// An attempt begins: what was asked, as protobuf in base64.
    Begin { uid: PodUid, run: String },
    /// It has come this far, and has used so much. Agents before there were receipts kept no tally.
    State {
        uid: PodUid,
        record: Record,
        #[serde(default)]
        tally: Tally,
    },
    /// Nobody will ask for it again.
    Forget { uid: PodUid },
}

/// What is known of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) run: String,
    pub(super) record: Option<Record>,
    pub(super) tally: Tally,
}

/// The journal on its medium.
pub(super) struct Store<M> {
    medium: M,
    /// Bytes of whole records; beyond them there may be a torn write.
    length: u64,
    /// A former append failed and could not be cut off.
    torn: bool,
    /// From this length on it is compacted.
    compact_from: u64,
    known: BTreeMap<PodUid, Known>,
}

impl<M: Medium> Store<M> {
    /// Reads what is there, and cuts off a torn write. Returns how many bytes that were.
    pub(super) fn open(mut medium: M) -> io::Result<(Self, u64)> {
        let bytes = medium.read()?;
        let mut known = BTreeMap::new();
        let mut rest = bytes.as_slice();
        while let Some((entry, after)) = decode(rest) {
            apply(&mut known, entry);
            rest = after;
        }
        let torn = rest.len() as u64;
        let length = bytes.len() as u64 - torn;
        if torn > 0 {
            medium.truncate(length)?;
        }
        let mut store = Self {
            medium,
            length,
            torn: false,
            compact_from: COMPACT_FROM,
            known,
        };
        store.compact_if_worth_it();
        Ok((store, torn))
    }

    pub(super) fn known(&self) -> &BTreeMap<PodUid, Known> {
        &self.known
    }

    /// Whether a part of a write that failed may still be there.
    pub(super) fn is_torn(&self) -> bool {
        self.torn
    }

    /// Makes the entries durable, all or (seen after a crash) a beginning of them.
    pub(super) fn write(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for entry in &entries {
            encode(entry, &mut bytes)?;
        }
        if self.torn {
            self.medium.truncate(self.length)?;
            self.torn = false;
        }
        if let Err(error) = self.medium.append(&bytes) {
            self.torn = self.medium.truncate(self.length).is_err();
            return Err(error);
        }
        self.length += bytes.len() as u64;
        for entry in entries {
            apply(&mut self.known, entry);
        }
        self.compact_if_worth_it();
        Ok(())
    }

    /// Makes room, if it can: what was written stands either way.
    fn compact_if_worth_it(&mut self) {
        if self.length < self.compact_from {
            return;
        }
        if let Err(error) = self.compact() {
            tracing::warn!(%error, bytes = self.length, "the journal is not compacted; will be tried again");
            self.compact_from = self.length + COMPACT_FROM;
        }
    }

    fn compact(&mut self) -> io::Result<()> {
        let live = self.live()?;
        let length = live.len() as u64;
        if self.length >= 4 * length {
            self.medium.replace(&live)?;
            self.length = length;
            self.compact_from = COMPACT_FROM;
        }
        Ok(())
    }

    fn live(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for (uid, known) in &self.known {
            encode(
                &Entry::Begin {
                    uid: uid.clone(),
                    run: known.run.clone(),
                },
                &mut bytes,
            )?;
            if let Some(record) = &known.record {
                encode(
                    &Entry::State {
                        uid: uid.clone(),
                        record: record.clone(),
                        tally: known.tally.clone(),
                    },
                    &mut bytes,
                )?;
            }
        }
        Ok(bytes)
    }
}

fn apply(known: &mut BTreeMap<PodUid, Known>, entry: Entry) {
    match entry {
        Entry::Begin { uid, run } => {
            known.insert(
                uid,
                Known {
                    run,
                    record: None,
                    tally: Tally::default(),
                },
            );
        }
        Entry::State { uid, record, tally } => {
            if let Some(known) = known.get_mut(&uid) {
                known.record = Some(record);
                known.tally = tally;
            }
        }
        Entry::Forget { uid } => {
            known.remove(&uid);
        }
    }
}

pub(super) fn encode(entry: &Entry, bytes: &mut Vec<u8>) -> io::Result<()> {
    let content = serde_json::to_vec(entry)?;
    let length = u32::try_from(content.len()).ok().filter(|_| content.len() <= LONGEST);
    let length = length
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the attempt is too large for the journal"))?;
    bytes.extend(length.to_le_bytes());
    bytes.extend(crc(&content).to_le_bytes());
    bytes.extend(content);
    Ok(())
}

/// The first record and what follows it; `None` if there is no whole one.
fn decode(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length))
        .ok()
        .filter(|length| *length <= LONGEST)?;
    let (content, rest) = rest.split_at_checked(length)?;
    if crc(content) != u32::from_le_bytes(*sum) {
        return None;
    }
    Some((serde_json::from_slice(content).ok()?, rest))
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Bytes in memory that survive the store, and an append that breaks after so many bytes.
    #[derive(Clone, Default)]
    pub(in crate::journal) struct Memory {
        bytes: Arc<Mutex<Vec<u8>>>,
        breaks_after: Arc<Mutex<Option<usize>>>,
        truncates: bool,
        /// How often it was to be replaced while that fails.
        not_replaced: Arc<Mutex<Option<usize>>>,
    }

    impl Memory {
        pub(in crate::journal) fn break_after(&self, bytes: Option<usize>) {
            *self.breaks_after.lock().unwrap() = bytes;
        }
    }

    #[expect(clippy::unwrap_in_result, reason = "a poisoned lock fails the test")]
    impl Medium for Memory {
        fn read(&mut self) -> io::Result<Vec<u8>> {
            Ok(self.bytes.lock().unwrap().clone())
        }
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            let breaks = self.breaks_after.lock().unwrap().filter(|after| *after < bytes.len());
            self.bytes
                .lock()
                .unwrap()
                .extend(&bytes[..breaks.unwrap_or(bytes.len())]);
            breaks.map_or(Ok(()), |_| Err(io::Error::other("disk full")))
        }
        fn truncate(&mut self, length: u64) -> io::Result<()> {
            if self.breaks_after.lock().unwrap().is_some() && !self.truncates {
                return Err(io::Error::other("read-only"));
            }
            self.bytes.lock().unwrap().truncate(usize::try_from(length).unwrap());
            Ok(())
        }
        fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
            if let Some(count) = self.not_replaced.lock().unwrap().as_mut() {
                *count += 1;
                return Err(io::Error::other("disk full"));
            }
            *self.bytes.lock().unwrap() = bytes.to_vec();
            Ok(())
        }
    }

    pub(in crate::journal) fn uid(n: usize) -> PodUid {
        format!("uid-{n}").parse().unwrap()
    }

    pub(in crate::journal) fn record(revision: u64) -> Record {
        Record {
            revision,
            outcome: None,
            ended: false,
            started_ms: 5,
            containers: Vec::new(),
        }
    }

    fn begin(n: usize) -> Entry {
        Entry::Begin {
            uid: uid(n),
            run: format!("run-{n}"),
        }
    }

    fn state(n: usize, revision: u64) -> Entry {
        Entry::State {
            uid: uid(n),
            record: record(revision),
            tally: Tally::default(),
        }
    }

    fn entries() -> Vec<Entry> {
        vec![
            begin(1),
            state(1, 1),
            begin(2),
            state(2, 1),
            state(1, 2),
            Entry::Forget { uid: uid(2) },
            state(1, 3),
        ]
    }

    /// What is known after the first `count` entries.
    fn known_after(count: usize) -> BTreeMap<PodUid, Known> {
        let mut known = BTreeMap::new();
        entries()
            .into_iter()
            .take(count)
            .for_each(|entry| apply(&mut known, entry));
        known
    }

    #[test]
    fn state_of_an_agent_that_kept_no_tally_is_read() {
        let mut old = serde_json::to_value(state(1, 3)).unwrap();
        old["state"].as_object_mut().unwrap().remove("tally").unwrap();
        assert_eq!(serde_json::from_value::<Entry>(old).unwrap(), state(1, 3));
    }

    #[test]
    fn journal_torn_at_any_byte_keeps_every_whole_record_and_takes_new_ones() {
        let memory = Memory::default();
        let (mut store, _) = Store::open(memory.clone()).unwrap();
        let mut ends = vec![0];
        for entry in entries() {
            store.write(vec![entry]).unwrap();
            ends.push(memory.bytes.lock().unwrap().len());
        }
        let whole = memory.bytes.lock().unwrap().clone();
        for cut in 0..=whole.len() {
            let torn = Memory::default();
            *torn.bytes.lock().unwrap() = whole[..cut].to_vec();
            let (mut store, lost) = Store::open(torn.clone()).unwrap();
            let records = ends.iter().filter(|end| **end > 0 && **end <= cut).count();
            assert_eq!(store.known(), &known_after(records), "cut at {cut}");
            assert_eq!(lost, (cut - ends[records]) as u64);
            store.write(vec![begin(9)]).unwrap();
            let (again, lost) = Store::open(torn).unwrap();
            assert!(lost == 0 && again.known().contains_key(&uid(9)), "cut at {cut}");
        }
    }

    #[test]
    fn journal_with_any_byte_changed_opens_with_a_beginning_of_what_was() {
        let memory = Memory::default();
        let (mut store, _) = Store::open(memory.clone()).unwrap();
        for entry in entries() {
            store.write(vec![entry]).unwrap();
        }
        let whole = memory.bytes.lock().unwrap().clone();
        let beginnings: Vec<_> = (0..=entries().len()).map(known_after).collect();
        for at in 0..whole.len() {
            let flipped = Memory::default();
            *flipped.bytes.lock().unwrap() = whole.clone();
            flipped.bytes.lock().unwrap()[at] ^= 0x40;
            let (store, _) = Store::open(flipped).unwrap();
            assert!(beginnings.contains(store.known()), "byte {at}");
        }
    }

    #[test]
    fn append_that_fails_at_any_byte_leaves_the_journal_as_it_was() {
        for truncates in [true, false] {
            for after in 0..100 {
                let memory = Memory {
                    truncates,
                    ..Memory::default()
                };
                let (mut store, _) = Store::open(memory.clone()).unwrap();
                store.write(vec![begin(1), state(1, 1)]).unwrap();
                let before = store.known().clone();
                memory.break_after(Some(after));
                let failed = store.write(vec![begin(2), state(2, 7)]);
                memory.break_after(None);
                assert!(failed.is_err());
                assert_eq!(store.known(), &before);
                store.write(vec![state(1, 2)]).unwrap();
                let (again, lost) = Store::open(memory).unwrap();
                assert_eq!((again.known(), lost), (store.known(), 0), "after {after}");
            }
        }
    }

    #[test]
    fn journal_that_has_grown_is_compacted_to_what_is_known() {
        let memory = Memory::default();
        let (mut store, _) = Store::open(memory.clone()).unwrap();
        store.write(vec![begin(1)]).unwrap();
        for revision in 0..5000 {
            store.write(vec![state(1, revision)]).unwrap();
            assert!(memory.bytes.lock().unwrap().len() as u64 <= COMPACT_FROM + 1000);
        }
        let (again, _) = Store::open(memory).unwrap();
        assert_eq!(again.known(), store.known());
        assert_eq!(again.known()[&uid(1)].record.as_ref().unwrap().revision, 4999);
    }

    #[test]
    fn compaction_that_fails_takes_no_write_back_and_is_tried_again_later() {
        let memory = Memory::default();
        *memory.not_replaced.lock().unwrap() = Some(0);
        let (mut store, _) = Store::open(memory.clone()).unwrap();
        store.write(vec![begin(1)]).unwrap();
        let mut revision = 0;
        let mut write = |store: &mut Store<Memory>| {
            revision += 1;
            store.write(vec![state(1, revision)]).unwrap();
            memory.bytes.lock().unwrap().len() as u64
        };
        let tries = || memory.not_replaced.lock().unwrap().unwrap();
        while write(&mut store) < COMPACT_FROM + 10_000 {}
        assert_eq!(tries(), 1, "not with every write");
        // Nor does it keep a journal from being opened.
        let (mut again, _) = Store::open(memory.clone()).unwrap();
        assert_eq!((again.known(), tries()), (store.known(), 2));
        while write(&mut again) < 2 * COMPACT_FROM + 20_000 {}
        assert_eq!(tries(), 3);
        *memory.not_replaced.lock().unwrap() = None;
        while write(&mut again) > COMPACT_FROM {}
        let (compacted, lost) = Store::open(memory.clone()).unwrap();
        assert_eq!((compacted.known(), lost), (again.known(), 0));
    }

    #[test]
    fn length_beyond_all_reason_is_garbage() {
        let memory = Memory::default();
        *memory.bytes.lock().unwrap() = vec![0xff; 64];
        assert_eq!(Store::open(memory).unwrap().1, 64);
    }
}
