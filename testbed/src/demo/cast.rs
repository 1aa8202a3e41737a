//! The eight cars of the demo and what happens to them.
//!
//! Called by the demo. Names are people's, for a person watches; the cluster knows only pseudonyms.

use anyhow::{Context, Result};

use super::script::Act;
use crate::bed::Bed;
use crate::fleet::car::{Car, Plan, Signals};
use crate::install::footprint::{Footprint, Object};

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
        let plan = Plan {
            signals: if role.1 == Role::Driving {
                Signals::Driving
            } else {
                Signals::Parked
            },
            consent: (role.1 != Role::NoConsent).then(|| vec!["inference".to_owned()]),
            ..Plan::default()
        };
        let car = bed.car(role.0, pool, &plan).await?;
        // At once: when another car fails, this one has to be taken away all the same. Cars enter side by side, so each reads anew.
        Footprint::open(&bed.layout)?.add(vehicle(&car))?;
        car.start()?;
        Ok(Self { role: *role, car })
    }
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
