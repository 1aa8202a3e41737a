//! What came of a recorded day: spans of time, totals, and both as a table for people.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::after;
use crate::duration;

/// Where the car stands, as `kerbside-agent status` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// It works, or would if there were work.
    Available,
    /// Work stands still.
    Paused,
    /// No work.
    Away,
}

/// A time in which nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    /// Its first moment.
    pub from: Timestamp,
    /// The first moment after it.
    pub to: Timestamp,
    /// Whether the car worked, or would have.
    pub works: bool,
    /// Where it stood.
    pub standing: Standing,
    /// The first reason why it did not work.
    pub why_not: Option<String>,
}

/// How long one reason held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotFor {
    /// The reason.
    pub why_not: String,
    /// For how long in all.
    #[serde(rename = "for", with = "duration::text")]
    pub time: Duration,
}

/// A recorded day as it would have been.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Day {
    /// When it began.
    pub from: Timestamp,
    /// How long it was.
    #[serde(with = "duration::text")]
    pub lasts: Duration,
    /// For how long the car worked, or would have.
    #[serde(with = "duration::text")]
    pub worked: Duration,
    /// For how long it did not, and why, the longest first.
    pub not: Vec<NotFor>,
    /// What came after what, without a gap.
    pub spans: Vec<Span>,
}

impl Day {
    pub(super) fn new(from: Timestamp) -> Self {
        Self {
            from,
            lasts: Duration::ZERO,
            worked: Duration::ZERO,
            not: Vec::new(),
            spans: Vec::new(),
        }
    }

    /// Adds what came next.
    pub(super) fn push(&mut self, time: Duration, standing: Standing, why_not: Option<String>) {
        let from = after(self.from, self.lasts);
        self.lasts += time;
        let to = after(self.from, self.lasts);
        match &why_not {
            None => self.worked += time,
            Some(why) => match self.not.iter_mut().find(|not| not.why_not == *why) {
                Some(not) => not.time += time,
                None => self.not.push(NotFor {
                    why_not: why.clone(),
                    time,
                }),
            },
        }
        self.not.sort_by_key(|not| std::cmp::Reverse(not.time));
        match self.spans.last_mut() {
            Some(last) if last.standing == standing && last.why_not == why_not => last.to = to,
            _ => self.spans.push(Span {
                from,
                to,
                works: standing == Standing::Available,
                standing,
                why_not,
            }),
        }
    }

    /// For people, by the clock of `zone`. An hour that is there twice is shown twice.
    pub fn table(&self, zone: &TimeZone) -> String {
        let clock = |at: Timestamp| at.to_zoned(zone.clone()).strftime("%a %H:%M:%S").to_string();
        let mut text = String::from("from          to            for       standing  why not\n");
        for span in &self.spans {
            let time = Duration::try_from(span.to.duration_since(span.from)).unwrap_or_default();
            let standing = match span.standing {
                Standing::Available => "works",
                Standing::Paused => "paused",
                Standing::Away => "away",
            };
            let why_not = span.why_not.as_deref().unwrap_or_default();
            let (from, to, time) = (clock(span.from), clock(span.to), duration::format(time));
            let line = format!("{from}  {to}  {time:<8}  {standing:<8}  {why_not}");
            writeln!(text, "{}", line.trim_end()).expect("writing to a String cannot fail");
        }
        let (worked, lasts) = (duration::format(self.worked), duration::format(self.lasts));
        writeln!(text, "\nworks for {worked} of {lasts}").expect("writing to a String cannot fail");
        for NotFor { why_not, time } in &self.not {
            let time = duration::format(*time);
            writeln!(text, "not for {time:<8}  {why_not}").expect("writing to a String cannot fail");
        }
        text
    }
}
