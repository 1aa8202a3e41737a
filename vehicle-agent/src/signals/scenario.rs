//! Simulated signals, played from a file: for demos and tests.
//!
//! The form of the file, and what each of its steps changes, is core's (`owner::replay::Recording`); here it is read, and played in real
//! time. What it says of the wall clock and of its end is for `kerbside-agent policy simulate`: here the last values stay. A file that
//! changes is played from its beginning.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kerbside_core::owner::replay::{Recording, Step};
use kerbside_core::parked::Value;
use tokio::time::{Instant, sleep_until};

use super::{Signals, Update};

/// How often the file is looked at.
const RELOAD: Duration = Duration::from_millis(250);

/// A scenario that cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("failed to read scenario {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a scenario.
    #[error("failed to parse scenario {path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
}

/// A scenario that is being played.
#[derive(Debug)]
pub struct Scenario {
    path: PathBuf,
    text: String,
    script: Recording,
    started: Instant,
    done: usize,
    values: BTreeMap<String, Value>,
    next_refresh: Instant,
    next_reload: Instant,
}

impl Scenario {
    /// Reads the file; time counts from now on.
    pub fn open(path: PathBuf) -> Result<Self, ScenarioError> {
        let (text, script) = read(&path)?;
        let now = Instant::now();
        let values = script.first_values();
        Ok(Self {
            path,
            text,
            script,
            started: now,
            done: 0,
            values,
            next_refresh: now,
            next_reload: now + RELOAD,
        })
    }

    /// Plays a file that has changed from its beginning.
    fn reload(&mut self, now: Instant) -> Option<Update> {
        self.next_reload = now + RELOAD;
        let text = fs::read_to_string(&self.path).ok().filter(|text| *text != self.text)?;
        match parse(&text) {
            Ok(script) => {
                let values = script.first_values();
                let forget = self
                    .values
                    .keys()
                    .filter(|path| !values.contains_key(*path))
                    .cloned()
                    .collect();
                (self.text, self.script, self.started, self.done, self.values) = (text, script, now, 0, values);
                Some(Update {
                    forget,
                    ..self.refresh(now)
                })
            }
            Err(message) => {
                tracing::warn!(path = %self.path.display(), error = %message, "changed scenario cannot be played");
                self.text = text;
                None
            }
        }
    }

    fn refresh(&mut self, now: Instant) -> Update {
        self.next_refresh = now + self.script.refresh;
        let set = self
            .values
            .iter()
            .map(|(path, value)| (path.clone(), value.clone()))
            .collect();
        Update {
            set,
            ..Update::default()
        }
    }

    fn play(&mut self, step: &Step) -> Update {
        let change = step.play(&mut self.values);
        Update {
            set: change.set.into_iter().collect(),
            forget: change.forget.into_iter().collect(),
            owner: step.owner,
            ..Update::default()
        }
    }

    async fn wait(&mut self) -> Update {
        loop {
            let step = self.script.steps.get(self.done).cloned();
            let step_at = step.as_ref().map(|step| self.started + step.at);
            let due = step_at.into_iter().chain([self.next_refresh, self.next_reload]).min();
            sleep_until(due.expect("there is always a next look at the file")).await;
            let now = Instant::now();
            if let Some(step) = step.filter(|_| step_at.is_some_and(|at| at <= now)) {
                self.done += 1;
                return self.play(&step);
            }
            if self.next_refresh <= now {
                return self.refresh(now);
            }
            if self.next_reload <= now
                && let Some(update) = self.reload(now)
            {
                return update;
            }
        }
    }
}

/// Reads a recording, and the text that it was read from.
pub fn read(path: &Path) -> Result<(String, Recording), ScenarioError> {
    let text = fs::read_to_string(path).map_err(|source| ScenarioError::Read {
        path: path.to_owned(),
        source,
    })?;
    match parse(&text) {
        Ok(recording) => Ok((text, recording)),
        Err(message) => Err(ScenarioError::Parse {
            path: path.to_owned(),
            message,
        }),
    }
}

fn parse(text: &str) -> Result<Recording, String> {
    let recording: Recording = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    recording.check().map_err(|e| e.to_string())
}

impl Signals for Scenario {
    fn next(&mut self) -> BoxFuture<'_, Option<Update>> {
        self.wait().map(Some).boxed()
    }
}

#[cfg(test)]
mod tests {
    use kerbside_core::clock::Boottime;
    use kerbside_core::parked::{Snapshot, Terms, Verdict, View, judge};

    use super::*;
    use crate::signals::OwnerWord;

    const SCENARIO: &str = "
preset: parked
set: {Vehicle.Exterior.AirTemperature: 30}
steps:
- {at: 2s, preset: driverReturns}
- {at: 3s, preset: driving}
- {at: 4s, owner: pause}
- {at: 5s, forget: [Vehicle.Speed]}
";

    fn write(directory: &Path, text: &str) -> PathBuf {
        let path = directory.join("scenario.yaml");
        fs::write(&path, text).unwrap();
        path
    }

    async fn until(scenario: &mut Scenario, snapshot: &mut Snapshot, seconds: f64) -> Vec<OwnerWord> {
        let end = scenario.started + Duration::from_secs_f64(seconds);
        let mut words = Vec::new();
        while let Ok(update) = tokio::time::timeout_at(end, scenario.next()).await {
            let update = update.expect("a scenario never ends");
            for path in update.forget {
                snapshot.remove(&path);
            }
            for (path, value) in update.set {
                snapshot.set(&path, value, Boottime::default());
            }
            words.extend(update.owner);
        }
        words
    }

    fn verdict(snapshot: &Snapshot) -> Verdict {
        let terms = Terms::default();
        judge(
            &View::new(snapshot, Boottime::default(), terms.stale_after),
            &terms,
            true,
        )
        .verdict()
    }

    #[tokio::test(start_paused = true)]
    async fn scenario_plays_its_steps_at_their_times() {
        let temp = tempfile::tempdir().unwrap();
        let mut scenario = Scenario::open(write(temp.path(), SCENARIO)).unwrap();
        let mut snapshot = Snapshot::default();
        assert!(until(&mut scenario, &mut snapshot, 1.5).await.is_empty());
        assert_eq!(verdict(&snapshot), Verdict::Parked { may_start: true });
        until(&mut scenario, &mut snapshot, 2.5).await;
        assert!(matches!(verdict(&snapshot), Verdict::Attended(_)));
        until(&mut scenario, &mut snapshot, 3.5).await;
        assert!(matches!(verdict(&snapshot), Verdict::Going(_)));
        assert_eq!(until(&mut scenario, &mut snapshot, 4.5).await, [OwnerWord::Pause]);
        until(&mut scenario, &mut snapshot, 5.5).await;
        assert!(snapshot.iter().all(|(path, _)| path != "Vehicle.Speed"));
    }

    #[tokio::test(start_paused = true)]
    async fn scenario_that_changes_is_played_from_its_beginning() {
        let temp = tempfile::tempdir().unwrap();
        let mut scenario = Scenario::open(write(temp.path(), "preset: parked")).unwrap();
        let mut snapshot = Snapshot::default();
        until(&mut scenario, &mut snapshot, 1.0).await;
        write(temp.path(), "{preset: silent, steps: [{at: 1s, preset: driving}]}");
        let started = scenario.started;
        while scenario.started == started {
            until(&mut scenario, &mut snapshot, 10.0).await;
        }
        until(&mut scenario, &mut snapshot, 2.0).await;
        assert!(matches!(verdict(&snapshot), Verdict::Going(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn values_are_sent_again_so_that_they_do_not_become_stale() {
        let temp = tempfile::tempdir().unwrap();
        let mut scenario = Scenario::open(write(temp.path(), "{preset: parked, refresh: 10s}")).unwrap();
        assert!(!scenario.next().await.unwrap().set.is_empty());
        let before = Instant::now();
        assert!(!scenario.next().await.unwrap().set.is_empty());
        assert_eq!(Instant::now() - before, Duration::from_secs(10));
    }

    #[test]
    fn values_are_sent_again_twice_before_they_count_as_old() {
        let Recording { refresh, .. } = parse("preset: parked").unwrap();
        assert!(refresh * 2 < Terms::default().stale_after);
    }

    #[tokio::test(start_paused = true)]
    async fn car_that_was_updated_in_one_scenario_is_parked_in_the_next() {
        let temp = tempfile::tempdir().unwrap();
        let updated = "{preset: parked, set: {Vehicle.Private.ParkedCompute.IsUpdating: true}}";
        let mut scenario = Scenario::open(write(temp.path(), updated)).unwrap();
        let mut snapshot = Snapshot::default();
        until(&mut scenario, &mut snapshot, 1.5).await;
        assert!(matches!(verdict(&snapshot), Verdict::Going(_)));
        write(temp.path(), "preset: parked");
        let started = scenario.started;
        while scenario.started == started {
            until(&mut scenario, &mut snapshot, 10.0).await;
        }
        until(&mut scenario, &mut snapshot, 2.0).await;
        assert_eq!(verdict(&snapshot), Verdict::Parked { may_start: true });
    }

    #[test]
    fn scenarios_that_ship_with_the_agent_are_valid() {
        let explains = parse(include_str!("../../documents/scenario.yaml")).unwrap();
        assert_eq!(explains.steps.len(), 8);
        parse(include_str!("../../documents/recordings/commuter.yaml")).unwrap();
    }

    #[test]
    fn scenario_that_is_wrong_is_refused_with_the_reason() {
        let temp = tempfile::tempdir().unwrap();
        for (text, says) in [
            ("preset: flying", "flying"),
            ("{preset: parked, steps: [{at: 5s}, {at: 1s}]}", "order"),
            ("{preset: parked, refresh: 1ms}", "100ms"),
            ("{preset: parked, stepz: []}", "stepz"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        assert!(
            Scenario::open(temp.path().join("none.yaml"))
                .unwrap_err()
                .to_string()
                .contains("none.yaml")
        );
    }
}
