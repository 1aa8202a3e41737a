//! What a gateway is told by its fleet: one YAML file, and the files that it names.
//!
//! Read at the start. The list of cars alone is read again while the gateway runs, for cars come and go; for anything else it is
//! started anew.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kerbside_core::ids::PoolName;
use serde::Deserialize;

use crate::pseudonym::{PseudonymError, Pseudonyms};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The document is not what it should be.
    #[error("failed to parse {}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// It says something that cannot be.
    #[error("failed to accept {}: {what}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What.
        what: String,
    },
    /// The fleet's key or its list of cars cannot be used.
    #[error("failed to use {}", path.display())]
    Pseudonym {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: PseudonymError,
    },
    /// The list of the fleet's cars has lost more of them than one reading may take off.
    #[error(
        "failed to use {}: {lost} of the fleet's {of} cars are not on it any more, and one reading takes off {percent} % at most; if that is \
         meant, take them off in smaller steps, or set mayLosePercent and start the gateway anew",
        path.display()
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// So many cars.
        lost: usize,
        /// Of so many.
        of: usize,
        /// What is let.
        percent: usize,
    },
}

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The gateway's name, as the label of its Vehicles: no other gateway of the cluster has it.
    pub name: PoolName,
    /// The VehiclePool that the cars are shown in.
    pub pool: PoolName,
    /// Where cars dial in.
    pub listen: SocketAddr,
    /// Where /healthz, /readyz, /metrics and /loglevel are served; without it nowhere.
    pub admin: Option<SocketAddr>,
    /// Mutual TLS.
    pub tls: Tls,
    /// The key of the pseudonyms: at least 32 bytes, of which nobody else may have a copy. Another key: other pseudonyms.
    pub key_file: PathBuf,
    /// The VINs of the fleet's cars, one a line. No other car is let in, whoever signed its certificate.
    pub vins_file: PathBuf,
    /// A signal that was not said for so long is unknown. At least 10 s, at most an hour.
    #[serde(with = "kerbside_core::duration::text", default = "stale_after")]
    pub stale_after: Duration,
    /// A car's Vehicle is written at fixed times, this far apart, so that it does not tell the minute in which somebody comes or goes.
    #[serde(with = "kerbside_core::duration::text", default = "publish_every")]
    pub publish_every: Duration,
    /// What a Vehicle says may be believed for so long without being said anew; then it is Unknown, although the gateway be gone.
    #[serde(with = "kerbside_core::duration::text", default = "good_for")]
    pub good_for: Duration,
    /// The Vehicle of a car that was silent for so long is deleted.
    #[serde(with = "kerbside_core::duration::text", default = "retain_for")]
    pub retain_for: Duration,
    /// Of the cars on the list one reading of it takes off at most this many percent (or one car); a list that has lost more is held.
    #[serde(default = "may_lose_percent")]
    pub may_lose_percent: usize,
    /// Writes to the API server in a second, of all cars together, 1 to 100.
    #[serde(default = "writes_per_second")]
    pub writes_per_second: u32,
    /// Messages of one car in a minute; what is beyond is acknowledged and not read. 1 to 6000.
    #[serde(default = "messages_per_minute")]
    pub messages_per_minute: u32,
}

/// Whose certificates count, and which one is shown.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// The gateway's certificate and whoever signed it (PEM).
    pub certificate_file: PathBuf,
    /// Its key (PEM).
    pub private_key_file: PathBuf,
    /// The authorities that sign cars' certificates (PEM).
    pub client_ca_file: PathBuf,
}

fn stale_after() -> Duration {
    Duration::from_mins(15)
}

fn publish_every() -> Duration {
    Duration::from_mins(5)
}

fn good_for() -> Duration {
    Duration::from_hours(1)
}

fn may_lose_percent() -> usize {
    20
}

fn retain_for() -> Duration {
    Duration::from_hours(72)
}

fn writes_per_second() -> u32 {
    5
}

fn messages_per_minute() -> u32 {
    120
}

impl Config {
    /// Reads the document. Paths in it are of the directory that it is in.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = String::from_utf8_lossy(&bytes(path)?).into_owned();
        let config: Self = serde_saphyr::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            message: error.to_string(),
        })?;
        let mut config = config.fit().map_err(|what| ConfigError::Unfit {
            path: path.to_owned(),
            what,
        })?;
        let directory = path.parent().unwrap_or_else(|| Path::new(""));
        let files = [
            &mut config.tls.certificate_file,
            &mut config.tls.private_key_file,
            &mut config.tls.client_ca_file,
            &mut config.key_file,
            &mut config.vins_file,
        ];
        for file in files {
            *file = directory.join(&*file);
        }
        Ok(config)
    }

    fn fit(self) -> Result<Self, String> {
        let hour = Duration::from_hours(1);
        if !(Duration::from_secs(10)..=hour).contains(&self.stale_after) {
            return Err("staleAfter is 10s to 1h: what is older says nothing of a car".to_owned());
        }
        if !(Duration::from_secs(1)..=hour).contains(&self.publish_every) {
            return Err("publishEvery is 1s to 1h".to_owned());
        }
        if self.good_for / 2 < self.publish_every || self.good_for > Duration::from_hours(24) {
            return Err("goodFor is at least twice publishEvery, and at most 24h".to_owned());
        }
        if self.may_lose_percent > 100 {
            return Err("mayLosePercent is 0 to 100".to_owned());
        }
        if self.retain_for < self.stale_after {
            return Err("retainFor is at least staleAfter: a car that is only unknown must not go".to_owned());
        }
        if !(1..=100).contains(&self.writes_per_second) {
            return Err("writesPerSecond is 1 to 100".to_owned());
        }
        if !(1..=6000).contains(&self.messages_per_minute) {
            return Err("messagesPerMinute is 1 to 6000".to_owned());
        }
        Ok(self)
    }

    /// Whether one reading of the list may take off `lost` of `of` cars. One always goes: else a small fleet could take off none.
    pub(crate) fn may_lose(&self, lost: usize, of: usize) -> bool {
        lost <= 1 || lost.saturating_mul(100) <= of.saturating_mul(self.may_lose_percent)
    }

    /// The writes in a second, rounded up, that it takes to say anew in time what so many cars are: each once in as many slots as half of
    /// `goodFor` has. What changes comes on top.
    pub(crate) fn renewals_per_second(&self, cars: usize) -> u128 {
        let (half, every) = ((self.good_for / 2).as_millis(), self.publish_every.as_millis().max(1));
        let between = half.div_ceil(every).max(1).saturating_mul(every);
        let cars = u128::try_from(cars).unwrap_or(u128::MAX);
        cars.saturating_mul(1000).div_ceil(between)
    }

    /// The fleet's pseudonyms.
    pub fn pseudonyms(&self) -> Result<Pseudonyms, ConfigError> {
        Pseudonyms::new(&bytes(&self.key_file)?).map_err(|source| ConfigError::Pseudonym {
            path: self.key_file.clone(),
            source,
        })
    }
}

/// A whole file.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "
name: depot-north
pool: overnight
listen: 127.0.0.1:4443
tls: {certificateFile: tls.crt, privateKeyFile: tls.key, clientCaFile: cars.pem}
keyFile: key
vinsFile: /etc/vins
";

    fn read(more: &str) -> Result<Config, ConfigError> {
        let (dir, path) = written(more);
        Config::read(&path).map(|config| beside(config, dir.path()))
    }

    fn written(more: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.yaml");
        std::fs::write(&path, format!("{LEAST}{more}")).unwrap();
        (dir, path)
    }

    /// With the files that lie in the document's directory named without it.
    fn beside(mut config: Config, dir: &Path) -> Config {
        for file in [&mut config.key_file, &mut config.tls.client_ca_file] {
            *file = file.strip_prefix(dir).unwrap().to_owned();
        }
        config
    }

    #[test]
    fn least_document_has_the_defaults_that_are_documented() {
        let config = read("").unwrap();
        assert_eq!(
            (config.stale_after, config.publish_every),
            (Duration::from_mins(15), Duration::from_mins(5))
        );
        assert_eq!(config.retain_for, Duration::from_hours(72));
        assert_eq!(
            (config.good_for, config.may_lose_percent),
            (Duration::from_hours(1), 20)
        );
        assert_eq!((config.writes_per_second, config.messages_per_minute), (5, 120));
        assert_eq!(config.key_file, Path::new("key"), "it is beside the document");
        assert_eq!(config.tls.client_ca_file, Path::new("cars.pem"));
        assert_eq!(config.vins_file, Path::new("/etc/vins"));
    }

    #[rstest::rstest]
    #[case::unknown_word("vin: 5", "vin")]
    #[case::fresh("staleAfter: 2h", "staleAfter is 10s to 1h")]
    #[case::slow("publishEvery: 2h", "publishEvery is 1s to 1h")]
    #[case::believed_for_too_short("goodFor: 9m", "goodFor is at least twice publishEvery")]
    #[case::believed_for_too_long("goodFor: 25h", "at most 24h")]
    #[case::more_than_all("mayLosePercent: 101", "mayLosePercent is 0 to 100")]
    #[case::forgetful("retainFor: 1m", "retainFor is at least staleAfter")]
    #[case::flood("writesPerSecond: 0", "writesPerSecond is 1 to 100")]
    #[case::deaf("messagesPerMinute: 0", "messagesPerMinute is 1 to 6000")]
    #[case::no_unit("publishEvery: 5", "is not a duration")]
    fn document_that_cannot_be_says_which_word_is_wrong(#[case] more: &str, #[case] says: &str) {
        let message = read(more).unwrap_err().to_string();
        assert!(message.contains("gateway.yaml") && message.contains(says), "{message}");
    }

    #[rstest::rstest]
    #[case::one_of_two(1, 2, true)]
    #[case::the_only_one(1, 1, true)]
    #[case::just_as_many(20, 100, true)]
    #[case::one_more(21, 100, false)]
    #[case::all(100, 100, false)]
    fn list_may_lose_a_share_at_a_time(#[case] lost: usize, #[case] of: usize, #[case] may: bool) {
        assert_eq!(read("").unwrap().may_lose(lost, of), may);
        assert!(read("mayLosePercent: 100").unwrap().may_lose(lost, of));
    }

    #[rstest::rstest]
    #[case::parked_and_few("", 1, 1)]
    #[case::as_documented("", 1_000, 1)]
    #[case::just_as_many_as_the_default("", 9_000, 5)]
    #[case::one_more("", 9_001, 6)]
    #[case::believed_for_longer("goodFor: 4h", 20_000, 3)]
    #[case::half_is_no_whole_number_of_slots("goodFor: 12m", 6_000, 10)]
    fn fleet_needs_so_many_writes_a_second(#[case] more: &str, #[case] cars: usize, #[case] needs: u128) {
        assert_eq!(read(more).unwrap().renewals_per_second(cars), needs);
    }

    #[test]
    fn file_that_is_not_there_is_named() {
        let message = Config::read(Path::new("/nowhere/gateway.yaml"))
            .unwrap_err()
            .to_string();
        assert!(message.contains("/nowhere/gateway.yaml"), "{message}");
    }
}
