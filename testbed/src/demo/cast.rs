//! The eight cars of the demo and what happens to them.
//!
//! Called by the demo. Names are people's, for a person watches; the cluster knows only pseudonyms. What happens to a car it hears from a
//! databroker, into which its scenario is played.

use std::time::Duration;

use anyhow::{Context, Result};
use kerbside_databroker::vss::Release;
use serde_json::{Value, json};

use super::script::Act;
use crate::bed::Bed;
use crate::databroker::played::Listener;
use crate::fleet::car::{Car, Plan, Signals};
use crate::install::footprint::{Footprint, Object};
use crate::wait;

/// What is special about a car.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Parked all the time.
    Parked,
    /// On the road all the time.
    Driving,
    /// Parked, and driven off in the middle.
    DrivesOff,
    /// Parked, and paused by its owner for a while.
    Pauses,
    /// Parked, and its owner never said yes.
    NoConsent,
}

/// Who plays.
pub const CAST: [(&str, Role); 8] = [
    ("ada", Role::Parked),
    ("bo", Role::DrivesOff),
    ("cem", Role::Pauses),
    ("dina", Role::Parked),
    ("eli", Role::Driving),
    ("fay", Role::Driving),
    ("gus", Role::NoConsent),
    ("hana", Role::Parked),
];

/// What the cars' databrokers speak, in turn: makers keep a release for the life of a car.
const RELEASES: [Release; 3] = [Release::V4, Release::V5, Release::V6];

/// Each car with the release of its databroker.
pub fn listeners() -> Vec<Listener> {
    let releases = RELEASES.into_iter().cycle();
    let listens = |((name, _), release): (&(&'static str, Role), Release)| Listener {
        name: (*name).to_owned(),
        release,
    };
    CAST.iter().zip(releases).map(listens).collect()
}

/// A signal that came late on a busy machine has come again by then.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

/// A car and its part.
pub struct Actor {
    /// Name and role.
    pub role: (&'static str, Role),
    /// The car.
    pub car: Car,
}

impl Actor {
    /// Enrols the car, puts its Vehicle into the footprint and starts its agent.
    pub async fn enter(bed: &Bed, pool: &str, role: &'static (&'static str, Role)) -> Result<Self> {
        let listener = listeners().into_iter().find(|listener| listener.name == role.0);
        let plan = Plan {
            signals: if role.1 == Role::Driving {
                Signals::Driving
            } else {
                Signals::Parked
            },
            consent: (role.1 != Role::NoConsent).then(|| vec!["inference".to_owned()]),
            energy: Some(energy()),
            databroker: listener.map(|listener| listener.signals(&bed.layout)),
            ..Plan::default()
        };
        let car = bed.car(role.0, pool, &plan).await?;
        // At once: when another car fails, this one has to be taken away all the same. Cars enter side by side, so each reads anew.
        Footprint::open(&bed.layout)?.add(vehicle(&car))?;
        car.start()?;
        Ok(Self { role: *role, car })
    }
}

/// What the maker of the demo's cars states of their energy: what docs/energy.md explains by.
fn energy() -> Value {
    json!({"model": {"wakeWatts": 120, "wattsPerCore": 9, "errorPermille": 300}})
}

/// The car's Vehicle.
fn vehicle(car: &Car) -> Object {
    Object {
        api_version: format!("{}/v1alpha1", kerbside_core::names::GROUP),
        kind: "Vehicle".to_owned(),
        namespace: None,
        name: car.id.to_string(),
    }
}

/// How many of them know by a databroker all that they are judged by.
pub async fn heard(actors: &[Actor]) -> usize {
    let mut count = 0;
    for Actor { car, .. } in actors {
        let what = format!("{} to hear its databroker", car.name);
        let hears = wait::until(&what, HEARD_WITHIN, || async { Ok(car.hears().await?.then_some(())) });
        count += usize::from(hears.await.is_ok());
    }
    count
}

/// What the first car says of itself, as its owner sees it: the lines before those of its signals.
pub async fn account(actors: &[Actor]) -> Result<String> {
    let first = actors.first().context("there are cars")?;
    let status = first.car.owner("status").await?.stdout;
    let factor = |line: &&str| ["yes ", "no ", "unknown "].iter().any(|word| line.starts_with(word));
    let lines: Vec<_> = status
        .lines()
        .take_while(|line| !factor(line))
        .map(|line| format!("  {line}"))
        .collect();
    Ok(format!(
        "{} says, by `kerbside-agent status`:\n{}",
        first.role.0,
        lines.join("\n")
    ))
}

/// Makes it happen.
pub async fn perform(act: Act, actors: &[Actor]) -> Result<()> {
    let find = |role| {
        actors
            .iter()
            .find(|a| a.role.1 == role)
            .map(|a| &a.car)
            .context("every role has a car")
    };
    match act {
        Act::Apply => Ok(()),
        Act::DriveOff => find(Role::DrivesOff)?.signals(Signals::DrivesOff),
        Act::Pause => find(Role::Pauses)?.owner("pause").await.map(drop),
        Act::Resume => find(Role::Pauses)?.owner("resume").await.map(drop),
    }
}
