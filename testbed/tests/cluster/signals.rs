//! Cars that listen to a databroker, as real ones do: what it says counts as long as somebody vouches for it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kerbside_api::v1alpha1::VehiclePhase;
use kerbside_databroker::proto::value::TypedValue;
use kerbside_databroker::unsigned;
use kerbside_databroker::vss::{DRIVERS_DOOR, Release, parked};
use kerbside_testbed::databroker::{Databroker, Way};
use kerbside_testbed::fleet::car::{Car, Plan};
use kerbside_testbed::process::{self, Program, Record};
use kerbside_testbed::world::{self, World};
use kerbside_testbed::{layout, tools, wait};
use serde_json::json;
use tokio::time::Instant;

/// What a car reads and nothing else.
const READS: &str = "read:Vehicle.Speed read:Vehicle.IsMoving read:Vehicle.LowVoltageSystemState read:Vehicle.Powertrain \
                     read:Vehicle.Chassis read:Vehicle.Cabin read:Vehicle.Body read:Vehicle.LowVoltageBattery read:Vehicle.Exterior \
                     read:Vehicle.Connectivity";
/// Of signals that nobody vouches for any more: the default of `parked.staleAfter`.
const AGE: Duration = Duration::from_secs(3);

fn driver_door() -> String {
    format!("{DRIVERS_DOOR}.IsOpen")
}

fn listening(broker: &Databroker) -> Plan {
    Plan {
        databroker: Some(broker.signals()),
        ..Plan::default()
    }
}

/// Waits until the car itself says that it stands so, with these words in its account.
async fn stands(car: &Car, standing: &str, words: &str) -> Result<()> {
    let what = format!("{} to be {standing}", car.name);
    wait::until_ok(&what, world::DEADLINE, async || {
        let status = car.owner("status").await?.stdout;
        let first = status.lines().next().unwrap_or_default();
        ensure!(first.ends_with(standing) && status.contains(words), "{status}");
        Ok(())
    })
    .await
}

async fn comes_and_goes(world: &mut World, release: Release, way: Way) -> Result<()> {
    let broker = world.databroker(release, way).await?;
    if way == Way::Tls {
        let token = unsigned("car", None, READS);
        std::fs::write(broker.token(), &token).context("failed to write a token")?;
        broker.let_in(&[token])?;
    }
    let provider = broker.provide().await?;
    let car = world.car(&listening(&broker)).await?;
    provider.set(&driver_door(), TypedValue::Bool(true)).await?;
    stands(&car, "paused", "").await?;
    provider.set(&driver_door(), TypedValue::Bool(false)).await?;
    stands(&car, "available", "").await?;
    provider.set("Vehicle.IsMoving", TypedValue::Bool(true)).await?;
    world.phase(&car, VehiclePhase::Away).await
}

#[tokio::test]
async fn car_of_each_release_listens_by_each_way() -> Result<()> {
    world::run("signals", async |world| {
        for (release, way) in [
            (Release::V4, Way::Plain),
            (Release::V5, Way::Unix),
            (Release::V6, Way::Tls),
        ] {
            comes_and_goes(world, release, way)
                .await
                .with_context(|| format!("{release:?} by {way:?}"))?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn signals_whose_provider_has_died_count_for_three_seconds() -> Result<()> {
    world::run("provider", async |world| {
        let broker = world.databroker(Release::V6, Way::Unix).await?;
        let provider = broker.provide().await?;
        let car = world.car(&listening(&broker)).await?;
        // The broker goes on to give out what it said last.
        drop(provider);
        let since = Instant::now();
        stands(&car, "paused", "unknown").await?;
        let took = since.elapsed();
        ensure!(took > AGE * 2 / 3 && took < AGE * 3, "it took {took:?}");
        let _provider = broker.provide().await?;
        stands(&car, "available", "").await
    })
    .await
}

#[tokio::test]
async fn broker_that_stands_still_or_is_killed_vouches_for_nothing_until_it_is_back() -> Result<()> {
    world::run("broker", async |world| {
        let broker = world.databroker(Release::V6, Way::Unix).await?;
        let _provider = broker.provide().await?;
        let car = world.car(&listening(&broker)).await?;
        let since = Instant::now();
        broker.freeze()?;
        stands(&car, "paused", "unknown").await?;
        let took = since.elapsed();
        ensure!(took > AGE * 2 / 3 && took < AGE * 3, "it took {took:?}");
        broker.thaw()?;
        stands(&car, "available", "").await?;
        broker.crash().await?;
        stands(&car, "paused", "unknown").await?;
        broker.restart().await?;
        stands(&car, "available", "").await
    })
    .await
}

#[tokio::test]
async fn token_that_does_not_let_the_car_read_is_said_where_the_maker_looks_and_the_car_stays_away() -> Result<()> {
    world::run("token", async |world| {
        let broker = world.databroker(Release::V6, Way::Tls).await?;
        let less = unsigned("car", None, "read:Vehicle.Speed");
        std::fs::write(broker.token(), &less).context("failed to write a token")?;
        let all = unsigned("car", None, READS);
        broker.let_in(&[less, all.clone()])?;
        let _provider = broker.provide().await?;
        // It is not waited for: nothing makes it available.
        let plan = Plan {
            signals: kerbside_testbed::fleet::car::Signals::Silent,
            ..listening(&broker)
        };
        let car = world.car(&plan).await?;
        let log = world.bed.layout.path(&format!("logs/car-{}.log", car.name));
        wait::until_ok("the agent to say what is wrong", world::DEADLINE, async || {
            let log = std::fs::read_to_string(&log).context("failed to read a log")?;
            let words = "does not tell signals that the car is judged by: the token does not let the agent read them";
            ensure!(log.contains(words) && log.contains("Vehicle.IsMoving"), "{log}");
            Ok(())
        })
        .await?;
        stands(&car, "away", "unknown").await?;
        // Whoever gives tokens has seen it.
        std::fs::write(broker.token(), &all).context("failed to write a token")?;
        world.phase(&car, VehiclePhase::Available).await
    })
    .await
}

/// The Python that has Eclipse KUKSA's own client. `None`: this machine cannot have it, which is a failure in CI.
fn kuksa() -> Result<Option<String>> {
    let script = tools::checkout()?.join("hack/tools/kuksa.sh");
    let output = std::process::Command::new("bash")
        .arg(script)
        .output()
        .context("failed to run bash")?;
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()));
    }
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(std::env::var_os("CI").is_none(), "{why}");
    eprintln!("NOT TESTED with Eclipse KUKSA's client: {why}");
    Ok(None)
}

/// What a car's signals are, for the programs in `testbed/interop`.
fn values(release: Release, open: bool) -> serde_json::Value {
    let value = |(path, kind, value): (String, kerbside_databroker::proto::DataType, TypedValue)| {
        let kind = kind.as_str_name().trim_start_matches("DATA_TYPE_").to_owned();
        let value = match value {
            TypedValue::Bool(_) if path == driver_door() => json!(open),
            TypedValue::Bool(is) => json!(is),
            TypedValue::String(text) => json!(text),
            TypedValue::Int32(number) => json!(number),
            TypedValue::Uint32(number) => json!(number),
            TypedValue::Float(number) => json!(number),
            TypedValue::Double(number) => json!(number),
            TypedValue::Int64(number) => json!(number),
            TypedValue::Uint64(number) => json!(number),
        };
        json!([path, kind, value])
    };
    parked(release).into_iter().map(value).collect()
}

/// Starts one of the programs in `testbed/interop`.
fn interop(world: &mut World, python: &str, script: &str, arguments: &[String]) -> Result<Record> {
    let place = tools::checkout()?.join("testbed/interop").join(script);
    let program = Program::new(&format!("{}-{script}", world.name), python.into())
        .args([place.display().to_string()])
        .args(arguments.iter().cloned());
    world.program(&program)
}

async fn says(record: &Record, words: &str) -> Result<()> {
    wait::until_ok(
        &format!("{} to say '{words}'", record.program.name),
        world::DEADLINE,
        async || {
            let log = std::fs::read_to_string(&record.log).context("failed to read a log")?;
            ensure!(log.contains(words), "{log}");
            Ok(())
        },
    )
    .await
}

#[tokio::test]
async fn provider_that_is_eclipse_kuksas_own_client_is_heard_in_the_car() -> Result<()> {
    world::run("kuksa-client", async |world| {
        let Some(python) = kuksa()? else { return Ok(()) };
        let broker = world.databroker(Release::V5, Way::Tls).await?;
        let provides = unsigned("python", None, "provide read");
        let token = unsigned("car", None, READS);
        std::fs::write(broker.token(), &token).context("failed to write a token")?;
        broker.let_in(&[provides.clone(), token])?;
        let file = world
            .bed
            .layout
            .dir("databrokers")?
            .join(format!("{}.json", world.name));
        layout::write_json(&file, &values(Release::V5, false))?;
        let port = broker.port.to_string();
        let certificate = broker.certificate().display().to_string();
        let arguments = [
            "127.0.0.1",
            &port,
            &file.display().to_string(),
            &driver_door(),
            "--token",
            &provides,
            "--ca",
            &certificate,
        ];
        let arguments = arguments.map(str::to_owned);
        let client = interop(world, &python, "provider.py", &arguments)?;
        let car = world.car(&listening(&broker)).await?;
        layout::write_json(&file, &values(Release::V5, true))?;
        stands(&car, "paused", "").await?;
        // It hears what it has said itself, too.
        says(&client, &format!("{} is True", driver_door())).await?;
        layout::write_json(&file, &values(Release::V5, false))?;
        stands(&car, "available", "").await
    })
    .await
}

#[tokio::test]
async fn car_listens_to_a_server_made_of_eclipse_kuksas_own_stubs() -> Result<()> {
    world::run("kuksa-server", async |world| {
        let Some(python) = kuksa()? else { return Ok(()) };
        let dir = world.bed.layout.dir("databrokers")?;
        let (socket, file) = (
            dir.join(format!("{}.sock", world.name)),
            dir.join(format!("{}.json", world.name)),
        );
        layout::write_json(&file, &values(Release::V6, false))?;
        let text = |path: &Path| path.display().to_string();
        let server = interop(world, &python, "server.py", &[text(&socket), text(&file)])?;
        says(&server, "listening").await?;
        let plan = Plan {
            databroker: Some(json!({"broker": format!("unix:{}", socket.display())})),
            ..Plan::default()
        };
        let car = world.car(&plan).await?;
        says(&server, "with a buffer of 1000").await?;
        layout::write_json(&file, &values(Release::V6, true))?;
        stands(&car, "paused", "").await?;
        process::end(&world.bed.layout, &[server], Duration::from_secs(5)).await?;
        stands(&car, "paused", "unknown").await
    })
    .await
}
