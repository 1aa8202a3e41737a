//! What a car is: whose it is, where it charges, how it is connected, what ails it.
//!
//! Drawn once per car, before anything happens to it. It never changes during a trace.

use super::random::{Key, Purpose};
use super::tables::plugs;

/// Whose car it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Archetype {
    /// Drives to work on every weekday on which it drives at all.
    Commuter,
    /// Everybody else.
    Free,
}

/// By what it is connected while it stands at home. Elsewhere it is always the mobile network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HomeNetwork {
    /// The owner's.
    Wifi,
    /// The mobile network reaches the parking place.
    Mobile,
    /// A basement garage: nothing does.
    None,
}

/// Which generation of the signal catalogue the car speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vss {
    /// 4.x.
    V4,
    /// 5.x.
    V5,
    /// 6.0.
    V6,
}

/// What a car is.
#[derive(Debug, Clone, PartialEq)]
pub struct Car {
    /// Its number in the fleet.
    pub index: u32,
    /// Whose it is.
    pub archetype: Archetype,
    /// How often a week the owner plugs in at home; none if there is nothing to plug into.
    pub plugs_a_week: Option<f64>,
    /// Net capacity in kWh.
    pub battery: f64,
    /// Consumption in kWh per km.
    pub consumption: f64,
    /// What the point at home gives, in kW.
    pub home_power: f64,
    /// How it is connected at home.
    pub home_network: HomeNetwork,
    /// The catalogue it speaks.
    pub vss: Vss,
    /// How many times as often as usual its sensors fail.
    pub fault_proneness: f64,
    /// What the 12 V battery still has of its capacity, from 0 to 1.
    pub low_voltage_health: f64,
}

impl Car {
    /// The car of this number. Published shares are in 7.4 and 7.5; those of the catalogues and of what ails a car are guesses.
    pub(super) fn draw(seed: u64, index: u32) -> Self {
        let key = Key {
            seed,
            car: index,
            day: 0,
            leg: 0,
        };
        let draws = &mut key.draws(Purpose::Car);
        let archetype = if draws.chance(0.6) {
            Archetype::Commuter
        } else {
            Archetype::Free
        };
        let has_point = draws.chance(0.65);
        let plugs_a_week = draws.of(&plugs::PLUGS_A_WEEK);
        Self {
            index,
            archetype,
            plugs_a_week: has_point.then_some(plugs_a_week),
            battery: draws.pick(&[(60.0, 0.5), (90.0, 0.35), (110.0, 0.15)]).unwrap_or(60.0),
            consumption: draws.between(0.14, 0.21),
            home_power: draws.pick(&[(7.2, 0.5), (3.6, 0.5)]).unwrap_or(7.2),
            home_network: draws
                .pick(&[
                    (HomeNetwork::Wifi, 0.6),
                    (HomeNetwork::Mobile, 0.3),
                    (HomeNetwork::None, 0.1),
                ])
                .unwrap_or(HomeNetwork::Mobile),
            vss: draws
                .pick(&[(Vss::V4, 0.4), (Vss::V5, 0.4), (Vss::V6, 0.2)])
                .unwrap_or(Vss::V5),
            // Few cars make most of the trouble; together they make what is published.
            fault_proneness: if draws.chance(0.1) { 5.5 } else { 0.5 },
            low_voltage_health: draws.between(0.6, 1.0),
        }
    }
}
