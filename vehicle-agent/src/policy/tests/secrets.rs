//! Two lives of one car: the same happens in both, and everything that is nobody's business differs. The cluster hears the same of both.
//!
//! It is a week of days of forty minutes each, on paused time, with the loop that runs in the car: work, the driver's return, a drive, home
//! again. That no canary is found would show that a value is not told as it is; this shows that nothing is told that depends on it.

use super::*;

/// What must not matter.
#[derive(Clone, Copy)]
struct Life {
    owner: &'static str,
    vin: &'static str,
    place: [f64; 2],
    charge: [f64; 7],
    battery: f64,
    air: f64,
    voltage: f64,
    speed: f64,
}

const ONE: Life = Life {
    owner: "
# Quillon Vandersloot-Maro, zephyr-attic-5GHz
apiVersion: owner.kerbside.dev/v1alpha1
kind: OwnerPolicy
consent: {givenAt: \"2026-11-01T10:00:00Z\", classes: [inference]}
requirePluggedIn: true
chargeFloorPercent: 50
resumeWithin: 2m
quietHours:
- {from: \"03:17\", to: \"03:54\"}
timeZone: Europe/Berlin
tariff: {currency: EUR, perKWh: \"0.3471\"}
...
",
    vin: "WKB9ZQ7XJ4T508213",
    place: [69.731_642_9, 118.955_321_4],
    charge: [83.417, 79.263, 91.708, 86.149, 77.39, 94.825, 81.537],
    battery: 23.917,
    air: 17.368,
    voltage: 13.847,
    speed: 87.314,
};

const OTHER: Life = Life {
    owner: "
apiVersion: owner.kerbside.dev/v1alpha1
kind: OwnerPolicy
consent: {givenAt: \"2026-10-07T21:13:00Z\", classes: [inference]}
requirePluggedIn: true
chargeFloorPercent: 35
chargeResumeMarginPercent: 9
resumeWithin: 4m
quietHours:
- {from: \"04:29\", to: \"05:01\", days: [Tue, Sun]}
timeZone: Asia/Tokyo
tariff: {currency: JPY, perKWh: \"31.62\", windows: [{from: \"23:10\", to: \"06:50\", perKWh: \"21.94\"}]}
...
",
    vin: "5YJ3E1EA7KF317449",
    place: [-33.856_784, 151.215_297],
    charge: [61.2, 58.9, 99.0, 60.4, 71.3, 66.6, 100.0],
    battery: 31.25,
    air: 4.75,
    voltage: 14.21,
    speed: 12.5,
};

impl Life {
    fn signals(&self, day: usize) -> Vec<(String, Value)> {
        let mut all = parked_signals();
        let mut set = |path: &str, value| all.push((path.to_owned(), value));
        set(path::CHARGE, Value::Number(self.charge[day]));
        set(path::BATTERY_TEMPERATURE, Value::Number(self.battery));
        set(path::AIR_TEMPERATURE, Value::Number(self.air));
        set(path::LOW_VOLTAGE, Value::Number(self.voltage));
        set("Vehicle.VehicleIdentification.VIN", Value::Text(self.vin.to_owned()));
        set("Vehicle.CurrentLocation.Latitude", Value::Number(self.place[0]));
        set("Vehicle.CurrentLocation.Longitude", Value::Number(self.place[1]));
        all
    }

    fn drives(&self) -> Vec<(String, Value)> {
        vec![
            open_door(),
            (path::SPEED.to_owned(), Value::Number(self.speed)),
            (path::IS_MOVING.to_owned(), Value::Bool(true)),
            (path::SELECTED_GEAR.to_owned(), Value::Number(127.0)),
            (path::LOW_VOLTAGE_SYSTEM_STATE.to_owned(), Value::Text("ON".to_owned())),
        ]
    }
}

/// Its signals show this for so long, and are said again and again.
async fn shows(fixture: &Fixture, life: &Life, day: usize, minutes: u64, differ: &[(String, Value)]) {
    for _ in 0..minutes * 6 {
        let mut signals = life.signals(day);
        signals.extend(differ.iter().cloned());
        fixture.set(signals);
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

/// Everything that the cluster is told in a week, and what it would hear if it asked for work at each change.
async fn week(life: &Life) -> (Vec<CarState>, Vec<Option<String>>) {
    let fixture = Fixture::new(Some(life.owner));
    let mut refusals = Vec::new();
    for day in 0..7 {
        for (minutes, differ) in [
            (20, Vec::new()),
            (1, vec![open_door()]),
            (10, life.drives()),
            (9, Vec::new()),
        ] {
            shows(&fixture, life, day, minutes, &differ).await;
            refusals.push(fixture.refusal());
        }
    }
    (fixture.cluster.states(), refusals)
}

#[tokio::test(start_paused = true)]
async fn what_the_cluster_hears_in_a_week_does_not_depend_on_what_is_nobodys_business() {
    let (said, refusals) = week(&ONE).await;
    // Away, available and paused, each day, or there was nothing to be told.
    let count = |standing| said.iter().filter(|state| state.standing() == standing).count();
    assert!(
        count(Standing::Available) >= 7 && count(Standing::Paused) >= 7,
        "{said:?}"
    );
    assert!(count(Standing::Away) >= 7, "{said:?}");
    let (other, others) = week(&OTHER).await;
    assert_eq!(said, other);
    assert_eq!(refusals, others);
}

/// The control: what does matter is seen, so a difference would have been.
#[tokio::test(start_paused = true)]
async fn charge_below_the_floor_is_told_by_leaving_and_by_nothing_else() {
    let mut low = ONE;
    low.charge[3] = 41.5;
    let (said, _) = week(&ONE).await;
    let (other, _) = week(&low).await;
    assert_ne!(said, other);
    // And what is told is one of the things that are told anyway: of an offer nothing changes.
    let offers = |states: &[CarState]| -> Vec<_> { states.iter().filter_map(|state| state.offer.clone()).collect() };
    let known = offers(&said);
    assert!(offers(&other).iter().all(|offer| known.contains(offer)));
}
