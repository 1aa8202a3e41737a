//! The brokers of cars that play scenarios: one process for all of them, and one provider that says into each what its car's file plays.
//!
//! Started by the demo, whose cars stay when it has ended: so the provider is a process too (`kerbside-testbed provide`). What is played is
//! VSS 6.0, as the agent's own player has it; each broker hears it in the names and types of its release. What must never happen: a car
//! knows a signal by another way than its broker.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};
use clap::Args;
use futures::future::join_all;
use kerbside_core::parked;
use kerbside_core::parked::signals::path;
use kerbside_databroker::proto::val_client::ValClient;
use kerbside_databroker::proto::value::TypedValue;
use kerbside_databroker::unsigned;
use kerbside_databroker::vss::{self, Release};
use kerbside_vehicle_agent::signals::scenario::Scenario;
use kerbside_vehicle_agent::signals::{Signals as _, Update};
use serde_json::json;
use tokio::net::UnixStream;
use tokio::time::sleep;
use tonic::transport::Channel;

use super::{AGAIN, DEADLINE, Says, number, providers_token, socket_fits};
use crate::fleet::car;
use crate::layout::{Layout, write_atomically};
use crate::process::{self, Program};
use crate::tools;

/// The process of all brokers, and that of who tells them.
const BROKERS: &str = "databrokers";
const PROVIDER: &str = "provider";
/// What a car reads and nothing else: no position, no VIN.
const READS: &str = "read:Vehicle.Speed read:Vehicle.IsMoving read:Vehicle.LowVoltageSystemState read:Vehicle.Powertrain \
                     read:Vehicle.Chassis read:Vehicle.Cabin read:Vehicle.Body read:Vehicle.LowVoltageBattery read:Vehicle.Exterior \
                     read:Vehicle.Connectivity";

/// A car, and which release of VSS its broker speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// What people call it.
    pub name: String,
    /// The release.
    pub release: Release,
}

impl FromStr for Listener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, release) = text
            .split_once('=')
            .ok_or_else(|| format!("'{text}' is no car with its release of VSS, such as ada=6"))?;
        Ok(Self {
            name: name.to_owned(),
            release: release.parse()?,
        })
    }
}

impl Listener {
    fn dir(&self) -> String {
        format!("cars/{}", self.name)
    }

    fn socket(&self, layout: &Layout) -> PathBuf {
        layout.path(&self.dir()).join("b.sock")
    }

    /// The section `signals` of its `car.yaml`.
    pub fn signals(&self, layout: &Layout) -> serde_json::Value {
        json!({
            "broker": format!("unix:{}", self.socket(layout).display()),
            "tokenFile": layout.path("databrokers/token"),
        })
    }
}

/// What a provider is asked for.
#[derive(Debug, Args)]
pub struct Options {
    /// The testbed's directory
    #[arg(long)]
    dir: PathBuf,
    /// Cars, each with the release of VSS that its broker speaks
    #[arg(required = true, value_name = "NAME=RELEASE")]
    cars: Vec<Listener>,
}

/// Starts the brokers of these cars, and who tells them what the cars' scenarios play. Cars may come later.
pub async fn start(layout: &Layout, cars: &[Listener]) -> Result<()> {
    let dir = layout.dir("databrokers")?;
    let (token, tokens) = (dir.join("token"), dir.join("tokens"));
    let reads = unsigned("car", None, READS);
    write_atomically(&token, reads.as_bytes())?;
    write_atomically(&tokens, [providers_token(), reads].join("\n").as_bytes())?;
    let mut program = Program::new(BROKERS, tools::own("kerbside-databroker")?)
        .args(["--tokens".to_owned(), tokens.display().to_string()]);
    for car in cars {
        layout.dir(&car.dir())?;
        let socket = car.socket(layout);
        socket_fits(&socket)?;
        let served = format!("{}={}", socket.display(), number(car.release));
        program = program.args(["--car".to_owned(), served]);
    }
    let record = process::start(layout, &program)?;
    process::ready(&record, DEADLINE, || async {
        for car in cars {
            UnixStream::connect(car.socket(layout))
                .await
                .context("nobody listens")?;
        }
        Ok(())
    })
    .await?;
    let provider = Program::new(PROVIDER, tools::own("kerbside-testbed")?)
        .args(["provide".to_owned(), "--dir".to_owned()])
        .args([layout.root().display().to_string()])
        .args(cars.iter().map(|car| format!("{}={}", car.name, number(car.release))));
    process::start(layout, &provider).map(drop)
}

/// Tells the brokers of these cars what their scenarios play, until it is ended.
pub async fn provide(options: &Options) -> Result<()> {
    let layout = Layout::open(&options.dir)?;
    join_all(options.cars.iter().map(|car| tell(&layout, car))).await;
    Ok(())
}

async fn tell(layout: &Layout, car: &Listener) {
    let names = Names::of(car.release);
    let says = Says {
        socket: car.socket(layout),
        token: Some(providers_token()),
    };
    let mut scenario = enters(&car::scenario(&layout.path(&car.dir()))).await;
    let mut client = None;
    let mut trouble = String::new();
    while let Some(update) = scenario.next().await {
        // What cannot be said is lost and no harm: a broker that is back knows nothing, and all that is played is said every second.
        match say(&says, client.take(), names.translate(&update)).await {
            Ok(reached) => {
                client = Some(reached);
                trouble.clear();
            }
            Err(error) => {
                let why = format!("{error:#}");
                if why != trouble {
                    eprintln!("{}: {why}", car.name);
                }
                trouble = why;
            }
        }
    }
}

/// Waits until the car has a scenario.
async fn enters(file: &Path) -> Scenario {
    loop {
        match Scenario::open(file.to_owned()) {
            Ok(scenario) => return scenario,
            Err(_) => sleep(AGAIN).await,
        }
    }
}

/// Says all of it, over the connection that there is or a new one; gives that back.
async fn say(
    says: &Says,
    client: Option<ValClient<Channel>>,
    told: Vec<(String, Option<TypedValue>)>,
) -> Result<ValClient<Channel>> {
    let mut client = match client {
        Some(client) => client,
        None => says.client().await?,
    };
    for (path, value) in told {
        says.one(&mut client, &path, value).await?;
    }
    Ok(client)
}

/// The signals that a release has, each with some value: all its values are of that kind.
struct Names(BTreeMap<String, TypedValue>);

impl Names {
    fn of(release: Release) -> Self {
        let all = vss::parked(release).into_iter();
        Self(all.map(|(path, _, value)| (path, value)).collect())
    }

    /// The same in the words of the release. What it has no name for is not said.
    fn translate(&self, update: &Update) -> Vec<(String, Option<TypedValue>)> {
        let forgotten = update.forget.iter().filter_map(|path| {
            let (name, _) = self.name(path)?;
            Some((name.to_owned(), None))
        });
        let set = update.set.iter().filter_map(|(path, value)| {
            let (name, kind) = self.name(path)?;
            Some((name.to_owned(), Some(typed(kind, value)?)))
        });
        forgotten.chain(set).collect()
    }

    /// How the signal is called that VSS 6.0 calls so.
    fn name(&self, path: &str) -> Option<(&str, &TypedValue)> {
        const CABLE: &str = ".IsChargingCableConnected";
        let found = if let Some(seat) = path.strip_suffix(".OccupancyStatus") {
            let before = format!("{seat}.IsOccupied");
            self.0.get_key_value(path).or_else(|| self.0.get_key_value(&before))
        } else if path.starts_with(path::CHARGING_PORTS) && path.ends_with(CABLE) {
            // A car of the table has one cable, whatever its port is called.
            self.0.iter().find(|(name, _)| name.ends_with(CABLE))
        } else {
            self.0.get_key_value(path)
        };
        found.map(|(name, kind)| (name.as_str(), kind))
    }
}

/// The value as one of this kind; `None`: it is none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "what a scenario plays is small, and a cast saturates"
)]
fn typed(kind: &TypedValue, value: &parked::Value) -> Option<TypedValue> {
    use kerbside_core::parked::Value;
    Some(match (kind, value) {
        (TypedValue::Bool(_), Value::Bool(is)) => TypedValue::Bool(*is),
        // Of seats, before VSS 6.0.
        (TypedValue::Bool(_), Value::Text(status)) if status != "UNKNOWN" => TypedValue::Bool(status == "OCCUPIED"),
        (TypedValue::String(_), Value::Text(text)) => TypedValue::String(text.clone()),
        (TypedValue::Float(_), Value::Number(number)) => TypedValue::Float(*number as f32),
        (TypedValue::Double(_), Value::Number(number)) => TypedValue::Double(*number),
        (TypedValue::Int32(_), Value::Number(number)) => TypedValue::Int32(*number as i32),
        (TypedValue::Uint32(_), Value::Number(number)) => TypedValue::Uint32(*number as u32),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn car_is_said_with_its_release() {
        let ada = Listener {
            name: "ada".to_owned(),
            release: Release::V5,
        };
        assert_eq!("ada=5".parse(), Ok(ada));
        for (text, says) in [
            ("ada", "such as ada=6"),
            ("ada=7", "'7' is no release"),
            ("ada=", "'' is no release"),
        ] {
            let why = text.parse::<Listener>().unwrap_err();
            assert!(why.contains(says), "{why}");
        }
    }

    #[rstest::rstest]
    #[case::four(
        Release::V4,
        "IsOccupied",
        TypedValue::Bool(true),
        ".Charging.IsChargingCableConnected"
    )]
    #[case::five(
        Release::V5,
        "IsOccupied",
        TypedValue::Bool(true),
        ".FrontLeft.IsChargingCableConnected"
    )]
    #[case::six(
        Release::V6,
        "OccupancyStatus",
        TypedValue::String("OCCUPIED".to_owned()),
        ".AnyPosition.IsChargingCableConnected"
    )]
    fn seat_and_cable_have_the_names_of_the_release(
        #[case] release: Release,
        #[case] seat: &str,
        #[case] taken: TypedValue,
        #[case] cable: &str,
    ) {
        let driver = path::SEATS[0];
        let port = format!("{}AnyPosition.IsChargingCableConnected", path::CHARGING_PORTS);
        let update = Update {
            set: vec![
                (
                    format!("{driver}.OccupancyStatus"),
                    parked::Value::Text("OCCUPIED".to_owned()),
                ),
                (port, parked::Value::Bool(false)),
                (path::BROKEN_DOWN.to_owned(), parked::Value::Bool(false)),
            ],
            forget: vec![path::SPEED.to_owned()],
            ..Update::default()
        };
        let told = Names::of(release).translate(&update);
        let [speed, sits, charging] = &*told else {
            panic!("what the release has no name for is not said: {told:?}")
        };
        assert_eq!(speed, &(path::SPEED.to_owned(), None));
        assert_eq!(sits, &(format!("{driver}.{seat}"), Some(taken)));
        assert!(
            charging.0.ends_with(cable) && charging.1 == Some(TypedValue::Bool(false)),
            "{charging:?}"
        );
    }

    #[tokio::test]
    async fn all_that_a_car_is_judged_by_is_said_in_each_release() {
        let temp = tempfile::tempdir().unwrap();
        let optional: Vec<_> = parked::Terms::default().optional().collect();
        for preset in ["parked", "driving"] {
            let file = temp.path().join(preset);
            std::fs::write(&file, format!("preset: {preset}")).unwrap();
            let update = Scenario::open(file).unwrap().next().await.unwrap();
            let needed = update.set.iter().filter(|(path, _)| !optional.contains(path)).count();
            assert!(needed > 20, "{needed}");
            for release in [Release::V4, Release::V5, Release::V6] {
                let told = Names::of(release).translate(&update);
                assert_eq!(told.len(), needed, "{preset}, {release:?}: {told:?}");
            }
        }
    }
}
