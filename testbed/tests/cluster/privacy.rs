//! What leaves a car, and what the cluster holds of it: a week of a commuter's days, one after the other, with a canary for each secret.
//!
//! The car is a real agent that listens to a databroker. It dials `privacy::wire`, which records everything that it sends before it is
//! encrypted, enrolment and a renewal among it, and pulls its images by `privacy::pulls`; the adapter sees a canary as the car's address.
//! Days are as short as the agent lets them be: it goes by the clock on the wall, which nobody turns. Which week this is, and what it does
//! not cover: docs/privacy.md.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::tz::TimeZone;
use kerbside_api::v1alpha1::VehiclePhase;
use kerbside_core::clock::Clock as _;
use kerbside_databroker::proto::value::TypedValue;
use kerbside_databroker::vss::{DRIVERS_DOOR, Release};
use kerbside_link::SystemClock;
use kerbside_testbed::databroker::{Provider, Way};
use kerbside_testbed::fleet::car::{Car, Plan};
use kerbside_testbed::fleet::name;
use kerbside_testbed::privacy::canary::{Canary, Secret as Hidden, needles};
use kerbside_testbed::privacy::objects::Watching;
use kerbside_testbed::privacy::pulls::{self, Pulls};
use kerbside_testbed::privacy::scan::{Recordings, Scanner};
use kerbside_testbed::privacy::wire::Wire;
use kerbside_testbed::world::{self, World};
use kerbside_testbed::{http, wait};
use serde_json::json;

use crate::{identity, support};

/// The car's address, as the adapter sees it.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 83, 147, 219);
const VIN: &str = "WKB9ZQ7XJ4T508213";
const OWNER: &str = "Quillon Vandersloot-Maro";
const PLACE: &str = "14 Zephyrbrook Lane";
const NETWORK: &str = "zephyr-attic-5GHz";
const ZONE: &str = "Antarctica/Troll";
// Each with a minus or above 60, so that none looks like the seconds of a time stamp.
const SPEED: f32 = 87.314_16;
const LATITUDE: f64 = 69.731_642_9;
const LONGITUDE: f64 = 118.955_321_4;
const CHARGES: [f32; 7] = [
    83.417_68, 79.263_41, 91.708_37, 86.149_52, 77.390_64, 94.825_17, 81.537_29,
];
const AIR: f32 = -17.368_21;
const BATTERY: f32 = -23.917_46;
const VOLTAGE: f32 = 64.847_26;

const CHARGE: &str = "Vehicle.Powertrain.TractionBattery.StateOfCharge.Displayed";

/// The owner's quiet hours: far from now, for the car has to work.
fn quiet() -> Result<[String; 2]> {
    let now = SystemClock.wall();
    let at = |minutes: u64| -> Result<String> {
        let time = now
            .checked_add(Duration::from_mins(minutes))
            .context("a time of today")?;
        Ok(time.to_zoned(TimeZone::UTC).strftime("%H:%M").to_string())
    };
    let hours = |from: u64| -> Result<[String; 2]> { Ok([at(from)?, at(from + 37)?]) };
    // Documents and certificates have midnights of their own.
    let quiet = hours(11 * 60 + 3)?;
    if quiet.iter().any(|time| time == "00:00") {
        return hours(11 * 60 + 4);
    }
    Ok(quiet)
}

fn canaries(quiet: &[String; 2]) -> Vec<Canary> {
    let hidden = |what, secret| Canary { what, secret };
    let mut all = vec![
        Canary::text("VIN", VIN),
        Canary::text("owner", OWNER),
        Canary::text("place", PLACE),
        Canary::text("network", NETWORK),
        Canary::text("zone", ZONE),
        Canary::number("latitude", LATITUDE),
        Canary::number("longitude", LONGITUDE),
        Canary::number("speed", f64::from(SPEED)),
        Canary::number("air", f64::from(AIR)),
        Canary::number("battery", f64::from(BATTERY)),
        Canary::number("voltage", f64::from(VOLTAGE)),
        hidden("address", Hidden::Address(ADDRESS.octets())),
    ];
    all.extend(CHARGES.map(|charge| Canary::number("charge", f64::from(charge))));
    all.extend(
        quiet
            .iter()
            .map(|time| hidden("schedule", Hidden::TimeOfDay(time.clone()))),
    );
    all
}

/// What must be found, or nothing was looked at: what the car says on purpose, and what everybody sees.
fn said(car: &Car) -> Vec<Canary> {
    vec![
        Canary::text("class", "inference"),
        Canary::text("id", car.id.as_str()),
        Canary::text("pull", "manifests"),
    ]
}

/// The owner's document and the car's own notes, with everything in them that must stay there.
fn write_home(dir: &Path, quiet: &[String; 2]) -> Result<()> {
    let [from, to] = quiet;
    let document = format!(
        "# {OWNER}, {PLACE}, {NETWORK}, {VIN}\n\
         apiVersion: owner.kerbside.dev/v1alpha1\nkind: OwnerPolicy\n\
         consent: {{givenAt: \"2026-01-01T00:00:00Z\", classes: [inference]}}\n\
         requirePluggedIn: true\nchargeFloorPercent: 50\nresumeWithin: 2m\n\
         quietHours:\n- {{from: \"{from}\", to: \"{to}\"}}\ntimeZone: {ZONE}\n...\n"
    );
    std::fs::write(dir.join("owner.yaml"), document).context("failed to write an owner's document")
}

/// The signals of a car somewhere, standing.
async fn stands_at_home(provider: &Provider, charge: f32) -> Result<()> {
    let door = format!("{DRIVERS_DOOR}.IsOpen");
    for (path, value) in [
        ("Vehicle.VehicleIdentification.VIN", TypedValue::String(VIN.to_owned())),
        ("Vehicle.CurrentLocation.Latitude", TypedValue::Double(LATITUDE)),
        ("Vehicle.CurrentLocation.Longitude", TypedValue::Double(LONGITUDE)),
        ("Vehicle.Exterior.AirTemperature", TypedValue::Float(AIR)),
        (
            "Vehicle.Powertrain.TractionBattery.Temperature.Average",
            TypedValue::Float(BATTERY),
        ),
        ("Vehicle.LowVoltageBattery.CurrentVoltage", TypedValue::Float(VOLTAGE)),
        (CHARGE, TypedValue::Float(charge)),
        ("Vehicle.Speed", TypedValue::Float(0.0)),
        ("Vehicle.IsMoving", TypedValue::Bool(false)),
        (door.as_str(), TypedValue::Bool(false)),
    ] {
        provider.set(path, value).await?;
    }
    Ok(())
}

/// Waits until the car itself says that it stands so.
async fn stands(car: &Car, standing: &str) -> Result<()> {
    wait::until_ok(&format!("{} to be {standing}", car.name), world::DEADLINE, async || {
        let status = car.owner("status").await?.stdout;
        ensure!(
            status.lines().next().unwrap_or_default().ends_with(standing),
            "{status}"
        );
        Ok(())
    })
    .await
}

/// The far ends of the agent's TCP connections, and how many sockets of another kind than TCP and Unix it has.
fn connections(car: &Car) -> Result<(BTreeSet<u16>, usize)> {
    let process = format!("/proc/{}", car.process()?.pid);
    let mut own = BTreeSet::new();
    for entry in std::fs::read_dir(format!("{process}/fd")).context("failed to look at the agent's files")? {
        // A file that was closed meanwhile is none.
        let Ok(target) = std::fs::read_link(entry.context("failed to look at a file")?.path()) else {
            continue;
        };
        let target = target.to_string_lossy().into_owned();
        own.extend(
            target
                .strip_prefix("socket:[")
                .and_then(|inode| inode.strip_suffix(']'))
                .map(str::to_owned),
        );
    }
    let table = |name: &str| std::fs::read_to_string(format!("{process}/net/{name}")).unwrap_or_default();
    // In which column the kernel says whose a socket is.
    let mine = |line: &str, column| {
        line.split_whitespace()
            .nth(column)
            .is_some_and(|inode| own.contains(inode))
    };
    let mut far = BTreeSet::new();
    for text in [table("tcp"), table("tcp6")] {
        for line in text.lines().skip(1).filter(|line| mine(line, 9)) {
            let remote = line.split_whitespace().nth(2).context("a connection has two ends")?;
            let (_, port) = remote.split_once(':').context("an end has a port")?;
            far.insert(u16::from_str_radix(port, 16).context("a port is a number")?);
        }
    }
    let others = [
        ("udp", 9),
        ("udp6", 9),
        ("raw", 9),
        ("raw6", 9),
        ("icmp", 9),
        ("packet", 8),
    ];
    let count = |(name, column)| table(name).lines().skip(1).filter(|line| mine(line, column)).count();
    Ok((far, others.map(count).into_iter().sum()))
}

/// The car's connections are those to its adapter and the registry, and nothing else leaves it.
fn only_known(world: &World, car: &Car, wire: &Wire) -> Result<()> {
    let port = |address: &str| -> Result<u16> {
        let (_, port) = address.rsplit_once(':').context("an address has a port")?;
        port.parse().context("a port is a number")
    };
    // A listening socket has no far end.
    let known = BTreeSet::from([0, port(&wire.url)?, port(&world.bed.endpoints.registry)?]);
    let (far, others) = connections(car)?;
    ensure!(
        far.is_subset(&known),
        "the car talks to ports {far:?}; known are {known:?}"
    );
    ensure!(
        others == 0,
        "the car has {others} sockets that are neither TCP nor Unix"
    );
    Ok(())
}

/// One day: work, the driver returns while the car works, drives, and comes home.
async fn day(world: &World, car: &Car, provider: &Provider, wire: &Wire, number: usize) -> Result<()> {
    let name = format!("day-{number}");
    let mut job = world.example("hello/fleetjob.yaml")?;
    job["metadata"]["name"] = name.as_str().into();
    job["spec"]["completions"] = json!(1);
    job["spec"]["parallelism"] = json!(1);
    world.apply(&job).await?;
    world.complete(&name, Duration::from_mins(2)).await?;
    let mut endless = support::endless(world)?;
    let endless_name = format!("night-{number}");
    endless["metadata"]["name"] = endless_name.as_str().into();
    world.apply(&endless).await?;
    world.running_on(car).await?;
    only_known(world, car, wire)?;

    provider
        .set(&format!("{DRIVERS_DOOR}.IsOpen"), TypedValue::Bool(true))
        .await?;
    stands(car, "paused").await?;
    provider.set("Vehicle.Speed", TypedValue::Float(SPEED)).await?;
    provider.set("Vehicle.IsMoving", TypedValue::Bool(true)).await?;
    world.phase(car, VehiclePhase::Away).await?;
    // Nobody waits for the work of the night any more.
    let delete = ["-n", &world.name, "delete", "fleetjob", &endless_name, "--wait=false"];
    world.kubectl().run(&delete, "").await?;
    let charge = CHARGES.get(number).copied().context("a charge for each day")?;
    stands_at_home(provider, charge).await?;
    world.phase(car, VehiclePhase::Available).await
}

/// The car that is stopped finds a certificate that is due, and renews it by the way that is recorded.
async fn renews(world: &World, car: &Car) -> Result<()> {
    let end = identity::age(world, car, Duration::from_hours(24)).await?;
    car.start()?;
    wait::until("a new certificate in the car", world::DEADLINE, async || {
        Ok((identity::end_of_certificate(car)? > end).then_some(()))
    })
    .await
}

/// What programs of the cluster wrote and showed, and what the store holds of this car.
async fn others(world: &World, car: &Car, from: &[(&str, u64)]) -> Result<Recordings> {
    let mut all = Recordings::default();
    for (program, start) in from {
        let log =
            std::fs::read(world.bed.layout.path(&format!("logs/{program}.log"))).context("failed to read a log")?;
        let start = usize::try_from(*start).context("a length")?;
        all.add(format!("log of the {program}"), log.get(start..).unwrap_or_default());
    }
    for (program, base) in [
        (name::OPERATOR, &world.bed.endpoints.operator),
        (name::ADAPTER, &world.bed.endpoints.adapter),
    ] {
        all.add(format!("metrics of the {program}"), http::get(base, "/metrics").await?);
    }
    let (id, operator) = (car.id.as_str(), world.bed.endpoints.operator.as_str());
    let asked: [&[&str]; 2] = [
        &["why", "-n", &world.name, "day-0"],
        &["ledger", "export", "--vehicle", id, "--operator", operator],
    ];
    for words in asked {
        let output = world.bed.plugin.attempt(words, "").await?;
        all.add(
            format!("kubectl fleet {}", words.join(" ")),
            [output.stdout, output.stderr].concat(),
        );
    }
    let store = &world.bed.endpoints.store.directory;
    for part in [
        store.join("_ledger/vehicles").join(car.id.as_str()),
        store.join(&world.name),
    ] {
        tree(&part, &mut all)?;
    }
    Ok(all)
}

fn tree(dir: &Path, all: &mut Recordings) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("failed to look into {}", dir.display()))? {
        let path = entry.context("failed to look into a directory")?.path();
        if path.is_dir() {
            tree(&path, all)?;
        } else {
            all.add("store", path.display().to_string());
            all.add(
                "store",
                std::fs::read(&path).context("failed to read a file of the store")?,
            );
        }
    }
    Ok(())
}

fn length(world: &World, program: &str) -> u64 {
    let log = world.bed.layout.path(&format!("logs/{program}.log"));
    std::fs::metadata(log).map_or(0, |log| log.len())
}

async fn receipts_are_stored(car: &Car) -> Result<()> {
    wait::until_ok("the car's receipts to be delivered", world::DEADLINE, async || {
        let status = car.owner("status").await?.stdout;
        let line = status
            .lines()
            .find(|line| line.starts_with("receipts"))
            .unwrap_or_default();
        // Of what is not delivered it says so.
        ensure!(
            line.contains("the newest is") && !line.contains("delivered"),
            "{status}"
        );
        Ok(())
    })
    .await
}

/// Nothing is told that must stay in the car; and what is told on purpose is found, so that the search is known to see.
fn nothing_is_told(all: &Recordings, car: &Car, quiet: &[String; 2]) -> Result<()> {
    let sizes = all.sizes();
    for place in [
        "link: body of /kerbside.link.v1.Link/Session",
        "link: body of /kerbside.link.v1.Enrolment/Enrol",
        "link: body of /kerbside.link.v1.Link/Renew",
        "link: body of /kerbside.link.v1.Link/PutOutput",
        "link: body of /kerbside.link.v1.Link/PutReceipt",
        pulls::PLACE,
        "objects: Vehicle",
        "objects: Node",
        "objects: Lease",
        "objects: Event",
        "objects: Pod",
        "objects: CertificateSigningRequest",
        "metrics of the adapter",
        "log of the adapter",
        "store",
    ] {
        ensure!(
            sizes.get(place).is_some_and(|size| *size > 50),
            "nothing was recorded as {place}: {sizes:?}"
        );
    }
    let heard = all.search(&Scanner::new(needles(&said(car)))?);
    for (place, what) in [
        ("link: body of /kerbside.link.v1.Link/Session", "class"),
        ("link: body of /kerbside.link.v1.Link/PutReceipt", "id"),
        (pulls::PLACE, "pull"),
        ("objects: Node", "class"),
        ("objects: Lease", "id"),
        ("log of the adapter", "id"),
    ] {
        let found = heard.iter().any(|(at, finding)| *at == place && finding.what == what);
        ensure!(
            found,
            "the {what} is not found in {place}, where it is: the search is blind"
        );
    }
    let found = all.search(&Scanner::new(needles(&canaries(quiet)))?);
    ensure!(
        found.is_empty(),
        "{} times something is told that must stay in the car: {found:#?}",
        found.len()
    );
    Ok(())
}

#[tokio::test]
async fn week_of_a_car_tells_no_vin_place_signal_schedule_or_address() -> Result<()> {
    world::run("privacy", async |world| {
        let logs = [name::OPERATOR, name::ADAPTER].map(|program| (program, length(world, program)));
        let objects = Watching::start(&world.client()).await?;
        let adapter: SocketAddr = world
            .bed
            .endpoints
            .link
            .trim_start_matches("https://")
            .parse()
            .context("the adapter has an address")?;
        let home = world.bed.layout.path(&format!("cars/{}-0", world.name));
        let wire = Wire::start(&identity::authority(world).await?, adapter, ADDRESS, home).await?;
        // It enrols by this way, too.
        world.bed.endpoints.link.clone_from(&wire.url);
        // And its images come by that one.
        let pulls = Pulls::start(&world.bed.endpoints.registry).await?;
        world.bed.endpoints.registry.clone_from(&pulls.registry);

        let broker = world.databroker(Release::V6, Way::Unix).await?;
        let provider = broker.provide().await?;
        stands_at_home(&provider, 82.0).await?;
        let plan = Plan {
            databroker: Some(broker.signals()),
            ..Plan::default()
        };
        let car = world.car(&plan).await?;
        let quiet = quiet()?;
        write_home(&car.dir(), &quiet)?;
        // Its next life begins with the document, so that its first message is one of those that are recorded.
        car.stop().await?;
        renews(world, &car).await?;
        stands(&car, "available").await?;

        for number in 0..CHARGES.len() {
            day(world, &car, &provider, &wire, number)
                .await
                .with_context(|| format!("day {number}"))?;
        }
        receipts_are_stored(&car).await?;
        let told = others(world, &car, &logs).await?;
        world
            .kubectl()
            .run(&["-n", &world.name, "delete", "fleetjobs", "--all"], "")
            .await?;
        // While the car is still reached: it has to say that they have stopped.
        world
            .wait_pods("the Pods to be gone", |pods| pods.is_empty().then_some(()))
            .await?;
        car.owner("pause").await?;
        stands(&car, "paused").await?;

        let mut all = wire.recorded()?;
        all.extend(pulls.recorded()?);
        all.extend(objects.recorded());
        all.extend(told);
        nothing_is_told(&all, &car, &quiet)?;
        let bytes: usize = all.sizes().values().sum();
        support::keep(
            world,
            "privacy",
            json!({"bytes": bytes, "kinds": objects.kinds(), "needles": needles(&canaries(&quiet)).len()}),
        )
    })
    .await
}
