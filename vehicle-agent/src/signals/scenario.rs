//! Simulated signals, played from a file: for demos and tests.
//!
//! A scenario starts from a preset and changes signals at times counted from its start. All values are sent again every `refresh`,
//! as a real bus does, so that only what the scenario forgets becomes stale. A file that changes is played from its beginning.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kerbside_core::parked::signals::path;
use kerbside_core::parked::{Terms, Value};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use super::{OwnerWord, Signals, Update};

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

/// The file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Script {
    #[serde(default = "default_refresh", with = "kerbside_core::duration::text")]
    refresh: Duration,
    preset: Preset,
    #[serde(default)]
    set: BTreeMap<String, Value>,
    #[serde(default)]
    steps: Vec<Step>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Step {
    #[serde(with = "kerbside_core::duration::text")]
    at: Duration,
    #[serde(default)]
    preset: Option<Preset>,
    #[serde(default)]
    set: BTreeMap<String, Value>,
    #[serde(default)]
    forget: Vec<String>,
    #[serde(default)]
    owner: Option<OwnerWord>,
}

/// Many signals in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Preset {
    /// Parked, locked, empty, plugged in, charged and well.
    Parked,
    /// Unlocked, and the driver's door is open.
    DriverReturns,
    /// On the road.
    Driving,
    /// Nothing is known.
    Silent,
}

impl Preset {
    fn signals(self) -> Vec<(String, Value)> {
        let text = |value: &str| Value::Text(value.to_owned());
        let driver_door = path::DOORS[0];
        let mut signals: Vec<(String, Value)> = Vec::new();
        let mut set = |path: &str, value: Value| signals.push((path.to_owned(), value));
        match self {
            Self::Silent => {}
            Self::DriverReturns => {
                set(&format!("{driver_door}.IsLocked"), Value::Bool(false));
                set(&format!("{driver_door}.IsOpen"), Value::Bool(true));
            }
            Self::Parked | Self::Driving => {
                let parked = self == Self::Parked;
                set(path::SPEED, Value::Number(if parked { 0.0 } else { 42.0 }));
                set(path::IS_MOVING, Value::Bool(!parked));
                set(path::LOW_VOLTAGE_SYSTEM_STATE, text(if parked { "LOCK" } else { "ON" }));
                set(path::SELECTED_GEAR, Value::Number(if parked { 126.0 } else { 127.0 }));
                set(path::PARK_LOCK, Value::Bool(parked));
                set(path::PARKING_BRAKE, Value::Bool(parked));
                set(path::BRAKE_PEDAL, Value::Number(0.0));
                set(path::ACCELERATOR_PEDAL, Value::Number(if parked { 0.0 } else { 20.0 }));
                for door in path::DOORS {
                    set(&format!("{door}.IsOpen"), Value::Bool(false));
                    set(&format!("{door}.IsLocked"), Value::Bool(true));
                }
                set(path::TRUNK_OPEN, Value::Bool(false));
                for (place, seat) in path::SEATS.into_iter().enumerate() {
                    let driver = place == 0 && !parked;
                    set(
                        &format!("{seat}.OccupancyStatus"),
                        text(if driver { "OCCUPIED" } else { "EMPTY" }),
                    );
                }
                set(path::CHARGE, Value::Number(80.0));
                set(
                    &format!("{}AnyPosition.IsChargingCableConnected", path::CHARGING_PORTS),
                    Value::Bool(parked),
                );
                set(path::LOW_VOLTAGE, Value::Number(13.8));
                set(path::BATTERY_TEMPERATURE, Value::Number(22.0));
                set(path::AIR_TEMPERATURE, Value::Number(15.0));
                set(path::CONNECTIVITY, Value::Bool(true));
                // What a car has once said, it is judged by for good: so also a scenario that comes after says it.
                for optional in Terms::default().optional() {
                    let value = match optional.as_str() {
                        path::AUTONOMY_LEVEL => text("SAE_0"),
                        path::POWER_SAVING => Value::Number(0.0),
                        path::DRIVER_BELTED => Value::Bool(!parked),
                        _ => Value::Bool(false),
                    };
                    set(&optional, value);
                }
            }
        }
        signals
    }
}

/// One may come late, and none counts as old yet.
fn default_refresh() -> Duration {
    Duration::from_secs(1)
}

/// A scenario that is being played.
#[derive(Debug)]
pub struct Scenario {
    path: PathBuf,
    text: String,
    script: Script,
    started: Instant,
    done: usize,
    values: BTreeMap<String, Value>,
    next_refresh: Instant,
    next_reload: Instant,
}

impl Scenario {
    /// Reads the file; time counts from now on.
    pub fn open(path: PathBuf) -> Result<Self, ScenarioError> {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(ScenarioError::Read { path, source }),
        };
        let script = match parse(&text) {
            Ok(script) => script,
            Err(message) => return Err(ScenarioError::Parse { path, message }),
        };
        let now = Instant::now();
        let values = first_values(&script);
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
                let values = first_values(&script);
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
        let mut set: BTreeMap<String, Value> = step
            .preset
            .map(Preset::signals)
            .unwrap_or_default()
            .into_iter()
            .collect();
        set.extend(step.set.iter().map(|(path, value)| (path.clone(), value.clone())));
        let mut forget: BTreeSet<String> = step.forget.iter().cloned().collect();
        if step.preset == Some(Preset::Silent) {
            forget.extend(self.values.keys().cloned());
        }
        self.values.retain(|path, _| !forget.contains(path));
        self.values.extend(set.clone());
        Update {
            set: set.into_iter().collect(),
            forget: forget.into_iter().collect(),
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

fn first_values(script: &Script) -> BTreeMap<String, Value> {
    let mut values: BTreeMap<String, Value> = script.preset.signals().into_iter().collect();
    values.extend(script.set.clone());
    values
}

fn parse(text: &str) -> Result<Script, String> {
    let script: Script = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    if !script.steps.is_sorted_by_key(|step| step.at) {
        return Err("steps must be in the order of their times".to_owned());
    }
    if script.refresh < Duration::from_millis(100) {
        return Err("refresh must be at least 100ms".to_owned());
    }
    Ok(script)
}

impl Signals for Scenario {
    fn next(&mut self) -> BoxFuture<'_, Option<Update>> {
        self.wait().map(Some).boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kerbside_core::clock::Boottime;
    use kerbside_core::parked::{Snapshot, Verdict, View, judge};

    use super::*;

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
        let Script { refresh, .. } = parse("preset: parked").unwrap();
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
    fn scenario_that_explains_is_valid() {
        assert_eq!(
            parse(include_str!("../../documents/scenario.yaml"))
                .unwrap()
                .steps
                .len(),
            8
        );
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
