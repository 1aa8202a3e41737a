//! What the simulated cars of one process share: a directory, a cache of images, a clock, the book of what happened.
//!
//! Opened once. A car's own files are in `cars/NNNNN` of the directory, its identity among them, so that a lot that is opened again has
//! the same cars.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use kerbside_core::clock::Clock;
use kerbside_core::ids::VehicleId;
use kerbside_link::SystemClock;
use kerbside_link::client::{self, EnrolError};
use kerbside_link::identity::EnrolmentToken;
use kerbside_vehicle_agent::boot::BootError;
use kerbside_vehicle_agent::config;
use kerbside_vehicle_agent::consents::{Book, ConsentError, Giving};
use kerbside_vehicle_agent::directory::Directory;
use kerbside_vehicle_agent::identity::{self, ReadError};
use kerbside_vehicle_agent::images::Images;

use super::radio::Radio;
use super::truth::Truth;
use crate::pace::Pace;

/// More than all images of a simulation: one car's clearing must not take what another one needs.
const CACHE_BYTES: u64 = 1 << 40;

/// What goes wrong with simulated cars.
#[derive(Debug, thiserror::Error)]
pub enum LotError {
    /// A directory cannot be used.
    #[error("failed to use {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A car is nobody.
    #[error("failed to read the identity of car {car}")]
    Identity {
        /// Which.
        car: u32,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// A car was not enrolled.
    #[error("failed to enrol car {car}")]
    Enrol {
        /// Which.
        car: u32,
        /// Why.
        #[source]
        source: Box<EnrolError>,
    },
    /// What every owner says cannot be read.
    #[error("failed to read the document of the owners")]
    Owner(#[from] config::ConfigError),
    /// An owner's consent is not recorded.
    #[error("failed to record the consent of the owner of car {car}")]
    Consent {
        /// Which.
        car: u32,
        /// Why.
        #[source]
        source: Box<ConsentError>,
    },
    /// A car does not boot.
    #[error("failed to boot car {car}")]
    Boot {
        /// Which.
        car: u32,
        /// Why.
        #[source]
        source: BootError,
    },
}

/// How a lot is.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where its files are.
    pub directory: PathBuf,
    /// The adapter: `https://host:port`.
    pub link: String,
    /// Registries that speak plain HTTP.
    pub registry_http: Vec<String>,
    /// How fast the time of the traces runs.
    pub pace: Pace,
    /// Each car dials from a loopback address of its own, as cars do; for adapters on this machine.
    pub own_addresses: bool,
    /// The document of every owner, YAML.
    pub owner: String,
    /// What the maker says of every car.
    pub car: config::Car,
}

/// What cars share.
#[derive(Clone)]
pub struct Lot {
    pub(super) options: Options,
    pub(super) images: Images,
    pub(super) clock: Arc<dyn Clock>,
    truth: Truth,
}

impl Lot {
    /// Opens a lot; nothing runs.
    pub fn open(options: Options) -> Result<Self, LotError> {
        // A connection and a journal for each car. If it cannot be raised, the car that finds no room says so.
        if let Err(error) = kerbside_link::open_files::raise_limit() {
            tracing::warn!(%error, "the limit of open files is not raised");
        }
        let root = Directory::open(&options.directory).map_err(|source| LotError::Directory {
            path: options.directory.clone(),
            source,
        })?;
        let images = Images::open(&root.cache(), options.registry_http.clone(), CACHE_BYTES);
        let images = images.map_err(|source| LotError::Directory {
            path: root.cache(),
            source,
        })?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        Ok(Self {
            truth: Truth::new(Arc::clone(&clock)),
            options,
            images,
            clock,
        })
    }

    /// What really happened.
    pub fn truth(&self) -> &Truth {
        &self.truth
    }

    /// The car's own directory, with the owner's document in it.
    pub(super) fn directory(&self, car: u32) -> Result<Directory, LotError> {
        let path = self.options.directory.join(format!("cars/{car:05}"));
        let made = std::fs::create_dir_all(&path)
            .and_then(|()| Directory::open(&path))
            .and_then(|directory| {
                std::fs::write(directory.owner(), &self.options.owner)?;
                Ok(directory)
            });
        made.map_err(|source| LotError::Directory { path, source })
    }

    /// The car's radio.
    pub(super) fn radio(&self, car: u32) -> Radio {
        Radio::new(self.options.own_addresses.then(|| address(car)))
    }

    /// Makes the car somebody, unless it is already; gives who.
    pub async fn enrol(&self, car: u32, token: &EnrolmentToken) -> Result<VehicleId, LotError> {
        let directory = self.directory(car)?;
        if identity::exists(&directory) {
            let found = identity::read(&directory).map_err(|source| LotError::Identity { car, source })?;
            return Ok(found.vehicle().clone());
        }
        let enrolled = client::enrol_over(&self.radio(car), &self.options.link, token).await;
        let enrolled = enrolled.map_err(|source| LotError::Enrol {
            car,
            source: Box::new(source),
        })?;
        identity::write(&directory, &enrolled).map_err(|source| LotError::Directory {
            path: directory.identity(),
            source,
        })?;
        self.consent(car, &directory)?;
        Ok(enrolled.vehicle().clone())
    }

    /// Its owner agrees, as by `kerbside-agent consent give`, to all that the document accepts.
    fn consent(&self, car: u32, directory: &Directory) -> Result<(), LotError> {
        let document = config::owner_in(&self.options.owner, &directory.owner())?;
        let purposes = &document.consent.classes;
        if purposes.is_empty() {
            return Ok(());
        }
        let giving = Giving {
            purposes,
            lasts: None,
            method: "a simulation",
        };
        let given = Book::open(directory, true).and_then(|mut book| book.give(giving, self.clock.wall()));
        given.map_err(|source| LotError::Consent {
            car,
            source: Box::new(source),
        })
    }
}

/// 127.1.0.0 and up: far from what people bind servers to.
fn address(car: u32) -> Ipv4Addr {
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
    Ipv4Addr::from(
        first
            .saturating_add(car)
            .min(u32::from(Ipv4Addr::new(127, 255, 255, 254))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cars_have_addresses_of_their_own_on_this_machine() {
        assert_eq!(address(0), Ipv4Addr::new(127, 1, 0, 1));
        assert_eq!(address(300), Ipv4Addr::new(127, 1, 1, 45));
        assert!(address(u32::MAX).is_loopback());
    }
}
