use proptest::prelude::*;

use super::*;
use crate::traces::Fleet;

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

fn small() -> Timeline {
    Timeline {
        title: "Two cars & a <night>".to_owned(),
        length: hours(4),
        rows: vec![
            Row {
                name: "car \"1\"".to_owned(),
                spans: vec![
                    (hours(1), Look::Parked),
                    (hours(2), Look::Ready),
                    (hours(3), Look::Away),
                    (hours(4), Look::Parked),
                ],
            },
            Row {
                name: "car 2".to_owned(),
                spans: vec![(hours(4), Look::Unreachable)],
            },
        ],
        completions: vec![hours(3), hours(1), hours(3), hours(2)],
    }
}

/// Whether tags nest and close, attributes are quoted and every ampersand begins an entity: what XML asks of what we write.
fn assert_well_formed(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg;
    let mut roots = 0;
    while let Some(start) = rest.find('<') {
        assert_text(&rest[..start]);
        assert!(
            !open.is_empty() || rest[..start].trim().is_empty(),
            "text outside of the root"
        );
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
            continue;
        }
        let (body, closed) = tag.strip_suffix('/').map_or((tag, false), |body| (body, true));
        let (name, attributes) = body.split_once(' ').unwrap_or((body, ""));
        assert!(
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric()),
            "{name}"
        );
        let quotes: Vec<&str> = attributes.split('"').collect();
        assert!(quotes.len() % 2 == 1, "a quote is open in {tag}");
        for pair in quotes.chunks(2).filter(|pair| pair.len() == 2) {
            assert!(pair[0].trim_start().ends_with('='), "{tag}");
            assert_text(pair[1]);
        }
        roots += usize::from(open.is_empty());
        if !closed {
            open.push(name);
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty() && roots == 1);
}

fn assert_text(text: &str) {
    assert!(!text.contains(['<', '>']), "{text}");
    assert!(!text.contains(|c: char| c < ' ' && c != '\n'), "{text}");
    for after in text.split('&').skip(1) {
        assert!(
            ["amp;", "lt;", "gt;", "quot;", "#39;"]
                .iter()
                .any(|entity| after.starts_with(entity)),
            "{text}"
        );
    }
}

#[test]
fn small_timeline_is_drawn_to_the_letter() {
    crate::golden::assert_golden("small.svg", &small().svg());
}

#[test]
fn timeline_of_nothing_is_drawn() {
    assert_well_formed(&Timeline::default().svg());
}

#[test]
fn timeline_of_traces_is_well_formed_and_covers_them() {
    let fleet = Fleet {
        seed: 3,
        days: 40,
        ..Fleet::default()
    };
    let rows: Vec<Row> = fleet
        .traces(20)
        .map(|trace| row(format!("car {}", trace.car.index), &trace))
        .collect();
    for row in &rows {
        assert_eq!(row.spans.last().unwrap().0, hours(40 * 24));
        assert!(
            row.spans
                .windows(2)
                .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1)
        );
    }
    let timeline = Timeline {
        title: "Forty days".to_owned(),
        length: hours(40 * 24),
        rows,
        completions: Vec::new(),
    };
    let svg = timeline.svg();
    assert_well_formed(&svg);
    assert!(
        svg.matches("class=\"hour\"").count() <= 25,
        "few lines, however long the run"
    );
}

#[test]
fn row_looks_as_the_trace_stands_at_every_moment() {
    let fleet = Fleet {
        seed: 5,
        days: 7,
        ..Fleet::default()
    };
    for trace in fleet.traces(30) {
        let row = row("", &trace);
        for quarter in 0..7 * 24 * 4 {
            let at = Duration::from_secs(quarter * 900);
            let drawn = row.spans.iter().find(|(until, _)| at < *until).unwrap().1;
            assert_eq!(drawn, look(&trace, at), "car {} at {at:?}", trace.car.index);
        }
    }
}

proptest! {
    #[test]
    fn any_text_stays_text(title in any::<String>(), name in any::<String>()) {
        let timeline = Timeline { title, rows: vec![Row { name, spans: Vec::new() }], ..small() };
        assert_well_formed(&timeline.svg());
    }

    #[test]
    fn any_completions_end_at_the_top(at in prop::collection::vec(0u64..5 * 3600, 1..50)) {
        let completions: Vec<Duration> = at.into_iter().map(Duration::from_secs).collect();
        let counted = completions.iter().filter(|at| **at <= hours(4)).count();
        let svg = Timeline { completions, ..small() }.svg();
        assert_well_formed(&svg);
        let label = format!(">{counted}</text>");
        prop_assert!(svg.contains(&label));
    }
}
