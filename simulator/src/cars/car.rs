//! One simulated car: the real agent's parts, booted in this process.
//!
//! Owned by whoever plays it. Everything that happens to it goes through what a real car has too: signals, the owner's word, the radio,
//! the power.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kerbside_core::ids::VehicleId;
use kerbside_link::client::Connection;
use kerbside_vehicle_agent::boot::{self, Parts, Running};
use kerbside_vehicle_agent::control::Request;
use kerbside_vehicle_agent::identity;
use kerbside_vehicle_agent::runtime::Runtime;
use kerbside_vehicle_agent::signals::{OwnerWord, Signals, Update};
use kerbside_vehicle_agent::uplink::Uplink;
use tokio::sync::{mpsc, watch};

use super::looks::Looks;
use super::lot::{Lot, LotError};
use super::program::Programs;
use super::radio::Radio;
use crate::traces::What;

/// A car of a lot.
pub struct SimCar {
    index: u32,
    id: VehicleId,
    lot: Lot,
    radio: Radio,
    looks: Looks,
    power: Option<Power>,
}

/// What a car has while it has power.
struct Power {
    running: Running,
    bus: mpsc::UnboundedSender<Update>,
    /// The owner's way into the car; nobody speaks there, and the policy ends without it.
    _owner: mpsc::Sender<Request>,
}

/// The bus of the car. What is said is read at once, so there is never much in it.
struct Bus(mpsc::UnboundedReceiver<Update>);

impl Signals for Bus {
    fn next(&mut self) -> BoxFuture<'_, Option<Update>> {
        self.0.recv().boxed()
    }
}

impl SimCar {
    /// A car that is enrolled and has no power yet. Its signals will show `looks`.
    pub fn open(lot: &Lot, index: u32, looks: Looks) -> Result<Self, LotError> {
        let directory = lot.directory(index)?;
        let found = identity::read(&directory).map_err(|source| LotError::Identity { car: index, source })?;
        Ok(Self {
            index,
            id: found.vehicle().clone(),
            radio: lot.radio(index),
            lot: lot.clone(),
            looks,
            power: None,
        })
    }

    /// Its number in the lot.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Who it is to the cluster.
    pub fn id(&self) -> &VehicleId {
        &self.id
    }

    /// Its radio.
    pub fn radio(&self) -> &Radio {
        &self.radio
    }

    /// Gives it power; with power, nothing happens.
    pub async fn boot(&mut self) -> Result<(), LotError> {
        if self.power.is_some() {
            return Ok(());
        }
        let (lot, index) = (&self.lot, self.index);
        let directory = lot.directory(index)?;
        let identity = identity::read(&directory).map_err(|source| LotError::Identity { car: index, source })?;
        let (bus, signals) = mpsc::unbounded_channel();
        let (owner, requests) = mpsc::channel(1);
        let parts = Parts {
            directory,
            link: lot.options.link.clone(),
            network: Arc::new(self.radio.clone()),
            clock: Arc::clone(&lot.clock),
            identity,
            car: lot.options.car.clone(),
            images: lot.images.clone(),
            signals: Box::new(Bus(signals)),
            requests,
            uplink: Uplink::default(),
        };
        let (truth, pace) = (lot.truth().clone(), lot.options.pace);
        let running = boot::boot(parts, |given| {
            let programs: Arc<dyn Runtime> = Arc::new(Programs {
                car: index,
                truth,
                pace,
                braked: given.brake,
            });
            programs.into()
        });
        let running = running.await.map_err(|source| LotError::Boot { car: index, source })?;
        self.power = Some(Power {
            running,
            bus,
            _owner: owner,
        });
        self.refresh();
        Ok(())
    }

    /// Something happens to it.
    pub fn see(&mut self, what: What) {
        match what {
            What::RadioLost => self.radio.silence(),
            What::RadioBack => self.radio.restore(),
            _ => {}
        }
        let update = self.looks.see(what);
        if update != Update::default() {
            self.say(update);
        }
    }

    /// The bus says again all that it says.
    pub fn refresh(&self) {
        self.say(self.looks.refresh());
    }

    /// Its signals show this from now on, whatever they showed before.
    pub fn become_like(&mut self, looks: Looks) {
        self.looks = looks;
        self.refresh();
    }

    /// The owner says it in the car.
    pub fn owner(&self, word: OwnerWord) {
        self.say(Update {
            owner: Some(word),
            ..Update::default()
        });
    }

    fn say(&self, update: Update) {
        if let Some(power) = &self.power {
            // An agent that has ended hears nothing.
            let _ = power.bus.send(update);
        }
    }

    /// Takes its power. The far end of its connection hears of it when the radio has power again, if it still is there.
    pub fn cut(&mut self) {
        if let Some(power) = self.power.take() {
            self.radio.silence();
            power.running.cut();
        }
    }

    /// Whether it has power.
    pub fn has_power(&self) -> bool {
        self.power.is_some()
    }

    /// Whether it is connected; none without power.
    pub fn connection(&self) -> Option<watch::Receiver<Connection>> {
        self.power.as_ref().map(|power| power.running.client().connection())
    }

    /// Ends it in order.
    pub async fn end(mut self) {
        if let Some(power) = self.power.take() {
            power.running.end().await;
        }
    }
}
