//! Draws a run as an SVG that needs nothing else: a thin row per vehicle by hour, and under them the completions as a curve.
//!
//! Called once, at the end of a run or for a picture of traces alone. It knows no traces: whoever has a [`Trace`] turns it into a
//! [`Row`] with [`row`]. What must never happen: text of others becomes markup.
//!
//! [`Trace`]: crate::traces::Trace

#[cfg(test)]
mod tests;

use std::fmt::{self, Write};
use std::time::Duration;

use crate::traces::Trace;

/// What is drawn.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Timeline {
    /// Stands above.
    pub title: String,
    /// From the left edge to the right.
    pub length: Duration,
    /// From top to bottom.
    pub rows: Vec<Row>,
    /// When something was completed; in any order.
    pub completions: Vec<Duration>,
}

/// A vehicle.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    /// Shown when the pointer rests on the row.
    pub name: String,
    /// How it stands and until when, in order; the first from zero, each from where the one before it ends.
    pub spans: Vec<(Duration, Look)>,
}

/// How a vehicle stands, as far as it is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Look {
    /// Parked, plugged in, reachable.
    Ready,
    /// Parked and reachable.
    Parked,
    /// Parked or driving, and no network reaches it.
    Unreachable,
    /// Driving. Nothing is drawn: the ground shows.
    Away,
}

impl Look {
    const DRAWN: [Self; 3] = [Self::Ready, Self::Parked, Self::Unreachable];

    /// The class in the drawing.
    fn class(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Parked => "parked",
            Self::Unreachable => "unreachable",
            Self::Away => "away",
        }
    }

    fn legend(self) -> &'static str {
        match self {
            Self::Ready => "parked, plugged in",
            Self::Parked => "parked",
            Self::Unreachable => "out of reach",
            Self::Away => "away",
        }
    }
}

/// The row of a trace.
pub fn row(name: impl Into<String>, trace: &Trace) -> Row {
    let sides = |interval: &crate::traces::Interval| [interval.from, interval.until];
    let mut borders: Vec<Duration> = trace.stays.iter().flat_map(|stay| sides(&stay.during)).collect();
    borders.extend(trace.plugged.iter().flat_map(|session| sides(&session.during)));
    borders.extend(trace.unreachable.iter().flat_map(sides));
    borders.push(trace.length);
    borders.sort_unstable();
    borders.dedup();
    let mut spans: Vec<(Duration, Look)> = Vec::new();
    let mut from = Duration::ZERO;
    for until in borders.into_iter().filter(|border| *border > Duration::ZERO) {
        let look = look(trace, from);
        match spans.last_mut() {
            Some((end, last)) if *last == look => *end = until,
            _ => spans.push((until, look)),
        }
        from = until;
    }
    Row {
        name: name.into(),
        spans,
    }
}

fn look(trace: &Trace, at: Duration) -> Look {
    let parked = trace.parked_at(at).is_some();
    match (trace.is_reachable_at(at), parked, trace.plugged_at(at).is_some()) {
        (false, ..) => Look::Unreachable,
        (true, true, true) => Look::Ready,
        (true, true, false) => Look::Parked,
        (true, false, _) => Look::Away,
    }
}

/// Width of the plot. Whole pixels, so that edges are sharp and the file is small.
const WIDTH: u64 = 960;
/// Left of the plot, for the numbers of the curve.
const LEFT: u64 = 48;
/// Above the plot, for title and legend.
const TOP: u64 = 56;
/// Height of a row. Thousands of rows still fit on a wall.
const ROW: u64 = 3;
/// Between the rows and the curve, for the hours.
const GAP: u64 = 28;
/// Height of the curve.
const CURVE: u64 = 120;
/// More lines than this across the plot are no help.
const LINES: u64 = 24;

const STYLE: &str = "text{font:11px sans-serif;fill:#333}.title{font-size:15px}.ground{fill:#f2f0eb}.ready{fill:#1b7f5c}\
    .parked{fill:#9fd0bd}.unreachable{fill:#b9b4c7}.away{fill:#f2f0eb}.hour{stroke:#333;stroke-opacity:.2}\
    .curve{fill:none;stroke:#b3541e;stroke-width:1.5}";

impl Timeline {
    /// The whole drawing.
    pub fn svg(&self) -> String {
        let mut svg = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut svg);
        svg
    }

    fn write(&self, to: &mut impl Write) -> fmt::Result {
        let rows = ROW * u64::try_from(self.rows.len()).unwrap_or(u64::MAX / 8);
        let curve = TOP + rows + GAP;
        let (width, height) = (LEFT + WIDTH + 16, curve + CURVE + 24);
        writeln!(
            to,
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">"#
        )?;
        writeln!(to, "<style>{STYLE}</style>")?;
        writeln!(
            to,
            r#"<text class="title" x="{LEFT}" y="20">{}</text>"#,
            escaped(&self.title)
        )?;
        self.write_legend(to)?;
        writeln!(
            to,
            r#"<rect class="ground" x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{rows}"/>"#
        )?;
        for (row, top) in self.rows.iter().zip((TOP..).step_by(3)) {
            self.write_row(row, top, to)?;
        }
        self.write_hours(TOP + rows, curve, to)?;
        self.write_curve(curve, to)?;
        writeln!(to, "</svg>")
    }

    /// From the left edge, in whole pixels.
    fn x(&self, at: Duration) -> u64 {
        let length = self.length.as_millis().max(1);
        LEFT + u64::try_from(at.min(self.length).as_millis() * u128::from(WIDTH) / length).unwrap_or(WIDTH)
    }

    fn write_legend(&self, to: &mut impl Write) -> fmt::Result {
        let looks = [Look::Ready, Look::Parked, Look::Unreachable, Look::Away];
        for (look, x) in looks.into_iter().zip((LEFT..).step_by(140)) {
            let text = x + 16;
            writeln!(
                to,
                r#"<rect class="{}" x="{x}" y="32" width="10" height="10"/>"#,
                look.class()
            )?;
            writeln!(to, r#"<text x="{text}" y="41">{}</text>"#, look.legend())?;
        }
        let vehicles = self.rows.len();
        writeln!(to, r#"<text x="{}" y="41">{vehicles} vehicles</text>"#, LEFT + 4 * 140)
    }

    /// One path per look: thousands of rectangles make a file that no viewer likes.
    fn write_row(&self, row: &Row, top: u64, to: &mut impl Write) -> fmt::Result {
        writeln!(to, "<g><title>{}</title>", escaped(&row.name))?;
        for look in Look::DRAWN {
            let mut path = String::new();
            let mut from = Duration::ZERO;
            for (until, spans_look) in &row.spans {
                let (left, right) = (self.x(from), self.x(*until));
                if *spans_look == look && right > left {
                    write!(path, "M{left} {top}H{right}v2H{left}z")?;
                }
                from = *until;
            }
            if !path.is_empty() {
                writeln!(to, r#"<path class="{}" d="{path}"/>"#, look.class())?;
            }
        }
        writeln!(to, "</g>")
    }

    /// Lines through rows and curve: every hour, or every few if there are many.
    fn write_hours(&self, foot: u64, curve: u64, to: &mut impl Write) -> fmt::Result {
        let hours = self.length.as_secs() / 3600;
        let step = [1, 2, 3, 6, 12, 24].into_iter().find(|step| hours / step <= LINES);
        let step = step.unwrap_or_else(|| hours.div_ceil(LINES * 24) * 24);
        for hour in (0..=hours).step_by(usize::try_from(step).unwrap_or(usize::MAX).max(1)) {
            let x = self.x(Duration::from_secs(hour * 3600));
            writeln!(to, r#"<path class="hour" d="M{x} {TOP}V{foot}M{x} {curve}v{CURVE}"/>"#)?;
            let label = if step < 24 {
                format!("{:02}:00", hour % 24)
            } else {
                format!("day {}", hour / 24 + 1)
            };
            writeln!(
                to,
                r#"<text x="{x}" y="{}" text-anchor="middle">{label}</text>"#,
                foot + 16
            )?;
        }
        Ok(())
    }

    fn write_curve(&self, top: u64, to: &mut impl Write) -> fmt::Result {
        let foot = top + CURVE;
        let mut at: Vec<Duration> = self
            .completions
            .iter()
            .copied()
            .filter(|at| *at <= self.length)
            .collect();
        at.sort_unstable();
        let all = u64::try_from(at.len()).unwrap_or(u64::MAX / 8);
        let y = |count: u64| foot - CURVE * count / all.max(1);
        let mut path = format!("M{LEFT} {foot}");
        // Several in one pixel are one step.
        let mut steps = at.iter().map(|at| self.x(*at)).zip(1u64..).peekable();
        while let Some((x, count)) = steps.next() {
            if steps.peek().is_none_or(|(next, _)| *next != x) {
                write!(path, "H{x}V{}", y(count))?;
            }
        }
        writeln!(to, r#"<path class="curve" d="{path}H{}"/>"#, LEFT + WIDTH)?;
        writeln!(
            to,
            r#"<text x="{}" y="{}" text-anchor="end">{all}</text>"#,
            LEFT - 6,
            top + 8
        )?;
        writeln!(to, r#"<text x="{}" y="{foot}" text-anchor="end">0</text>"#, LEFT - 6)?;
        writeln!(to, r#"<text x="{LEFT}" y="{}">completions</text>"#, foot + 16)
    }
}

/// Text that is no markup, neither between tags nor in an attribute. What XML cannot hold at all becomes a replacement mark.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' | '\r' => escaped.push(' '),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}
