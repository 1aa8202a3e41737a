//! Lets traces happen to cars: in their order, at their pace, and whatever else is ordered in between.
//!
//! [`schedule`] is pure: the same traces give the same steps. The [`Player`] owns its cars; whoever wants something done to one of them
//! sends an [`Order`]. What must never happen: a car whose bus falls silent because the player is busy with others.

use std::time::Duration;

use kerbside_vehicle_agent::signals::OwnerWord;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::car::SimCar;
use super::looks::Looks;
use crate::pace::Pace;
use crate::traces::{Trace, What};

/// In so many turns every car's bus says everything once; there is one turn a second.
const TURNS: usize = 30;
/// A car's signals may be twice as old before they count as unknown: one missed turn does not make a car leave.
pub const STALE_AFTER: Duration = Duration::from_secs(90);

/// Something happens to one of the cars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// When, since the start of the traces.
    pub at: Duration,
    /// To which of the cars, by its place among them.
    pub car: usize,
    /// What.
    pub what: What,
}

/// What somebody wants done to a car, by its place among the cars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// This happens to it, besides its trace.
    See(usize, What),
    /// Its owner says this in it.
    Owner(usize, OwnerWord),
    /// It loses its power.
    Cut(usize),
    /// It has power again, and with it its radio.
    Boot(usize),
}

/// The part of the traces from one moment up to another: how the cars look at its start, whether a network reaches each then, and all
/// that happens from there on, in its order.
pub fn schedule(traces: &[Trace], from: Duration, until: Duration) -> (Vec<(Looks, bool)>, Vec<Step>) {
    let mut starts = Vec::new();
    let mut steps = Vec::new();
    for (car, trace) in traces.iter().enumerate() {
        let mut looks = Looks::standing(trace.car.vss);
        let mut reached = true;
        for event in trace.events.iter().take_while(|event| event.at < until) {
            if event.at < from {
                reached = match event.what {
                    What::RadioLost => false,
                    What::RadioBack => true,
                    _ => reached,
                };
                looks.see(event.what);
            } else {
                steps.push(Step {
                    at: event.at,
                    car,
                    what: event.what,
                });
            }
        }
        starts.push((looks, reached));
    }
    // Stable: of one moment, cars in their order, and each car's events in theirs.
    steps.sort_by_key(|step| step.at);
    (starts, steps)
}

/// Plays cars.
pub struct Player {
    cars: Vec<SimCar>,
    steps: std::vec::IntoIter<Step>,
    pace: Pace,
    from: Duration,
}

impl Player {
    /// Will let these steps happen to these cars; the moment `from` of the traces is when it begins to run.
    pub fn new(cars: Vec<SimCar>, steps: Vec<Step>, pace: Pace, from: Duration) -> Self {
        Self {
            cars,
            steps: steps.into_iter(),
            pace,
            from,
        }
    }

    /// Plays until nobody can order anything any more; gives the cars back. An order that comes while a step is due is done first.
    pub async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) -> Vec<SimCar> {
        let began = Instant::now();
        let mut turn = 0;
        let mut turns = interval(Duration::from_secs(1));
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next = self.steps.next();
        loop {
            let due = next.map(|step| began + self.pace.wait(step.at.saturating_sub(self.from), Duration::ZERO));
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => return self.cars,
                },
                _ = turns.tick() => {
                    self.cars.iter().skip(turn % TURNS).step_by(TURNS).for_each(SimCar::refresh);
                    turn += 1;
                }
                () = sleep_until(due.unwrap_or(began)), if due.is_some() => {
                    if let Some(step) = next {
                        self.see(step.car, step.what);
                    }
                    next = self.steps.next();
                }
            }
        }
    }

    fn see(&mut self, car: usize, what: What) {
        if let Some(car) = self.cars.get_mut(car) {
            // A car without power has no radio either; it comes back with the power.
            if car.has_power() || what != What::RadioBack {
                car.see(what);
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::See(car, what) => self.see(car, what),
            Order::Owner(car, word) => {
                if let Some(car) = self.cars.get(car) {
                    car.owner(word);
                }
            }
            Order::Cut(car) => {
                if let Some(car) = self.cars.get_mut(car) {
                    car.cut();
                }
            }
            Order::Boot(car) => {
                if let Some(car) = self.cars.get_mut(car) {
                    car.radio().restore();
                    if let Err(error) = car.boot().await {
                        tracing::error!(car = car.index(), %error, "a simulated car stays without power");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traces::{DAY, Fleet};

    fn traces() -> Vec<Trace> {
        let fleet = Fleet {
            seed: 7,
            days: 2,
            ..Fleet::default()
        };
        fleet.traces(40).collect()
    }

    #[test]
    fn schedule_of_one_seed_is_one_schedule() {
        let (starts, steps) = schedule(&traces(), DAY / 2, DAY + DAY / 2);
        assert_eq!(
            (starts.clone(), steps.clone()),
            schedule(&traces(), DAY / 2, DAY + DAY / 2)
        );
        assert!(starts.len() == 40 && steps.len() > 100, "{}", steps.len());
        assert!(steps.is_sorted_by_key(|step| step.at));
        assert!(steps.iter().all(|step| (DAY / 2..DAY + DAY / 2).contains(&step.at)));
    }

    #[test]
    fn night_cut_in_two_is_the_same_night() {
        let traces = traces();
        let (_, whole) = schedule(&traces, Duration::ZERO, DAY * 2);
        let (_, first) = schedule(&traces, Duration::ZERO, DAY);
        let (starts, second) = schedule(&traces, DAY, DAY * 2);
        assert_eq!(whole.len(), first.len() + second.len());
        let mut played = schedule(&traces, Duration::ZERO, DAY).0;
        for step in first {
            if !matches!(step.what, What::RadioLost | What::RadioBack) {
                played[step.car].0.see(step.what);
            }
        }
        for (played, start) in played.iter().zip(&starts) {
            assert_eq!(played.0, start.0);
        }
    }
}
