//! How much one car may send: so many messages and bytes in a minute, and not ten times as many.
//!
//! Pure; a session asks it for each message. The first bound is for a car that is told to send too much, and its messages are left
//! unread; the second for one that is not a car any more.

use std::time::Duration;

use kerbside_core::clock::Boottime;

const WINDOW: Duration = Duration::from_mins(1);
/// Bytes of a car in a minute for each message that it may send; one of them is some hundred bytes.
const BYTES: usize = 16 * 1024;
/// So many times as much is a flood.
const FLOOD: u32 = 10;

/// What may be done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowed {
    /// It is read.
    Read,
    /// It is acknowledged and not read.
    Skip,
    /// The connection ends.
    End,
}

/// What one car has sent in this minute.
#[derive(Debug)]
pub(super) struct Allowance {
    messages: u32,
    since: Boottime,
    came: u32,
    bytes: usize,
}

impl Allowance {
    pub(super) fn new(messages: u32, now: Boottime) -> Self {
        Self {
            messages,
            since: now,
            came: 0,
            bytes: 0,
        }
    }

    pub(super) fn take(&mut self, bytes: usize, now: Boottime) -> Allowed {
        if now.since(self.since) >= WINDOW {
            *self = Self::new(self.messages, now);
        }
        self.came = self.came.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        let beyond = |times: u32| {
            let messages = self.messages.saturating_mul(times);
            let room = BYTES.saturating_mul(usize::try_from(messages).unwrap_or(usize::MAX));
            self.came > messages || self.bytes > room
        };
        match (beyond(1), beyond(FLOOD)) {
            (_, true) => Allowed::End,
            (true, false) => Allowed::Skip,
            (false, false) => Allowed::Read,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Boottime {
        Boottime(Duration::from_secs(seconds))
    }

    #[test]
    fn messages_beyond_the_bound_are_skipped_until_the_minute_is_over() {
        let mut allowance = Allowance::new(2, at(0));
        let taken: Vec<_> = (0..4).map(|second| allowance.take(10, at(second))).collect();
        assert_eq!(taken, [Allowed::Read, Allowed::Read, Allowed::Skip, Allowed::Skip]);
        assert_eq!(allowance.take(10, at(60)), Allowed::Read);
    }

    #[test]
    fn flood_of_messages_or_of_bytes_ends_it() {
        let mut allowance = Allowance::new(1, at(0));
        let last = (0..11).map(|_| allowance.take(1, at(0))).last();
        assert_eq!(last, Some(Allowed::End));
        let mut allowance = Allowance::new(1, at(0));
        assert_eq!(allowance.take(BYTES + 1, at(0)), Allowed::Skip);
        assert_eq!(allowance.take(BYTES * 10, at(0)), Allowed::End);
    }
}
