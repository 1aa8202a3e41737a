//! The two documents in the agent's directory: the owner's, and the one of whoever built the agent into the car.
//!
//! Read at start and again when they change. A document that cannot be read is the same as none: the owner's then means no.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kerbside_core::forecast::BANDS;
use kerbside_core::owner::{Document, DocumentError};
use kerbside_core::parked::signals::path;
use kerbside_core::parked::{Gate, Terms};
use kerbside_core::quantity::{Quantity, Resources};
use kerbside_core::receipt::{self, Consent};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::addresses::is_near;
use crate::energy::config::EnergyConfig;
use crate::images::is_usable;
use crate::runtime::cri::Settings;
use crate::signals::broker;

/// A document that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("failed to parse {path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// It says something impossible.
    #[error("failed to accept {path}")]
    Owner {
        /// The file.
        path: PathBuf,
        /// What.
        #[source]
        source: DocumentError,
    },
    /// It names a key that no signature can be checked by.
    #[error(
        "failed to accept {path}: the public key of publisher '{name}' is not on its curve, so that no signature could be checked by it: copy it once more"
    )]
    Key {
        /// The file.
        path: PathBuf,
        /// Whose key.
        name: String,
    },
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ConfigError> {
    text(path)?.map(|text| parse(&text, path)).transpose()
}

fn text(path: &Path) -> Result<Option<String>, ConfigError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ConfigError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, ConfigError> {
    serde_saphyr::from_str(text).map_err(|e| ConfigError::Parse {
        path: path.to_owned(),
        message: e.to_string(),
    })
}

/// What the owner says; `None` if there is no document.
pub fn owner(path: &Path) -> Result<Option<Owner>, ConfigError> {
    let Some(text) = text(path)? else { return Ok(None) };
    let document = owner_in(&text, path)?;
    let consent = Consent {
        given_at: document.consent.given_at,
        document_sha256: receipt::digest(text.as_bytes()),
        record: None,
    };
    Ok(Some(Owner { document, consent }))
}

/// What the owner says, and how a receipt names it.
#[derive(Debug, Clone, PartialEq)]
pub struct Owner {
    /// The document.
    pub document: Document,
    /// When it was given, and the hash of the very text that was read.
    pub consent: Consent,
}

/// The owner's document in a text that came from `path`.
pub fn owner_in(text: &str, path: &Path) -> Result<Document, ConfigError> {
    let document: Document = parse(text, path)?;
    let document = document.check_in(text).map_err(|source| ConfigError::Owner {
        path: path.to_owned(),
        source,
    })?;
    let mut publishers = document.publishers().iter();
    let unusable = publishers.find(|publisher| !is_usable(&publisher.public_key));
    if let Some(publisher) = unusable {
        return Err(ConfigError::Key {
            path: path.to_owned(),
            name: publisher.name.clone(),
        });
    }
    Ok(document)
}

/// What the maker or installer says of the car.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Car {
    /// What the car can give: cpu, memory, ephemeral-storage, pods and extended resources.
    pub allocatable: BTreeMap<String, Quantity>,
    /// How long the car expects to stay, in minutes, where that is known for good. Without it the car forecasts it by what it remembers.
    pub free_for: Option<FreeFor>,
    /// When the car is parked.
    pub parked: Parked,
    /// How many bytes of images are kept.
    pub cache_bytes: Quantity,
    /// The car's engine for containers; without one it runs WebAssembly only.
    pub containers: Option<Containers>,
    /// Where the car's signals come from; without it nothing is known of the car, and it never works.
    pub signals: Option<SignalSource>,
    /// The owner's page; without it there is none.
    pub page: Option<Page>,
    /// How the energy of work is known; without it, it is not.
    pub energy: Option<EnergyConfig>,
    /// The car's interfaces that cost by the byte.
    pub metered_interfaces: Vec<Interface>,
    /// Those that do not, unless they are among the others. One that is in neither list costs.
    pub unmetered_interfaces: Vec<Interface>,
}

/// The name of a network interface as the kernel has it, or the beginning of some, as in `wwan*`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Interface(String);

impl Interface {
    /// Whether this is the name, or one of the names.
    pub fn is(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(begins) => name.starts_with(begins),
            None => name == self.0,
        }
    }
}

/// The kernel's names have at most so many bytes.
const INTERFACE_MAX: usize = 15;

impl TryFrom<String> for Interface {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let name = text.strip_suffix('*').unwrap_or(&text);
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'*' | b'/');
        if !text.is_empty() && name.len() <= INTERFACE_MAX && name.bytes().all(plain) {
            return Ok(Self(text));
        }
        Err(format!(
            "'{text}' is no interface such as wwan0, nor the beginning of some such as wwan*, with a star at its end only"
        ))
    }
}

/// How modems are called by the kernel's drivers, and by what they are spoken to; and tunnels, which go by who knows what.
const METERED: [&str; 6] = ["wwan*", "ppp*", "rmnet*", "usb*", "tun*", "wg*"];

/// The loopback and Wi-Fi. No wire: a car's computer often sits behind its modem by one.
const UNMETERED: [&str; 2] = ["lo", "wl*"];

/// Where the owner's page is, on the car's own network.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Page {
    /// The address: one of the car's own network, such as `192.168.7.1:8080`, and never one that the world could reach.
    pub listen: SocketAddr,
    /// Names that lead to it there, such as `car.local`.
    #[serde(default)]
    pub names: Vec<String>,
}

impl Page {
    /// What the types cannot say; the error is a sentence.
    fn check(&self) -> Result<(), String> {
        if !is_near(self.listen.ip()) {
            return Err(format!(
                "page.listen: {} is no address of the car's own network (loopback, private or link-local)",
                self.listen.ip()
            ));
        }
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
        let is_name = |name: &&String| !name.is_empty() && name.len() <= 253 && name.bytes().all(plain);
        match self.names.iter().find(|name| !is_name(name)) {
            Some(other) => Err(format!(
                "page.names: '{other}' is no name such as car.local, in small letters"
            )),
            None => Ok(()),
        }
    }
}

/// A KUKSA databroker.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignalSource {
    /// Its address: `unix:/PATH`, `https://HOST:PORT` or `http://HOST:PORT`.
    pub broker: String,
    /// The file of the token that it asks for; read again before the token ends.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// The file of the authorities whose word counts for who it is: needed with https.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

impl TryFrom<&SignalSource> for broker::Settings {
    type Error = String;

    fn try_from(source: &SignalSource) -> Result<Self, String> {
        Ok(Self {
            address: source.broker.parse()?,
            token: source.token_file.clone(),
            authorities: source.ca_file.clone(),
        })
    }
}

/// A container engine that speaks the container runtime interface, version 1.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Containers {
    /// Its socket, an absolute path.
    pub socket: PathBuf,
    /// Which of its runtimes runs the containers; without one its default.
    #[serde(default)]
    pub runtime_handler: String,
}

impl From<Containers> for Settings {
    fn from(containers: Containers) -> Self {
        Self {
            socket: containers.socket,
            handler: containers.runtime_handler,
        }
    }
}

/// Minutes, one of 0, 15, 60, 120, 240, 480, with 50 % and 90 % confidence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FreeFor {
    /// With 50 % confidence.
    pub p50: u32,
    /// With 90 % confidence.
    pub p90: u32,
}

/// The settable part of [`Terms`].
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Parked {
    /// A signal older than this is unknown.
    #[serde(with = "kerbside_core::duration::text")]
    pub stale_after: Duration,
    /// How long the car must be parked before it becomes available.
    #[serde(with = "kerbside_core::duration::text")]
    pub dwell: Duration,
    /// From the decision to leave until everything is stopped.
    #[serde(with = "kerbside_core::duration::text")]
    pub notice: Duration,
    /// Accessories may be on.
    pub allow_accessory: bool,
    /// Every door must be locked.
    pub require_locked: bool,
    /// The doors of this car, as VSS branches.
    pub doors: Vec<String>,
    /// The seats of this car, as VSS branches.
    pub seats: Vec<String>,
    /// The optional signals that this car surely has.
    pub has: Vec<String>,
    /// The VSS branch of the maker's overlay.
    pub overlay: String,
    /// Volts below which work stops.
    pub low_voltage_stop: f64,
    /// Volts at which work starts.
    pub low_voltage_start: f64,
    /// Celsius of the traction battery at which work stops.
    pub battery_celsius_max: f64,
    /// Celsius outside at which work stops.
    pub air_celsius_max: f64,
    /// Percent of the last ten seconds in which the computer did nothing for want of memory, above which work stops.
    pub memory_full_percent_max: f64,
}

impl Default for Parked {
    fn default() -> Self {
        let terms = Terms::default();
        Self {
            stale_after: terms.stale_after,
            dwell: terms.dwell,
            notice: terms.notice,
            allow_accessory: terms.allow_accessory,
            require_locked: terms.require_locked,
            doors: terms.doors,
            seats: terms.seats,
            has: terms.has,
            overlay: terms.overlay,
            low_voltage_stop: terms.low_voltage.stop,
            low_voltage_start: terms.low_voltage.start,
            battery_celsius_max: terms.battery_celsius_max,
            air_celsius_max: terms.air_celsius_max,
            memory_full_percent_max: 10.0,
        }
    }
}

impl From<Parked> for Terms {
    fn from(parked: Parked) -> Self {
        Self {
            stale_after: parked.stale_after,
            dwell: parked.dwell,
            notice: parked.notice,
            allow_accessory: parked.allow_accessory,
            require_locked: parked.require_locked,
            doors: parked.doors,
            seats: parked.seats,
            has: parked.has,
            beside: Vec::new(),
            overlay: parked.overlay,
            low_voltage: Gate {
                stop: parked.low_voltage_stop,
                start: parked.low_voltage_start,
            },
            battery_celsius_max: parked.battery_celsius_max,
            air_celsius_max: parked.air_celsius_max,
        }
    }
}

/// Beyond, a driver is back and gone again before the car notices.
const STALE_AFTER_MAX: Duration = Duration::from_secs(60);

impl Parked {
    /// What the types cannot say; the error is a sentence.
    fn check(&self) -> Result<(), String> {
        if self.doors.is_empty() || self.seats.is_empty() {
            return Err("parked.doors and parked.seats must name the car's doors and seats".to_owned());
        }
        if self.stale_after.is_zero() || self.stale_after > STALE_AFTER_MAX {
            return Err("parked.staleAfter must be longer than 0s and at most 60s".to_owned());
        }
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !self.overlay.starts_with("Vehicle.") || !self.overlay.split('.').all(plain) {
            return Err(format!(
                "parked.overlay: '{}' is no branch such as {}",
                self.overlay,
                path::OVERLAY
            ));
        }
        self.check_levels()?;
        let pedals = [path::BRAKE_PEDAL, path::ACCELERATOR_PEDAL].map(str::to_owned);
        let optional: Vec<String> = Terms::from(self.clone()).optional().chain(pedals).collect();
        if let Some(other) = self.has.iter().find(|has| !optional.contains(has)) {
            return Err(format!(
                "parked.has: '{other}' is no optional signal; these are: {}",
                optional.join(", ")
            ));
        }
        // What is no number is neither.
        let some = self.memory_full_percent_max > 0.0 && self.memory_full_percent_max <= 100.0;
        if !some {
            return Err("parked.memoryFullPercentMax must be more than 0 and at most 100".to_owned());
        }
        Ok(())
    }
}

/// The low-voltage system of a car, lead or lithium, whatever its maker calls it: outside of this it is another thing, or a slip.
const VOLTS: std::ops::RangeInclusive<f64> = 9.0..=60.0;
/// No battery works above, and no computer is cooled by such air.
const CELSIUS: std::ops::RangeInclusive<f64> = -20.0..=80.0;

impl Parked {
    /// Levels that could never stop anything, or that would start what they stop.
    fn check_levels(&self) -> Result<(), String> {
        // What is no number is in no range.
        if !VOLTS.contains(&self.low_voltage_stop) || !VOLTS.contains(&self.low_voltage_start) {
            return Err("parked.lowVoltageStop and parked.lowVoltageStart must be from 9 to 60 volts".to_owned());
        }
        if self.low_voltage_start < self.low_voltage_stop {
            return Err("parked.lowVoltageStart must not be below parked.lowVoltageStop".to_owned());
        }
        if !CELSIUS.contains(&self.battery_celsius_max) || !CELSIUS.contains(&self.air_celsius_max) {
            return Err("parked.batteryCelsiusMax and parked.airCelsiusMax must be from -20 to 80".to_owned());
        }
        Ok(())
    }
}

const GIB: i64 = 1 << 30;

impl Default for Car {
    fn default() -> Self {
        let allocatable = [
            ("cpu", Quantity::from_units(1)),
            ("memory", Quantity::from_bytes(GIB)),
            ("ephemeral-storage", Quantity::from_bytes(4 * GIB)),
            ("pods", Quantity::from_units(8)),
        ];
        Self {
            allocatable: allocatable.map(|(name, amount)| (name.to_owned(), amount)).into(),
            free_for: None,
            parked: Parked::default(),
            cache_bytes: Quantity::from_bytes(4 * GIB),
            containers: None,
            signals: None,
            page: None,
            energy: None,
            metered_interfaces: METERED.map(|name| Interface(name.to_owned())).into(),
            unmetered_interfaces: UNMETERED.map(|name| Interface(name.to_owned())).into(),
        }
    }
}

impl Car {
    /// Whether an interface costs by the byte; `None`: the maker says nothing of it.
    pub fn costs(&self, name: &str) -> Option<bool> {
        let among = |all: &[Interface]| all.iter().any(|interface| interface.is(name));
        if among(&self.metered_interfaces) {
            return Some(true);
        }
        among(&self.unmetered_interfaces).then_some(false)
    }

    /// The document, or what holds without one.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut car: Self = read(path)?.unwrap_or_default();
        let refuse = |message: &str| ConfigError::Parse {
            path: path.to_owned(),
            message: message.to_owned(),
        };
        let said = car.free_for.map(|said| [said.p50, said.p90]);
        if said.is_some_and(|said| said.iter().any(|minutes| !BANDS.contains(minutes))) {
            return Err(refuse("freeFor is in minutes: 0, 15, 60, 120, 240 or 480"));
        }
        // What is not said of the four resources that every Node has is the default, so that one may be changed alone.
        for (name, amount) in Self::default().allocatable {
            car.allocatable.entry(name).or_insert(amount);
        }
        if car
            .containers
            .as_ref()
            .is_some_and(|containers| !containers.socket.is_absolute())
        {
            return Err(refuse(
                "containers.socket must be the absolute path of a container engine's socket",
            ));
        }
        if let Some(source) = &car.signals {
            broker::Settings::try_from(source).map_err(|why| refuse(&format!("signals.broker: {why}")))?;
        }
        if let Some(page) = &car.page {
            page.check().map_err(|why| refuse(&why))?;
        }
        if let Some(energy) = &car.energy {
            energy.check().map_err(|why| refuse(&why))?;
        }
        car.parked.check().map_err(|why| refuse(&why))?;
        Ok(car)
    }

    /// The files that it names beside itself: they are the maker's, wherever they lie.
    pub fn files(&self) -> Vec<PathBuf> {
        let signals = self.signals.iter();
        let named = signals
            .flat_map(|source| [&source.token_file, &source.ca_file])
            .flatten();
        let sockets = self.containers.iter().map(|containers| &containers.socket);
        named.chain(sockets).cloned().collect()
    }

    /// What the car is judged by, and what is heard beside.
    pub fn terms(&self) -> Terms {
        let meter = self.energy.as_ref().and_then(EnergyConfig::signal);
        Terms {
            beside: meter.into_iter().collect(),
            ..Terms::from(self.parked.clone())
        }
    }

    /// What the car gives under the owner's caps.
    pub fn allocatable(&self, document: Option<&Document>) -> Resources {
        let gives = Resources(self.allocatable.clone());
        match document {
            Some(document) => document.narrowed(gives),
            None => gives,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(
        clippy::unwrap_in_result,
        reason = "a temporary directory that cannot be made fails the test"
    )]
    fn car(yaml: &str) -> Result<Car, String> {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("car.yaml");
        fs::write(&path, yaml).unwrap();
        Car::read(&path).map_err(|e| e.to_string())
    }

    #[test]
    fn interfaces_that_cost_by_the_byte_are_modems_and_what_is_not_known_unless_the_maker_says_more() {
        let default = car("{}").unwrap();
        for (names, costs) in [
            (&["wwan0", "rmnet_data0", "ppp0", "usb0", "tun0", "wg0"][..], Some(true)),
            (&["lo", "wlan0", "wlp3s0"][..], Some(false)),
            (&["eth0", "enp1s0", "br0", "lo1"][..], None),
        ] {
            for name in names {
                assert_eq!(default.costs(name), costs, "{name}");
            }
        }
        let said = car("{meteredInterfaces: [usb0, 'w*'], unmeteredInterfaces: ['*0']}");
        assert!(said.unwrap_err().contains("is no interface such as wwan0"));
        let said = car("{meteredInterfaces: [usb0, 'w*'], unmeteredInterfaces: ['eth*', usb0, wlan0]}").unwrap();
        for (name, costs) in [
            ("usb0", Some(true)),
            ("usb01", None),
            ("wlan0", Some(true)),
            ("ppp0", None),
            ("eth1", Some(false)),
            ("lo", None),
        ] {
            assert_eq!(said.costs(name), costs, "{name}");
        }
        for field in ["meteredInterfaces", "unmeteredInterfaces"] {
            for wrong in ["w*n", "''", "a/b", "'a name'", "abcdefghijklmnop"] {
                let message = car(&format!("{field}: [{wrong}]")).unwrap_err();
                assert!(message.contains("is no interface such as wwan0"), "{message}");
            }
        }
    }

    #[test]
    fn publishers_key_that_is_not_on_its_curve_is_refused_by_its_name() {
        let document = |key: &str| {
            let key = format!("-----BEGIN PUBLIC KEY----- {key} -----END PUBLIC KEY-----");
            let text = serde_json::json!({
                "consent": {"givenAt": "2026-01-01T00:00:00Z", "classes": ["inference"]},
                "requirePluggedIn": true, "chargeFloorPercent": 50,
                "publishers": [{"name": "our render farm", "publicKey": key}],
            });
            owner_in(&text.to_string(), Path::new("owner.yaml"))
        };
        let key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE89SDSAdCxR0qhnI1slfD2jXI3UmuZw4/GWQWPQgc7bGym5SiVM/fuoywuXA6RCmfcPeLvVpa8mKakWIQlczkPQ==";
        document(key).unwrap();
        // One digit was copied wrongly.
        let message = document(&key.replace("89SD", "89SE")).unwrap_err().to_string();
        for part in ["owner.yaml", "our render farm", "not on its curve"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn page_is_on_the_cars_own_network_or_nowhere() {
        assert_eq!(car("{}").unwrap().page, None);
        let page = car("page: {listen: '192.168.7.1:8080', names: [car.local]}")
            .unwrap()
            .page;
        assert_eq!(page.unwrap().listen.port(), 8080);
        for near in [
            "127.0.0.1:80",
            "10.0.0.1:1",
            "169.254.3.4:80",
            "'[::1]:80'",
            "'[fd00::1]:80'",
            "'[fe80::1]:80'",
        ] {
            car(&format!("page: {{listen: {near}}}")).unwrap();
        }
        for far in [
            "0.0.0.0:80",
            "8.8.8.8:80",
            "'[::]:80'",
            "'[2001:db8::1]:80'",
            "'[::ffff:8.8.8.8]:80'",
            "100.64.0.1:80",
        ] {
            let why = car(&format!("page: {{listen: {far}}}")).unwrap_err();
            assert!(why.contains("page.listen"), "{why}");
        }
        for name in ["Car.local", "car local", "car:80", "''"] {
            let why = car(&format!("page: {{listen: '127.0.0.1:80', names: [{name}]}}")).unwrap_err();
            assert!(why.contains("page.names"), "{why}");
        }
        car("page: {listen: car.local}").unwrap_err();
    }

    #[test]
    fn car_without_a_document_has_the_defaults() {
        let car = Car::read(Path::new("/nonexistent/car.yaml")).unwrap();
        assert_eq!(Terms::from(car.parked.clone()), Terms::default());
        assert_eq!(car.allocatable(None).get("pods"), Quantity::from_units(8));
    }

    #[test]
    fn document_of_a_car_changes_what_it_says_and_nothing_else() {
        let car = car("
allocatable: {cpu: 500m, kerbside.dev/npu: 1}
freeFor: {p50: 240, p90: 60}
parked:
  dwell: 1s
  notice: 3s
  staleAfter: 60s
  overlay: Vehicle.Acme
  has: [Vehicle.Acme.HasCrashed, Vehicle.Chassis.Brake.PedalPosition]
")
        .unwrap();
        let resources = car.allocatable(None);
        assert_eq!(resources.get("cpu"), Quantity::from_millis(500));
        assert_eq!(resources.get("kerbside.dev/npu"), Quantity::from_units(1));
        assert_eq!(resources.get("memory"), Quantity::from_bytes(GIB));
        let terms = Terms::from(car.parked);
        assert_eq!(
            terms,
            Terms {
                dwell: Duration::from_secs(1),
                notice: Duration::from_secs(3),
                stale_after: Duration::from_secs(60),
                has: vec!["Vehicle.Acme.HasCrashed".to_owned(), path::BRAKE_PEDAL.to_owned()],
                overlay: "Vehicle.Acme".to_owned(),
                ..Terms::default()
            }
        );
    }

    #[test]
    fn documents_that_explain_are_valid_and_say_the_defaults() {
        let mut said = car(include_str!("../documents/car.yaml")).unwrap();
        assert!(said.allocatable.remove("kerbside.dev/npu").is_some());
        assert!(said.containers.is_none(), "it is explained, and commented out");
        let default = Car::default();
        assert_eq!(
            (said.allocatable, said.free_for, said.cache_bytes),
            (default.allocatable, default.free_for, default.cache_bytes)
        );
        assert_eq!(said.metered_interfaces, default.metered_interfaces);
        assert_eq!(said.unmetered_interfaces, default.unmetered_interfaces);
        let limit = |parked: &Parked| parked.memory_full_percent_max.to_bits();
        assert_eq!(limit(&said.parked), limit(&default.parked));
        assert_eq!(Terms::from(said.parked), Terms::default());
        let owner: Document = serde_saphyr::from_str(include_str!("../documents/owner.yaml")).unwrap();
        owner.check().unwrap();
    }

    #[test]
    fn owner_can_only_narrow_what_the_car_gives() {
        let document: Document = serde_saphyr::from_str(
            "{consent: {givenAt: 2026-11-01T10:00:00Z, classes: []}, requirePluggedIn: false, chargeFloorPercent: 30, maxCpu: '64', maxMemory: 64Mi}",
        )
        .unwrap();
        let resources = Car::default().allocatable(Some(&document));
        assert_eq!(resources.get("cpu"), Quantity::from_units(1));
        assert_eq!(resources.get("memory"), Quantity::from_bytes(64 << 20));
    }

    #[test]
    fn document_with_a_wrong_word_is_refused_with_its_place() {
        for (yaml, says) in [
            ("dwell: 1s", "dwell"),
            ("parked: {dwell: soon}", "soon"),
            ("freeFor: {p50: 30, p90: 0}", "0, 15, 60"),
            ("allocatable: {cpu: lots}", "lots"),
            ("parked: {doors: []}", "doors"),
            ("parked: {staleAfter: 0s}", "at most 60s"),
            ("parked: {staleAfter: 61s}", "at most 60s"),
            (
                "parked: {has: [Vehicle.Body.Hood.IsOpened]}",
                "Vehicle.Body.Hood.IsOpened",
            ),
            ("parked: {overlay: Acme}", "no branch"),
            ("parked: {overlay: Vehicle.Acme.}", "no branch"),
            ("parked: {overlay: Vehicle..Acme}", "no branch"),
            ("parked: {overlay: 'Vehicle.Acme Car'}", "no branch"),
            ("parked: {lowVoltageStop: 0}", "from 9 to 60"),
            ("parked: {lowVoltageStop: .nan}", "from 9 to 60"),
            (
                "parked: {lowVoltageStop: 13.2, lowVoltageStart: 13.1}",
                "must not be below",
            ),
            ("parked: {batteryCelsiusMax: 1000}", "-20 to 80"),
            ("parked: {airCelsiusMax: .inf}", "-20 to 80"),
            ("parked: {memoryFullPercentMax: 0}", "more than 0"),
            ("parked: {memoryFullPercentMax: 101}", "at most 100"),
            ("containers: {socket: run/containerd.sock}", "absolute"),
            ("containers: {}", "socket"),
            ("signals: {}", "broker"),
            ("signals: {broker: 'broker:55555'}", "no broker's address"),
            ("signals: {broker: 'unix:/b.sock', token: x}", "token"),
            ("energy: {}", "model"),
            ("energy: {model: {wakeWatts: 100}}", "wattsPerCore"),
            (
                "energy: {model: {wakeWatts: 100, wattsPerCore: 8, errorPermille: 1001}}",
                "at most 1000",
            ),
            ("energy: {model: {wakeWatts: -1, wattsPerCore: 8}}", "wakeWatts"),
            ("energy: {model: {wakeWatts: 9000, wattsPerCore: 8}}", "mostWatts"),
            (
                "energy: {model: {wakeWatts: 10, wattsPerCore: 8}, rapl: {idleWatts: 11}}",
                "rapl.idleWatts",
            ),
            (
                "energy: {model: {wakeWatts: 10, wattsPerCore: 8}, broker: {signal: Vehicle.CurrentLocation.Latitude, idleWatts: 1}}",
                "no signal of power",
            ),
        ] {
            let message = car(yaml).unwrap_err();
            assert!(message.contains(says) && message.contains("car.yaml"), "{message}");
        }
    }

    #[test]
    fn owner_document_that_is_missing_is_none_and_one_that_is_wrong_is_an_error() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("owner.yaml");
        assert!(owner(&path).unwrap().is_none());
        fs::write(&path, crate::testing::OWNER).unwrap();
        let read = owner(&path).unwrap().unwrap();
        assert_eq!(read.consent.given_at, read.document.consent.given_at);
        assert_eq!(
            read.consent.document_sha256,
            receipt::digest(crate::testing::OWNER.as_bytes())
        );
        fs::write(&path, "consent: {}").unwrap();
        assert!(owner(&path).unwrap_err().to_string().contains("owner.yaml"));
    }
}
