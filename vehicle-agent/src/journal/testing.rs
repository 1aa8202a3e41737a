//! A disk for the tests of what stands above the journal, and the receipts: it loses power, is full or hangs at a write of the test's choice.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::medium::Medium;
use super::store::{COMPACT_FROM, Entry, encode};

/// Bytes that survive the agent, and what happens to them. Clones are the same disk.
#[derive(Clone)]
pub(crate) struct Faulty {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    /// Writes that were begun, and whether the power was lost in one.
    progress: watch::Sender<(usize, bool)>,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    /// They are lines, and not records of a journal.
    lines: bool,
    /// Appends and replacements so far.
    writes: usize,
    power: Option<Loss>,
    full: Full,
    /// So often what was written in part cannot be cut off.
    stuck: usize,
    hangs: bool,
}

/// Power that is lost within a write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loss {
    /// The number of the write.
    pub(crate) write: usize,
    /// How much of it is there: the number of one of [`cuts`].
    pub(crate) cut: usize,
}

/// A disk that has no room for a while.
#[derive(Debug, Clone, Default)]
pub(crate) struct Full {
    /// For these writes.
    pub(crate) writes: Range<usize>,
    /// It says so of a write that is all there, and which cannot be cut off at once.
    pub(crate) liar: bool,
}

/// Where a write may be cut, by what that means: nothing of it, a part of a record, a whole record and no more, a part of the last one, all
/// of it. `salt` chooses the byte within a record.
fn cuts(bytes: &[u8], salt: usize) -> Vec<usize> {
    let mut cuts = vec![0];
    let mut begin = 0;
    while let Some(length) = bytes[begin..].first_chunk::<4>() {
        let length = 8 + usize::try_from(u32::from_le_bytes(*length)).expect("a record fits in memory");
        cuts.push(begin + 1 + salt * 37 % (length - 1));
        begin += length;
        cuts.push(begin);
    }
    cuts
}

/// The same of lines.
fn cuts_of_lines(bytes: &[u8], salt: usize) -> Vec<usize> {
    let mut cuts = vec![0];
    let mut begin = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        cuts.push(begin + 1 + salt * 37 % (line.len().max(2) - 1));
        begin += line.len();
        // All but its end is there too.
        cuts.extend([begin - 1, begin]);
    }
    cuts
}

impl Faulty {
    /// A good disk, with a journal on it that is about to be compacted.
    pub(crate) fn new() -> Self {
        let uid: kerbside_core::ids::PodUid = "u-old".parse().expect("a uid");
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < COMPACT_FROM - 5_000 {
            let begin = Entry::Begin {
                uid: uid.clone(),
                run: "x".repeat(4000),
            };
            for entry in [begin, Entry::Forget { uid: uid.clone() }] {
                encode(&entry, &mut bytes).expect("an entry can be written");
            }
        }
        Self::with(bytes, false)
    }

    /// A good disk with nothing on it, for lines.
    pub(crate) fn of_lines() -> Self {
        Self::with(Vec::new(), true)
    }

    fn with(bytes: Vec<u8>, lines: bool) -> Self {
        let state = State {
            bytes,
            lines,
            ..State::default()
        };
        Self {
            inner: Arc::new(Inner {
                state: Mutex::new(state),
                changed: Condvar::new(),
                progress: watch::Sender::new((0, false)),
            }),
        }
    }

    pub(crate) fn loses_power(self, loss: Option<Loss>) -> Self {
        self.lock().power = loss;
        self
    }

    pub(crate) fn fills_up(self, full: Full) -> Self {
        self.lock().full = full;
        self
    }

    /// From now on no write ends.
    pub(crate) fn hang(&self) {
        self.lock().hangs = true;
    }

    /// Waits until the power is lost.
    pub(crate) async fn lost(&self) {
        self.wait(|(_, lost)| lost).await;
    }

    /// Waits until so many writes have begun.
    pub(crate) async fn reaches(&self, writes: usize) {
        self.wait(|(begun, _)| begun >= writes).await;
    }

    async fn wait(&self, wanted: impl Fn((usize, bool)) -> bool) {
        let mut progress = self.inner.progress.subscribe();
        let there = progress.wait_for(|progress| wanted(*progress)).await;
        there.expect("the disk is there");
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    pub(crate) fn writes(&self) -> usize {
        self.lock().writes
    }

    /// The same bytes in a machine that has started again, without faults. Whoever still hung on the old one goes.
    pub(crate) fn restarted(&self) -> Self {
        let mut state = self.lock();
        state.hangs = false;
        state.power = None;
        self.inner.changed.notify_all();
        Self::with(state.bytes.clone(), state.lines)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the bytes as `write` does with a part of what is given, or all.
    fn write(&mut self, bytes: &[u8], cuts: &[usize], write: impl Fn(&mut Vec<u8>, &[u8])) -> io::Result<()> {
        let mut state = self.lock();
        let number = state.writes;
        state.writes += 1;
        let mut lost = false;
        let cut = state.power.filter(|loss| loss.write == number);
        if let Some(cut) = cut.and_then(|loss| cuts.get(loss.cut)) {
            write(&mut state.bytes, &bytes[..*cut]);
            state.hangs = true;
            lost = true;
        }
        self.inner.progress.send_replace((state.writes, lost));
        if state.hangs {
            let _gone = self
                .inner
                .changed
                .wait_while(state, |state| state.hangs)
                .unwrap_or_else(PoisonError::into_inner);
            return Err(io::Error::other("no power"));
        }
        if state.full.writes.contains(&number) {
            return Err(io::Error::other("disk full"));
        }
        write(&mut state.bytes, bytes);
        Ok(())
    }
}

impl Medium for Faulty {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.lock().bytes.clone())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let of_lines = self.lock().lines;
        let salt = self.writes();
        let cuts = if of_lines {
            cuts_of_lines(bytes, salt)
        } else {
            cuts(bytes, salt)
        };
        let written = self.write(bytes, &cuts, |file, bytes| file.extend(bytes));
        let mut state = self.lock();
        if written.is_err() && state.full.liar {
            state.bytes.extend(bytes);
            state.stuck = 2;
        }
        written
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let mut state = self.lock();
        if let Some(left) = state.stuck.checked_sub(1) {
            state.stuck = left;
            return Err(io::Error::other("read-only"));
        }
        state.bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        // The old or the new, and nothing between.
        let cuts = [0, bytes.len()];
        self.write(bytes, &cuts, |file, bytes| {
            if !bytes.is_empty() {
                *file = bytes.to_vec();
            }
        })
    }
}
