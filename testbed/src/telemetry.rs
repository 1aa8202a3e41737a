//! A telemetry gateway of a test's own fleet, as a process of its own, and the authorities that sign for it and for its cars.
//!
//! Used by tests of cars without an agent. It signs in with the chart's own account, so that what the tests allow is what users get.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use kerbside_core::ids::VehicleId;
use kerbside_telemetry_gateway::car::Car;
use kerbside_telemetry_gateway::pseudonym::Pseudonyms;
use serde_json::json;

use crate::control_plane::pki::{Authority, Usage, write_secret};
use crate::process::{self, Program};
use crate::world::World;
use crate::{install, ports, tools};

const DEADLINE: Duration = Duration::from_secs(20);
const ACCOUNT: &str = "kerbside-telemetry-gateway";

/// A gateway that runs. It ends with its test.
pub struct Gateway {
    dir: PathBuf,
    port: u16,
    pseudonyms: Pseudonyms,
    cars: Authority,
    own: Authority,
    /// Its account's kubeconfig.
    pub account: PathBuf,
    /// Where its log is.
    pub log: PathBuf,
    /// The name of its process.
    pub process: String,
}

impl Gateway {
    /// Starts a gateway with the test's name, which shows the cars of these VINs in the test's pool.
    pub async fn start(world: &mut World, vins: &[&str]) -> Result<Self> {
        Self::start_good_for(world, vins, "1h").await
    }

    /// As [`Self::start`]; what it says of a car may be believed for so long.
    pub async fn start_good_for(world: &mut World, vins: &[&str], good_for: &str) -> Result<Self> {
        let (layout, name) = (world.bed.layout.clone(), world.name.clone());
        let dir = layout.dir(&format!("gateways/{name}"))?;
        let (cars, own) = (Authority::new("cars")?, Authority::new("gateways")?);
        own.issue("gateway", &[], Usage::Server(&["localhost".to_owned()]))?
            .write(&dir, "tls")?;
        cars.write(&dir.join("cars.pem"))?;
        let key = data_encoding::HEXLOWER.encode(&rand::random::<[u8; 32]>());
        write_secret(&dir.join("key"), &key)?;
        let port = ports::free()?;
        let config = json!({
            "name": name, "pool": name, "listen": format!("127.0.0.1:{port}"),
            "tls": {"certificateFile": "tls.crt", "privateKeyFile": "tls.key", "clientCaFile": "cars.pem"},
            "keyFile": "key", "vinsFile": "vins", "publishEvery": "1s", "goodFor": good_for,
            "mayLosePercent": 100,
        });
        let file = dir.join("gateway.yaml");
        std::fs::write(&file, config.to_string()).context("failed to write a gateway's configuration")?;
        let account = install::account(&world.bed.client, &layout, &world.bed.endpoints.kubeconfig, ACCOUNT).await?;
        let program = Program::new(&format!("gateway-{name}"), tools::own("kerbside-telemetry-gateway")?)
            .args(["--config".to_owned(), file.display().to_string()])
            .args(["--log", "info,kerbside_telemetry_gateway=debug"])
            .env("KUBECONFIG", account.display().to_string());
        write_list(&dir, vins)?;
        let record = world.program(&program)?;
        process::ready(&record, DEADLINE, || async move {
            let connected = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
            connected.map(drop).context("nobody listens")
        })
        .await?;
        Ok(Self {
            dir,
            port,
            pseudonyms: Pseudonyms::new(key.as_bytes()).context("the key is long enough")?,
            cars,
            own,
            account,
            log: record.log,
            process: program.name,
        })
    }

    /// From now on the fleet has these cars; the gateway sees it within ten seconds.
    pub fn list(&self, vins: &[&str]) -> Result<()> {
        write_list(&self.dir, vins)
    }

    /// The name of the Vehicle of the car with this VIN.
    pub fn name_of(&self, vin: &str) -> Result<VehicleId> {
        let names = self.pseudonyms.of_list(vin).context("it is a VIN")?;
        names.into_iter().next().context("a list of one has one")
    }

    /// A car with this VIN, connected.
    pub async fn car(&self, vin: &str) -> Result<Car> {
        let identity = self.cars.issue(vin, &[], Usage::Client)?;
        let address = ([127, 0, 0, 1], self.port).into();
        let shown = Some((identity.certificate.as_str(), identity.key.as_str()));
        let mut car = Car::connect(address, &self.own.pem(), shown)
            .await
            .context("the car does not get past TLS")?;
        car.upgrade().await.context("the car's handshake fails")?;
        Ok(car)
    }
}

fn write_list(dir: &Path, vins: &[&str]) -> Result<()> {
    crate::layout::write_atomically(&dir.join("vins"), vins.join("\n").as_bytes())
}
