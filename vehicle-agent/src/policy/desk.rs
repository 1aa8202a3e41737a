//! What the policy loop has read and written: on a thread that may wait for the disk, so that the loop never does.
//!
//! Owned by the loop. There is one errand at a time: all papers go to the thread with it and come back with what came of it, so that nothing is
//! written out of its order, and nothing that was read is older than what was read before. Meanwhile the loop goes on by what it knows, and
//! stops by itself what has run out. What must never happen: a loop that waits for a disk, or a word of the owner's that is answered as kept
//! before it is.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kerbside_core::clock::Boottime;
use kerbside_core::consent::Mark;
use kerbside_core::owner::{Remembered, Word};
use kerbside_core::parked::Snapshot;
use tokio::task::JoinHandle;

use crate::config::{self, ConfigError, Owner};
use crate::consents::{self, Book, ConsentError, News, Reader};
use crate::control;
use crate::directory::Directory;
use crate::forget;
use crate::signals::said::Said;
use crate::stamp::Stamp;
use crate::stays;

/// An errand that is out for longer has met a disk that does not answer: what is said by a file is not heard meanwhile.
const HANGS: Duration = Duration::from_secs(10);

/// What is to be done. What is wanted while an errand is out waits for it.
#[derive(Debug, Default)]
pub(super) struct Errand {
    /// The documents may be new: the owner's, and the consents.
    pub(super) look: bool,
    /// A command says that the consents are.
    pub(super) consents_are_new: bool,
    /// The owner's newest word, and what is to be remembered of it.
    pub(super) word: Option<(Word, Remembered)>,
    /// What time has done is to be written down: what the clock shows, and how late it is at least.
    pub(super) see: Option<(Timestamp, Timestamp)>,
    /// What the car remembers of its stays.
    pub(super) stays: Option<stays::Kept>,
    /// Some optional signal was said for the first time, by this moment.
    snapshot: Option<(Arc<Snapshot>, Boottime)>,
}

impl Errand {
    /// Whether there is nothing to do.
    fn is_empty(&self) -> bool {
        let Self {
            look,
            consents_are_new,
            word,
            see,
            stays,
            snapshot,
        } = self;
        !look && !consents_are_new && word.is_none() && see.is_none() && stays.is_none() && snapshot.is_none()
    }
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) document: Read,
    pub(super) consents: News,
    /// How far the consents have come, by the mark that was read last.
    pub(super) mark: Option<Mark>,
    /// Whether the car is to forget its owner, if that was looked at.
    pub(super) forgetting: Option<bool>,
    /// The owner's word, if there was one and the disk did not take it.
    pub(super) untaken: Option<(Word, Remembered)>,
}

/// What is new in the owner's document.
#[derive(Debug)]
pub(super) enum Read {
    /// Nothing.
    None,
    /// Something that may be about to change again.
    Settling,
    /// This; nothing, if it cannot be read or is not there.
    Document(Option<Box<Owner>>),
}

/// The way to the papers.
pub(super) struct Desk {
    /// Here; `None`: on the thread.
    papers: Option<Papers>,
    out: Option<JoinHandle<(Papers, Done)>>,
    /// How long the computer had been awake when it went out: a disk that sleeps with it does not hang.
    since: Duration,
    /// How long it has been, by now.
    pub(super) awake: Duration,
}

impl Desk {
    pub(super) fn new(directory: Directory, reader: Reader, said: Said) -> Self {
        let papers = Papers {
            directory,
            reader,
            said,
            seen: None,
            changing: None,
            trouble: String::new(),
            took_none: false,
        };
        Self {
            papers: Some(papers),
            out: None,
            since: Duration::ZERO,
            awake: Duration::ZERO,
        }
    }

    /// For how long the disk has not answered, if that is too long.
    pub(super) fn hangs(&self, awake: Duration) -> Option<Duration> {
        let out = awake.saturating_sub(self.since);
        (self.out.is_some() && out > HANGS).then_some(out)
    }

    /// Sends out what is wanted; `anyway`: also if that is nothing. Whether it has gone: not while the last errand is not back.
    pub(super) fn send(&mut self, errand: &mut Errand, anyway: bool, snapshot: &Arc<Snapshot>, now: Boottime) -> bool {
        let Some(mut papers) = self.papers.take() else {
            return false;
        };
        if papers.said.is_news(snapshot, now) {
            errand.snapshot = Some((Arc::clone(snapshot), now));
        }
        if errand.is_empty() && !anyway {
            self.papers = Some(papers);
            return false;
        }
        let errand = std::mem::take(errand);
        self.since = self.awake;
        self.out = Some(tokio::task::spawn_blocking(move || {
            let done = papers.run(errand);
            (papers, done)
        }));
        true
    }

    /// What came of the errand, when it is back; never, if none is out. `None`: its thread is gone, and with it all papers.
    pub(super) async fn done(&mut self) -> Option<Done> {
        let Some(out) = &mut self.out else {
            return std::future::pending().await;
        };
        let back = out.await;
        self.out = None;
        match back {
            Ok((papers, done)) => {
                self.papers = Some(papers);
                Some(done)
            }
            Err(error) => {
                tracing::error!(%error, "nothing more of the owner's can be read: all work ends");
                None
            }
        }
    }
}

/// What is known of the files.
struct Papers {
    directory: Directory,
    reader: Reader,
    said: Said,
    /// The owner's document as it was read last.
    seen: Option<Stamp>,
    /// Another one, that may be about to change again.
    changing: Option<Stamp>,
    /// Why it counts as none, as the log says already.
    trouble: String,
    /// The disk did not take the owner's word, as the log says already.
    took_none: bool,
}

impl Papers {
    /// Does everything that is wanted, the owner's word first. Blocks.
    fn run(&mut self, errand: Errand) -> Done {
        let untaken = errand.word.filter(|(word, remembered)| !self.keep(*word, *remembered));
        let looks = errand.look || errand.consents_are_new;
        let document = if looks { self.document() } else { Read::None };
        let mut consents = if looks {
            self.reader.look(errand.consents_are_new)
        } else {
            News::None
        };
        // What was written is read at once: else it would be written again.
        if errand.see.is_some_and(|(wall, counted)| self.see(wall, counted))
            && let written @ News::Read(_) = self.reader.look(true)
        {
            consents = written;
        }
        if let Some((snapshot, now)) = errand.snapshot {
            self.said.keep(&snapshot, now);
        }
        if let Some(stays) = errand.stays {
            stays.write();
        }
        Done {
            document,
            consents,
            mark: self.reader.mark().cloned(),
            forgetting: looks.then(|| forget::is_pending(&self.directory)),
            untaken,
        }
    }

    /// Keeps the owner's word over restarts. Whether the disk took it.
    fn keep(&mut self, word: Word, remembered: Remembered) -> bool {
        let file: PathBuf = self.directory.command();
        let Err(error) = control::remember(&file, remembered) else {
            self.took_none = false;
            return true;
        };
        let told = std::mem::replace(&mut self.took_none, true);
        if !told {
            tracing::error!(%error, "the owner's command holds, but could not be written down; it is tried again");
        }
        // What cannot be read is a withdrawal, and to empty a file takes no room on a disk that is full.
        if word != Word::Resume
            && let Err(error) = std::fs::File::create(file)
            && !told
        {
            tracing::error!(%error, "the owner's command would not survive a restart");
        }
        false
    }

    /// Writes down that a consent has run out, which then is over for good, whatever a clock shows later; and what the clock shows. Whether
    /// something may have been written.
    fn see(&self, wall: Timestamp, counted: Timestamp) -> bool {
        match Book::open(&self.directory, false).and_then(|mut book| book.see_counted(wall, counted)) {
            Ok(()) => true,
            // Whoever writes will be read.
            Err(ConsentError::Busy) => false,
            Err(error) => {
                let error = consents::said(&error);
                tracing::warn!(error, "not written down that a consent has expired");
                false
            }
        }
    }

    /// Reads the owner's document if it is another one, and has stayed so for a moment.
    fn document(&mut self) -> Read {
        let path = self.directory.owner();
        let stamp = Stamp::of(&path);
        if self.seen.as_ref() == Some(&stamp) {
            self.changing = None;
            return Read::None;
        }
        // An editor may be writing it at this moment, and half of it may say less than the whole.
        if self.seen.is_some() && self.changing.as_ref() != Some(&stamp) {
            self.changing = Some(stamp);
            return Read::Settling;
        }
        self.changing = None;
        let read = config::owner(&path);
        // A disk that does not give it now may give it at the next look.
        self.seen = Some(stamp).filter(|_| !matches!(read, Err(ConfigError::Read { .. })));
        let usable = matches!(read, Ok(Some(_)));
        let (owner, trouble) = match read {
            Ok(owner) => (owner, String::new()),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                (None, format!("{error}: {}", cause.unwrap_or_default()))
            }
        };
        if !trouble.is_empty() && trouble != self.trouble {
            tracing::error!(trouble, "the owner's document counts as none");
        }
        if self.seen.is_some() {
            tracing::info!(usable, "owner's document read");
        }
        self.trouble = trouble;
        Read::Document(owner.map(Box::new))
    }
}
