//! What the owner says to the loop, and how that is answered: when it is kept, when the disk did not take it, or when that takes too long.
//!
//! A word holds from the moment in which it is heard, whatever the disk does. What must never happen: a word that is answered as kept and is not,
//! or one that is given up because the disk did not take it once.

use std::time::Duration;

use kerbside_core::clock::Boottime;
use kerbside_core::owner::{Remembered, Word};
use tokio::sync::{oneshot, watch};

use super::Policy;
use crate::cluster::Cluster;
use crate::control::{self, Answer, Ask};

/// Whoever said something hears by then how it stands: less than a command in the car waits.
pub(super) const ANSWER: Duration = Duration::from_secs(4);

/// What is said of a word where the disk is too slow.
const NOT_YET: &str = "; it holds, and is not written down yet, for the disk does not answer: until it does, the car may not know it after a restart";
/// What is said of one that the disk did not take.
const NOT_TAKEN: &str = "; it holds, but the disk did not take it: until it does, which is tried again and again, the car may not know it after a restart";

/// Somebody who waits until something is read or written.
pub(super) struct Waiting {
    /// What is answered.
    text: String,
    reply: oneshot::Sender<Answer>,
    /// When an answer has to be given though the disk gives none; `None`: only what was read is one.
    until: Option<Boottime>,
}

impl Waiting {
    pub(super) fn until(&self) -> Option<Boottime> {
        self.until
    }

    fn is_late(&self, now: Boottime) -> bool {
        self.until.is_some_and(|until| now >= until)
    }
}

/// The owner's words on their way to the disk.
pub(super) struct Words {
    /// The newest, where the disk did not take it: the next look tries again.
    untaken: Option<(Word, Remembered)>,
    /// One is with the errand that is out.
    out: bool,
    /// Those who hear of the errand that is sent next.
    waiting: Vec<Waiting>,
    /// Those who hear of the one that is out.
    soon: Vec<Waiting>,
    /// Whether everything that was said is on the disk.
    kept: watch::Sender<bool>,
}

impl Words {
    pub(super) fn new() -> Self {
        Self {
            untaken: None,
            out: false,
            waiting: Vec::new(),
            soon: Vec::new(),
            kept: watch::Sender::new(true),
        }
    }

    pub(super) fn somebody_waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When somebody has to be answered, at the latest.
    pub(super) fn next_answer(&self) -> Option<Boottime> {
        self.waiting.iter().chain(&self.soon).filter_map(Waiting::until).min()
    }

    /// An errand goes out now; `word`: with a word of the owner's.
    pub(super) fn go_out(&mut self, word: bool) {
        self.out = word;
        self.soon.append(&mut self.waiting);
    }

    /// What is to be tried again, unless `newer` was said since.
    pub(super) fn again(&mut self, newer: Option<(Word, Remembered)>) -> Option<(Word, Remembered)> {
        newer.or_else(|| self.untaken.take())
    }

    fn late(&mut self, now: Boottime) -> Vec<Waiting> {
        let mut late = Vec::new();
        for list in [&mut self.waiting, &mut self.soon] {
            let all = std::mem::take(list).into_iter();
            let (those, rest): (Vec<_>, Vec<_>) = all.partition(|waiting| waiting.is_late(now));
            *list = rest;
            late.extend(those);
        }
        late
    }
}

impl<C: Cluster> Policy<C> {
    /// Whether everything that the owner has said is on the disk.
    pub fn kept(&self) -> watch::Receiver<bool> {
        self.words.kept.subscribe()
    }

    pub(super) fn obey(&mut self, word: Word) -> &'static str {
        let at = control::said_at(self.clock.wall(), self.outlook.document.as_deref());
        let (remembered, says) = self.remembered.after(word, at);
        if remembered != self.remembered {
            self.remembered = remembered;
            self.outlook.command = remembered.command(self.outlook.document.as_deref());
            self.errand.word = Some((word, remembered));
            // What was said before is not to be remembered any more.
            self.words.untaken = None;
            self.look();
        } else if self.errand.word.is_none() {
            // Whoever says it again wants it kept.
            self.errand.word = self.words.untaken.take();
        }
        says
    }

    /// Answers what is asked at once, and what the owner says when it is kept, or when that takes too long; it holds before that.
    pub(super) fn answer(&mut self, ask: Ask, reply: oneshot::Sender<Answer>) {
        let word = ask.word();
        let text = word.map_or("", |word| self.obey(word)).to_owned();
        self.errand.consents_are_new |= ask == Ask::Consents;
        if word.is_some() || ask == Ask::Consents {
            let until = word.map(|_| self.clock.boottime() + ANSWER);
            self.words.waiting.push(Waiting { text, reply, until });
            return;
        }
        self.reply(text, reply);
    }

    /// An errand is back. What of the owner's words the disk did not take is kept for another one.
    pub(super) fn hear_of_words(&mut self, untaken: Option<(Word, Remembered)>) {
        self.words.out = false;
        // Whoever has said something else since then wants that.
        if untaken.is_some() && self.errand.word.is_none() {
            self.words.untaken = untaken;
        }
        let not_taken = untaken.is_some() || self.words.untaken.is_some();
        let soon = std::mem::take(&mut self.words.soon);
        if soon.is_empty() {
            return;
        }
        // What they are told is how things stand by now.
        self.look();
        for Waiting { mut text, reply, until } in soon {
            if until.is_some() && not_taken {
                text.push_str(NOT_TAKEN);
            }
            self.reply(text, reply);
        }
    }

    /// Answers whoever has waited for the disk for too long, and says to who ends the car whether it has everything.
    pub(super) fn see_to_words(&mut self) {
        let late = self.words.late(self.clock.boottime());
        for Waiting { mut text, reply, .. } in late {
            text.push_str(NOT_YET);
            self.reply(text, reply);
        }
        let words = &self.words;
        let kept = self.errand.word.is_none() && words.untaken.is_none() && !words.out;
        words
            .kept
            .send_if_modified(|known| std::mem::replace(known, kept) != kept);
    }

    fn reply(&self, text: String, reply: oneshot::Sender<Answer>) {
        let status = self.status();
        // Whoever asked may not wait for the answer.
        let _ = reply.send(Answer { text, status });
    }
}
