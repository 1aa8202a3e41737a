//! What the maker states of a car's energy: `energy` in the document of whoever built the agent into the car.
//!
//! Read with that document; what comes of it is [`Figures`]. What must never happen: a signal that is no power is asked of the car's broker.

use kerbside_core::energy::{Figures, Instrument};
use kerbside_core::quantity::Quantity;
use serde::Deserialize;

/// How such a signal's path ends. Nothing that tells where a car is, or whose, does.
const POWER: &str = ".Power";
/// What may be further off than by all of itself is no figure.
const WHOLE: u32 = 1000;

/// How the energy of work is known.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnergyConfig {
    /// The maker's figures.
    pub model: Model,
    /// The counters of the processor's packages.
    #[serde(default)]
    pub rapl: Option<Rapl>,
    /// A signal of the computer's power.
    #[serde(default)]
    pub broker: Option<Broker>,
    /// The computer never takes more watts.
    #[serde(default = "most")]
    pub most_watts: Quantity,
    /// When the car is awake without work too.
    #[serde(default)]
    pub awake_anyway: AwakeAnyway,
}

/// The maker's figures.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Model {
    /// What the car takes more while its computer is awake and idle than while it sleeps.
    pub wake_watts: Quantity,
    /// What a busy core takes on top of that.
    pub watts_per_core: Quantity,
    /// The error of both, in thousandths.
    #[serde(default = "model_error")]
    pub error_permille: u32,
}

/// The counters of the processor's packages.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rapl {
    /// What they show together while the computer is awake and idle.
    pub idle_watts: Quantity,
    /// Their error, in thousandths.
    #[serde(default = "instrument_error")]
    pub error_permille: u32,
}

/// A signal of the computer's power.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Broker {
    /// Its path; in watts.
    #[serde(default = "central")]
    pub signal: String,
    /// What it shows while the computer is awake and idle.
    pub idle_watts: Quantity,
    /// Its error, in thousandths.
    #[serde(default = "instrument_error")]
    pub error_permille: u32,
}

/// When the car is awake without work too: being awake costs the work nothing then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum AwakeAnyway {
    /// It would sleep.
    #[default]
    Never,
    /// While a charging cable is connected.
    PluggedIn,
    /// It never sleeps.
    Always,
}

impl EnergyConfig {
    /// What the types cannot say; the error is a sentence.
    pub(crate) fn check(&self) -> Result<(), String> {
        let wake = milliwatts("energy.model.wakeWatts", self.model.wake_watts)?;
        milliwatts("energy.model.wattsPerCore", self.model.watts_per_core)?;
        let most = milliwatts("energy.mostWatts", self.most_watts)?;
        if wake > most {
            return Err("energy.model.wakeWatts must not be more than energy.mostWatts".to_owned());
        }
        let rapl = self.rapl.as_ref();
        let rapl = rapl.map(|rapl| ("energy.rapl", rapl.idle_watts, rapl.error_permille));
        let broker = self.broker.as_ref();
        let broker = broker.map(|broker| ("energy.broker", broker.idle_watts, broker.error_permille));
        for (place, idle, error) in rapl.into_iter().chain(broker) {
            if milliwatts(&format!("{place}.idleWatts"), idle)? > wake {
                return Err(format!(
                    "{place}.idleWatts is a part of energy.model.wakeWatts, and must not be more"
                ));
            }
            permille(place, error)?;
        }
        permille("energy.model", self.model.error_permille)?;
        if let Some(signal) = self.signal().filter(|signal| !is_power(signal)) {
            return Err(format!(
                "energy.broker.signal: '{signal}' is no signal of power such as {}",
                central()
            ));
        }
        Ok(())
    }

    /// The signal that is asked of the broker.
    pub(crate) fn signal(&self) -> Option<String> {
        self.broker.as_ref().map(|broker| broker.signal.clone())
    }

    /// The same as figures.
    pub fn figures(&self) -> Figures {
        let instrument = |idle_watts: Quantity, error_permille| Instrument {
            idle_milliwatts: positive(idle_watts),
            error_permille,
        };
        Figures {
            wake_milliwatts: positive(self.model.wake_watts),
            core_milliwatts: positive(self.model.watts_per_core),
            error_permille: self.model.error_permille,
            most_milliwatts: positive(self.most_watts),
            broker: self.broker.as_ref().map_or_else(Instrument::default, |broker| {
                instrument(broker.idle_watts, broker.error_permille)
            }),
            rapl: self.rapl.as_ref().map_or_else(Instrument::default, |rapl| {
                instrument(rapl.idle_watts, rapl.error_permille)
            }),
        }
    }

    /// Whether the car is awake without work too.
    pub fn is_awake_anyway(&self, plugged_in: bool) -> bool {
        match self.awake_anyway {
            AwakeAnyway::Never => false,
            AwakeAnyway::PluggedIn => plugged_in,
            AwakeAnyway::Always => true,
        }
    }
}

fn milliwatts(place: &str, watts: Quantity) -> Result<u64, String> {
    u64::try_from(watts.millis()).map_err(|_| format!("{place} must not be less than nothing"))
}

fn positive(watts: Quantity) -> u64 {
    u64::try_from(watts.millis()).unwrap_or(0)
}

fn permille(place: &str, error: u32) -> Result<(), String> {
    if error > WHOLE {
        return Err(format!("{place}.errorPermille must be at most {WHOLE}"));
    }
    Ok(())
}

fn is_power(signal: &str) -> bool {
    signal.starts_with("Vehicle.") && signal.ends_with(POWER)
}

/// No computer of a car is known that takes more.
fn most() -> Quantity {
    Quantity::from_units(1000)
}

/// Of figures from a data sheet.
fn model_error() -> u32 {
    300
}

fn instrument_error() -> u32 {
    100
}

/// VSS 6.0's own name for it.
fn central() -> String {
    "Vehicle.ControlUnit.Central.Health.Resources.Power".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(yaml: &str) -> EnergyConfig {
        let config: EnergyConfig = serde_saphyr::from_str(yaml).unwrap();
        config.check().unwrap();
        config
    }

    #[test]
    fn figures_are_in_milliwatts_and_what_is_not_said_is_the_default() {
        let figures = config("{model: {wakeWatts: 120, wattsPerCore: 8.5}, rapl: {idleWatts: 6}}").figures();
        let expected = Figures {
            wake_milliwatts: 120_000,
            core_milliwatts: 8500,
            error_permille: 300,
            most_milliwatts: 1_000_000,
            broker: Instrument::default(),
            rapl: Instrument {
                idle_milliwatts: 6000,
                error_permille: 100,
            },
        };
        assert_eq!(figures, expected);
    }

    #[test]
    fn signal_is_that_of_the_central_computer_unless_another_is_named() {
        let named = |broker: &str| {
            config(&format!(
                "{{model: {{wakeWatts: 9, wattsPerCore: 1}}, broker: {broker}}}"
            ))
            .signal()
        };
        assert_eq!(named("{idleWatts: 5}"), Some(central()));
        let other = "Vehicle.Private.ParkedCompute.Power";
        assert_eq!(
            named(&format!("{{idleWatts: 5, signal: {other}}}")),
            Some(other.to_owned())
        );
        assert_eq!(config("{model: {wakeWatts: 9, wattsPerCore: 1}}").signal(), None);
    }

    #[test]
    fn car_is_awake_anyway_as_its_maker_says() {
        for (says, expected) in [
            ("Never", [false, false]),
            ("PluggedIn", [false, true]),
            ("Always", [true, true]),
        ] {
            let config = config(&format!(
                "{{model: {{wakeWatts: 9, wattsPerCore: 1}}, awakeAnyway: {says}}}"
            ));
            assert_eq!(
                [false, true].map(|plugged| config.is_awake_anyway(plugged)),
                expected,
                "{says}"
            );
        }
    }
}
