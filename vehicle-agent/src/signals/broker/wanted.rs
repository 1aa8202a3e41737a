//! Which of a broker's signals this car is judged by, and which a forecast of its stay may go by. Pure.
//!
//! Called when a connection is made, with the paths that the broker has. Releases of VSS differ in paths and not in a number that could be
//! relied on, so each signal is looked for by itself, under the names that it has had; [`kerbside_core::parked::Snapshot`] makes one
//! of them.

use std::collections::BTreeSet;

use kerbside_core::parked::Terms;
use kerbside_core::parked::signals::path;

/// The paths to subscribe to, and what cannot be heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) paths: Vec<String>,
    /// What the broker has under no name.
    pub(super) missing: Vec<String>,
    /// What it has and does not tell.
    pub(super) silent: Vec<String>,
}

impl Wanted {
    /// Whether nothing more could be heard.
    pub(super) fn is_whole(&self) -> bool {
        self.missing.is_empty() && self.silent.is_empty()
    }
}

/// The signals of one path since VSS 4.
const SINGLE: [&str; 14] = [
    path::SPEED,
    path::IS_MOVING,
    path::LOW_VOLTAGE_SYSTEM_STATE,
    path::SELECTED_GEAR,
    path::PARK_LOCK,
    path::PARKING_BRAKE,
    path::BRAKE_PEDAL,
    path::ACCELERATOR_PEDAL,
    path::TRUNK_OPEN,
    path::CHARGE,
    path::LOW_VOLTAGE,
    path::BATTERY_TEMPERATURE,
    path::AIR_TEMPERATURE,
    path::CONNECTIVITY,
];
/// Of the charging cable: VSS 4 knows one port.
const CABLE: &str = "IsChargingCableConnected";
const CABLE_V4: &str = "Vehicle.Powertrain.TractionBattery.Charging.IsChargingCableConnected";

/// The signals that a car with these terms is judged by, and what is heard beside, under their names of VSS 6: what an owner is told.
pub fn signals_read(terms: &Terms) -> Vec<String> {
    let doors = terms
        .doors
        .iter()
        .flat_map(|door| ["IsOpen", "IsLocked"].map(|what| format!("{door}.{what}")));
    let seats = terms.seats.iter().map(|seat| format!("{seat}.OccupancyStatus"));
    let cable = format!("{}*.{CABLE}", path::CHARGING_PORTS);
    let mut read: Vec<_> = SINGLE
        .into_iter()
        .map(str::to_owned)
        .chain(doors)
        .chain(seats)
        .collect();
    read.push(cable);
    read.extend(terms.optional());
    read.extend(path::HINTS.map(str::to_owned));
    read.extend(terms.beside.iter().cloned());
    read
}

/// Chooses from what there is.
pub(super) fn choose(known: &BTreeSet<String>, terms: &Terms) -> Wanted {
    let mut wanted = Wanted::default();
    let single = SINGLE.into_iter().map(|path| vec![path.to_owned()]);
    let doors = terms
        .doors
        .iter()
        .flat_map(|door| ["IsOpen", "IsLocked"].map(|what| vec![format!("{door}.{what}")]));
    let seats = terms.seats.iter().map(|seat| {
        ["OccupancyStatus", "IsOccupied"]
            .map(|what| format!("{seat}.{what}"))
            .to_vec()
    });
    for names in single.chain(doors).chain(seats) {
        match names.iter().find(|name| known.contains(*name)) {
            Some(name) => wanted.paths.push(name.clone()),
            None => wanted.missing.extend(names.into_iter().take(1)),
        }
    }
    // A car that does not have them is not judged by them, unless its maker says that it has.
    for path in terms.optional() {
        if known.contains(&path) {
            wanted.paths.push(path);
        } else if terms.has.contains(&path) {
            wanted.missing.push(path);
        }
    }
    // A maker who names an overlay has one: without any of its signals the name is wrong, or its provider is not there yet.
    let overlay = format!("{}.", terms.overlay);
    let in_overlay = |path: &String| path.starts_with(&overlay);
    if terms.overlay != path::OVERLAY && !wanted.paths.iter().chain(&wanted.missing).any(in_overlay) {
        wanted.missing.extend(terms.optional().filter(in_overlay));
    }
    // Nothing is amiss without them: a car is not judged by what its owner plans.
    let hints = path::HINTS.into_iter().filter(|path| known.contains(*path));
    wanted.paths.extend(hints.map(str::to_owned));
    // What is heard beside is missed by nobody.
    wanted
        .paths
        .extend(terms.beside.iter().filter(|path| known.contains(*path)).cloned());
    let ports = known
        .iter()
        .filter(|path| path.starts_with(path::CHARGING_PORTS) && path.ends_with(CABLE));
    let mut ports: Vec<_> = ports.cloned().collect();
    if ports.is_empty() {
        ports.extend(known.contains(CABLE_V4).then(|| CABLE_V4.to_owned()));
    }
    if ports.is_empty() {
        wanted.missing.push(format!("{}*.{CABLE}", path::CHARGING_PORTS));
    }
    wanted.paths.extend(ports);
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(paths: &[&str]) -> BTreeSet<String> {
        let single = SINGLE.iter().chain(paths).copied();
        let mut all: BTreeSet<String> = single.map(str::to_owned).collect();
        for door in path::DOORS {
            all.insert(format!("{door}.IsOpen"));
            all.insert(format!("{door}.IsLocked"));
        }
        all
    }

    fn seats(what: &str) -> Vec<String> {
        path::SEATS.iter().map(|seat| format!("{seat}.{what}")).collect()
    }

    fn chosen(extra: &[String]) -> Wanted {
        let extra: Vec<_> = extra.iter().map(String::as_str).collect();
        choose(&known(&extra), &Terms::default())
    }

    #[test]
    fn each_release_has_its_names_for_seats_and_cables() {
        for (seat, cables) in [
            ("IsOccupied", vec![CABLE_V4.to_owned()]),
            ("IsOccupied", vec![format!("{}FrontLeft.{CABLE}", path::CHARGING_PORTS)]),
            (
                "OccupancyStatus",
                vec![
                    format!("{}AnyPosition.{CABLE}", path::CHARGING_PORTS),
                    format!("{}RearRight.{CABLE}", path::CHARGING_PORTS),
                ],
            ),
        ] {
            let wanted = chosen(&[seats(seat), cables.clone()].concat());
            assert_eq!(wanted.missing, Vec::<String>::new());
            for path in seats(seat).iter().chain(&cables) {
                assert!(wanted.paths.contains(path), "{path}");
            }
            assert_eq!(wanted.paths.len(), 14 + 8 + 5 + cables.len());
        }
    }

    #[test]
    fn newer_name_is_taken_where_a_broker_has_both() {
        let wanted = chosen(&[seats("IsOccupied"), seats("OccupancyStatus"), vec![CABLE_V4.to_owned()]].concat());
        assert!(wanted.paths.iter().all(|path| !path.ends_with("IsOccupied")));
    }

    #[test]
    fn what_a_broker_does_not_have_is_named_and_all_else_is_chosen() {
        let mut there = known(&[]);
        there.remove(path::IS_MOVING);
        let wanted = choose(&there, &Terms::default());
        assert_eq!(wanted.paths.len(), 13 + 8);
        assert_eq!(wanted.missing.len(), 1 + 5 + 1);
        assert!(wanted.missing.contains(&path::IS_MOVING.to_owned()));
    }

    #[test]
    fn optional_signal_is_chosen_where_there_is_one_and_missed_only_if_it_was_promised() {
        let there = [
            path::HOOD_OPEN.to_owned(),
            format!("{}.{}", path::OVERLAY, path::CRASHED),
        ];
        let wanted = chosen(&there);
        for path in &there {
            assert!(wanted.paths.contains(path), "{path}");
        }
        let terms = Terms {
            has: vec![path::BROKEN_DOWN.to_owned(), path::HOOD_OPEN.to_owned()],
            ..Terms::default()
        };
        let without = choose(&known(&[]), &Terms::default());
        let promised = choose(&known(&[path::HOOD_OPEN]), &terms);
        assert_eq!(promised.paths.len(), without.paths.len() + 1);
        let more: Vec<_> = promised
            .missing
            .iter()
            .filter(|path| !without.missing.contains(path))
            .collect();
        assert_eq!(more, [path::BROKEN_DOWN]);
    }

    #[test]
    fn overlay_that_the_maker_names_and_the_broker_does_not_have_is_missed_with_all_that_is_in_it() {
        let terms = Terms {
            overlay: "Vehicle.Amce".to_owned(),
            ..Terms::default()
        };
        let without = choose(&known(&[]), &Terms::default());
        let misspelt = choose(&known(&["Vehicle.Acme.IsUpdating"]), &terms);
        let more: Vec<_> = misspelt
            .missing
            .iter()
            .filter(|path| !without.missing.contains(path))
            .collect();
        let named = [path::UPDATING, path::IN_SERVICE, path::CRASHED].map(|what| format!("Vehicle.Amce.{what}"));
        assert_eq!(more, named.iter().collect::<Vec<_>>());
        // One is enough: no car has all.
        let terms = Terms {
            overlay: "Vehicle.Acme".to_owned(),
            ..Terms::default()
        };
        let there = choose(&known(&["Vehicle.Acme.IsUpdating"]), &terms);
        assert_eq!(there.missing, without.missing);
        assert!(there.paths.contains(&"Vehicle.Acme.IsUpdating".to_owned()));
    }

    #[test]
    fn owners_plans_are_heard_where_there_are_any_and_missed_nowhere() {
        let (with, without) = (chosen(&path::HINTS.map(str::to_owned)), chosen(&[]));
        assert_eq!(with.paths.len(), without.paths.len() + path::HINTS.len());
        assert_eq!(with.missing, without.missing);
    }

    #[test]
    fn signal_that_is_heard_beside_is_chosen_where_there_is_one_and_never_missed() {
        let power = "Vehicle.ControlUnit.Central.Health.Resources.Power";
        let terms = Terms {
            beside: vec![power.to_owned()],
            ..Terms::default()
        };
        let without = choose(&known(&[]), &terms);
        assert_eq!(without, choose(&known(&[]), &Terms::default()));
        let with = choose(&known(&[power]), &terms);
        assert_eq!(with.paths.len(), without.paths.len() + 1);
        assert!(with.paths.contains(&power.to_owned()) && with.missing == without.missing);
    }

    #[test]
    fn nothing_is_asked_for_that_tells_where_a_car_is_or_whose_it_is() {
        let optional: Vec<_> = Terms::default().optional().collect();
        let private = [
            "Vehicle.CurrentLocation.Latitude",
            "Vehicle.VehicleIdentification.VIN",
            "Vehicle.Powertrain.TractionBattery.Charging.EvseId",
            path::MEMORY_SHORT,
        ];
        let wanted = chosen(&[optional, private.map(str::to_owned).to_vec()].concat());
        assert!(
            wanted.paths.iter().all(|path| path != path::MEMORY_SHORT),
            "that is the agent's to say"
        );
        assert!(
            wanted
                .paths
                .iter()
                .all(|path| !path.contains("Location") && !path.contains("Identification"))
        );
        assert!(wanted.paths.iter().all(|path| !path.contains("EvseId")));
    }
}
