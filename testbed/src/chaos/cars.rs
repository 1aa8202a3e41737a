//! The simulated cars of a chaos run: enrolled as cars are, booted, handed to the player that owns them.
//!
//! One lot for all pools. Orders to the player are sent from here; it keeps their buses alive meanwhile.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kerbside_core::ids::VehicleId;
use kerbside_link::client::Connection;
use kerbside_link::identity::EnrolmentToken;
use kerbside_simulator::cars::car::SimCar;
use kerbside_simulator::cars::looks::Looks;
use kerbside_simulator::cars::lot::{Lot, LotError, Options as LotOptions};
use kerbside_simulator::cars::play::{Order, Player, STALE_AFTER, Step};
use kerbside_simulator::cars::truth::Truth;
use kerbside_simulator::pace::Pace;
use kerbside_simulator::traces::Vss;
use kerbside_vehicle_agent::config;
use kubectl_fleet::cli::Enrol;
use kubectl_fleet::commands::enrol;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Options;
use crate::bed::Bed;
use crate::endpoints::SYSTEM_NAMESPACE;
use crate::wait;

/// Cars that enrol at one moment.
const AT_ONCE: usize = 24;
/// How often a car tries to enrol when the cluster has no time for it.
const TRIES: u32 = 20;
/// How long it waits in between.
const AGAIN: Duration = Duration::from_secs(2);
/// Every owner of the fleet: plugged in, and not below half.
const OWNER: &str = "consent: {givenAt: 2026-11-01T10:00:00Z, classes: [inference]}
requirePluggedIn: true
chargeFloorPercent: 50
resumeWithin: 2m
";
/// From the decision to leave until everything is stopped, as a real car's.
const NOTICE: Duration = Duration::from_secs(5);

/// The cars.
pub(super) struct Cars {
    lot: Lot,
    ids: BTreeMap<u32, VehicleId>,
    parked: Vec<SimCar>,
    connections: Vec<watch::Receiver<Connection>>,
    playing: Option<Playing>,
    pace: Pace,
}

struct Playing {
    orders: mpsc::UnboundedSender<Order>,
    player: JoinHandle<Vec<SimCar>>,
}

impl Cars {
    /// Enrols the cars with these numbers into a pool. None has power yet.
    pub(super) async fn enrol(bed: &Bed, options: &Options, pool: &str, numbers: Range<u32>) -> Result<Self> {
        let pace = Pace::new(options.pace)?;
        let parked = config::Parked {
            stale_after: STALE_AFTER,
            // A night in minutes: two minutes of standing are seconds of ours.
            dwell: pace.real(Duration::from_mins(2)),
            notice: NOTICE,
            ..config::Parked::default()
        };
        let lot = Lot::open(LotOptions {
            directory: bed.layout.dir("chaos/lot")?,
            link: bed.endpoints.link.clone(),
            registry_http: vec![bed.endpoints.registry.clone()],
            pace,
            own_addresses: true,
            owner: OWNER.to_owned(),
            car: config::Car {
                parked,
                // Their nights are minutes long, on a wall clock that is not theirs: nothing to remember.
                free_for: Some(config::FreeFor::default()),
                ..config::Car::default()
            },
        })?;
        let mut cars = Self {
            lot,
            ids: BTreeMap::new(),
            parked: Vec::new(),
            connections: Vec::new(),
            playing: None,
            pace,
        };
        cars.more(bed, pool, numbers).await?;
        Ok(cars)
    }

    /// Enrols more of them.
    pub(super) async fn more(&mut self, bed: &Bed, pool: &str, numbers: Range<u32>) -> Result<()> {
        let lot = &self.lot;
        let enrolled: Vec<(u32, VehicleId)> = stream::iter(numbers)
            .map(|number| async move { anyhow::Ok((number, enrol_one(bed, lot, pool, number).await?)) })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        for (number, _) in &enrolled {
            self.parked
                .push(SimCar::open(&self.lot, *number, Looks::ready(Vss::V6))?);
        }
        self.ids.extend(enrolled);
        self.parked.sort_by_key(SimCar::index);
        Ok(())
    }

    /// Gives power to all that have none, and lets the player have them. Every car looks parked, plugged in and charged.
    pub(super) async fn boot(&mut self) -> Result<()> {
        for car in &mut self.parked {
            car.boot().await?;
        }
        self.connections = self.parked.iter().filter_map(SimCar::connection).collect();
        self.play(Vec::new(), Duration::ZERO);
        Ok(())
    }

    /// Lets these steps happen from now on.
    fn play(&mut self, steps: Vec<Step>, from: Duration) {
        let (orders, ordered) = mpsc::unbounded_channel();
        let player = Player::new(std::mem::take(&mut self.parked), steps, self.pace, from);
        self.playing = Some(Playing {
            orders,
            player: tokio::spawn(player.run(ordered)),
        });
    }

    /// Takes the cars back from the player.
    pub(super) async fn halt(&mut self) -> Result<()> {
        if let Some(Playing { orders, player }) = self.playing.take() {
            drop(orders);
            self.parked = player.await.context("the player panicked")?;
        }
        Ok(())
    }

    /// All cars become those of the traces: they look as at the start, and then the steps happen to them.
    pub(super) async fn replay(&mut self, starts: Vec<(Looks, bool)>, steps: Vec<Step>, from: Duration) -> Result<()> {
        self.halt().await?;
        for (car, (looks, reached)) in self.parked.iter_mut().zip(starts) {
            car.boot().await?;
            car.radio().restore();
            car.become_like(looks);
            if !reached {
                car.radio().silence();
            }
        }
        self.play(steps, from);
        Ok(())
    }

    /// All cars are parked, plugged in, charged and reached again, and nothing more happens to them.
    pub(super) async fn rest(&mut self) -> Result<()> {
        let starts = self.ids.iter().map(|_| (Looks::ready(Vss::V6), true)).collect();
        self.replay(starts, Vec::new(), Duration::ZERO).await
    }

    /// Something is done to a car.
    pub(super) fn order(&self, order: Order) -> Result<()> {
        let playing = self.playing.as_ref().context("the cars are played")?;
        playing.orders.send(order).ok().context("the player is there")
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.ids.len()
    }

    /// The place of a car among them, by its name in the cluster.
    pub(super) fn place(&self, id: &str) -> Option<usize> {
        self.ids.values().position(|known| known.as_str() == id)
    }

    /// Their names in the cluster, in their order.
    pub(super) fn ids(&self) -> impl Iterator<Item = &VehicleId> {
        self.ids.values()
    }

    /// What really happened in them.
    pub(super) fn truth(&self) -> &Truth {
        self.lot.truth()
    }

    /// How fast the night's time runs.
    pub(super) fn pace(&self) -> Pace {
        self.pace
    }

    /// Waits until every car that was booted first is connected.
    pub(super) async fn connected(&self, deadline: Duration) -> Result<()> {
        wait::until("every car to be connected", deadline, || async {
            let missing = self.unconnected();
            Ok((missing == 0).then_some(()))
        })
        .await
        .with_context(|| {
            format!(
                "{} of {} cars are not connected",
                self.unconnected(),
                self.connections.len()
            )
        })
    }

    /// How many cars are not connected.
    pub(super) fn unconnected(&self) -> usize {
        let connected = |seen: &&watch::Receiver<Connection>| matches!(*seen.borrow(), Connection::Connected { .. });
        self.connections.len() - self.connections.iter().filter(connected).count()
    }

    /// Takes the connections of all cars anew, after a boot.
    pub(super) async fn recount(&mut self) -> Result<()> {
        self.halt().await?;
        self.connections = self.parked.iter().filter_map(SimCar::connection).collect();
        self.play(Vec::new(), Duration::ZERO);
        Ok(())
    }

    /// Ends them in order, many at a time.
    pub(super) async fn end(mut self) {
        if self.halt().await.is_ok() {
            let ends = std::mem::take(&mut self.parked).into_iter().map(SimCar::end);
            stream::iter(ends).buffer_unordered(100).collect::<Vec<()>>().await;
        }
    }
}

/// Enrols one car. A cluster that has no time is asked again, with another token, for the first may be used up.
async fn enrol_one(bed: &Bed, lot: &Lot, pool: &str, number: u32) -> Result<VehicleId> {
    let mut tries = 0;
    loop {
        let token = token(bed, pool).await?;
        match lot.enrol(number, &token).await {
            Err(LotError::Enrol { source, .. }) if source.is_retryable() && tries < TRIES => {
                tries += 1;
                sleep(AGAIN).await;
            }
            enrolled => return Ok(enrolled?),
        }
    }
}

/// A one-time token, as `kubectl fleet enrol` makes it.
async fn token(bed: &Bed, pool: &str) -> Result<EnrolmentToken> {
    let args = Enrol {
        pool: pool.to_owned(),
        labels: Vec::new(),
        ttl: "1h".to_owned(),
        link: bed.endpoints.link.clone(),
        token_file: None,
    };
    let mut out = Vec::new();
    enrol::run(&bed.client, SYSTEM_NAMESPACE, &args, &mut out).await?;
    let text = String::from_utf8(out).context("the plugin prints text")?;
    let token = text.split_whitespace().find(|word| word.starts_with("kb1."));
    let token = token.context("the plugin printed no token")?;
    token.parse().map_err(|e| anyhow::anyhow!("the token is none: {e}"))
}
