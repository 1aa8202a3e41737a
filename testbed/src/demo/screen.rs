//! What a person sees: a compact picture on a terminal, plain lines elsewhere.
//!
//! Called by the demo. On a terminal the picture is redrawn below the news; in a log there are only news.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use tokio::time::Instant;

use super::board::Board;

/// Where the demo is shown.
pub(super) struct Screen {
    started: Instant,
    picture: Option<Picture>,
}

struct Picture {
    all: MultiProgress,
    job: ProgressBar,
    cars: Vec<ProgressBar>,
}

impl Screen {
    /// The terminal, or whatever takes its place.
    pub(super) fn new() -> Self {
        let picture = std::io::stdout().is_terminal().then(|| {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(5));
            let job = all.add(ProgressBar::new(0));
            if let Ok(style) = ProgressStyle::with_template("  indexes  [{bar:40}] {pos}/{len}  {msg}") {
                job.set_style(style.progress_chars("##."));
            }
            Picture {
                all,
                job,
                cars: Vec::new(),
            }
        });
        Self {
            started: Instant::now(),
            picture,
        }
    }

    /// One line that stays.
    pub(super) fn news(&self, text: &str) {
        let line = format!("{:6.1} s  {text}", self.started.elapsed().as_secs_f32());
        match &self.picture {
            // What cannot be drawn is not worth ending a demo for.
            Some(picture) => drop(picture.all.println(line)),
            None => println!("{line}"),
        }
    }

    /// Draws what the board shows.
    pub(super) fn show(&mut self, board: &Board) {
        let Some(picture) = &mut self.picture else { return };
        let (disruptions, refusals, failures) = board.ledger();
        picture.job.set_length(u64::from(board.completions()));
        picture.job.set_position(u64::from(board.completed()));
        picture.job.set_message(format!(
            "disruptions {disruptions}  refusals {refusals}  failures {failures}"
        ));
        let lines = board.lines();
        while picture.cars.len() < lines.len() {
            let bar = picture.all.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("  {msg}") {
                bar.set_style(style);
            }
            picture.cars.push(bar);
        }
        for (bar, (name, standing, running, done)) in picture.cars.iter().zip(lines) {
            bar.set_message(format!(
                "{name:6} {:10} running {running}  done {done}",
                standing.text()
            ));
        }
    }

    /// Takes the picture away; the news stay.
    pub(super) fn clear(&mut self) {
        if let Some(picture) = self.picture.take() {
            drop(picture.all.clear());
        }
    }
}
