//! How many may be connected, and as what: strangers until they have proven to be a car of the fleet, then cars.
//!
//! Asked by the server before anything of a connection is read. Every connection is an open file, so the limit on these is divided at the start:
//! strangers have a share that cars of the fleet are not counted in, and no address has more than a part of that. What must never
//! happen: somebody without the fleet's certificate takes a place that a car is connected by. A certificate alone makes nobody a car: the
//! maker's authorities sign for every car in the world.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at a time. A fleet has one per car; more than this is another's business.
const MOST: usize = 20_000;
/// Files that are not connections: the API server's, the log, what is read, the admin's.
const OTHER_FILES: usize = 64;
/// With fewer there is no fleet to speak of.
const LEAST_FILES: u64 = 256;
/// One in so many places is for strangers, and at most [`MOST_STRANGERS`].
const STRANGERS: usize = 8;
const MOST_STRANGERS: usize = 1024;
/// One address has at most one in so many of the strangers' places. A depot's cars may all have one, and come in the same minute.
const OF_ONE_ADDRESS: usize = 4;

/// The limit on open files leaves no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "failed to make room for cars: this process may have {0} open files, and each car is one; let it have at least 256 (ulimit -Hn, or \
     LimitNOFILE= of its unit)"
)]
pub struct TooFewFiles(u64);

/// The places of a gateway.
#[derive(Debug)]
pub struct Places {
    strangers: Arc<Semaphore>,
    cars: Arc<Semaphore>,
    for_strangers: usize,
    for_cars: usize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// Somebody who has not proven to be a car of the fleet yet. Its place is free when this is gone.
#[derive(Debug)]
pub(super) struct Stranger {
    places: Arc<Places>,
    address: IpAddr,
    _place: OwnedSemaphorePermit,
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut by_address = self.places.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = by_address.get_mut(&self.address) {
            *there = there.saturating_sub(1);
            if *there == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

impl Places {
    /// For a process that may have so many open files.
    pub fn new(open_files: u64) -> Result<Self, TooFewFiles> {
        if open_files < LEAST_FILES {
            return Err(TooFewFiles(open_files));
        }
        let files = usize::try_from(open_files).unwrap_or(usize::MAX);
        let room = files.saturating_sub(OTHER_FILES).min(MOST);
        let for_strangers = (room / STRANGERS).min(MOST_STRANGERS);
        let for_cars = room - for_strangers;
        Ok(Self {
            strangers: Arc::new(Semaphore::new(for_strangers)),
            cars: Arc::new(Semaphore::new(for_cars)),
            for_strangers,
            for_cars,
            by_address: Mutex::default(),
        })
    }

    /// How many cars may be connected at a time.
    pub fn for_cars(&self) -> usize {
        self.for_cars
    }

    /// How many strangers one address may have here at a time.
    pub fn of_one_address(&self) -> usize {
        (self.for_strangers / OF_ONE_ADDRESS).max(1)
    }

    /// Waits until another stranger may come.
    pub(super) async fn free(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.strangers).acquire_owned().await.ok()
    }

    /// Somebody has come from there. None: too many strangers have.
    pub(super) fn come(self: &Arc<Self>, from: IpAddr, place: OwnedSemaphorePermit) -> Option<Stranger> {
        let address = network(from);
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let there = by_address.entry(address).or_default();
        if *there >= self.of_one_address() {
            return None;
        }
        *there += 1;
        drop(by_address);
        Some(Stranger {
            places: Arc::clone(self),
            address,
            _place: place,
        })
    }

    /// A stranger is a car of the fleet: it takes a car's place and gives its own back. None: every car's place is taken.
    pub(super) fn is_car(&self, stranger: Stranger) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.cars).try_acquire_owned().ok();
        drop(stranger);
        place
    }
}

/// Whose an address is: by IPv6 one household has so many that only the network counts.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    async fn come(places: &Arc<Places>, from: &str) -> Option<Stranger> {
        let place = places.free().await.unwrap();
        places.come(address(from), place)
    }

    #[rstest::rstest]
    #[case::as_many_shells_begin_with(1024, 840, 30)]
    #[case::least(256, 168, 6)]
    #[case::no_limit(u64::MAX, 18_976, 256)]
    fn limit_on_open_files_says_how_many_cars_may_come(#[case] files: u64, #[case] cars: usize, #[case] one: usize) {
        let places = Places::new(files).unwrap();
        assert_eq!((places.for_cars(), places.of_one_address()), (cars, one));
    }

    #[test]
    fn limit_that_leaves_no_room_is_refused_with_what_to_do() {
        let message = Places::new(255).unwrap_err().to_string();
        assert!(
            message.contains("255 open files") && message.contains("LimitNOFILE"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn one_address_takes_a_part_of_the_strangers_places_and_gives_them_back() {
        let places = Arc::new(Places::new(256).unwrap());
        let mut there = Vec::new();
        for _ in 0..6 {
            there.push(come(&places, "192.0.2.1").await.unwrap());
        }
        assert!(come(&places, "192.0.2.1").await.is_none());
        assert!(come(&places, "::ffff:192.0.2.1").await.is_none(), "it is the same");
        assert!(come(&places, "192.0.2.2").await.is_some(), "others come in");
        there.pop();
        assert!(come(&places, "192.0.2.1").await.is_some());
        drop(there);
        assert!(
            places.by_address.lock().unwrap().is_empty(),
            "nothing is kept of who was there"
        );
    }

    #[tokio::test]
    async fn network_of_six_counts_as_one_address() {
        let places = Arc::new(Places::new(256).unwrap());
        let mut there = Vec::new();
        for host in 0..6 {
            there.push(come(&places, &format!("2001:db8::{host}")).await.unwrap());
        }
        assert!(come(&places, "2001:db8::ffff:1:2:3").await.is_none());
        assert!(come(&places, "2001:db8:0:1::1").await.is_some());
    }

    #[tokio::test]
    async fn strangers_take_no_cars_place_and_a_car_gives_its_strangers_place_back() {
        let places = Arc::new(Places::new(256).unwrap());
        let mut strangers = Vec::new();
        for n in 0..24 {
            strangers.push(come(&places, &format!("192.0.2.{n}")).await.unwrap());
        }
        assert_eq!(places.strangers.available_permits(), 0, "another has to wait");
        assert_eq!(places.cars.available_permits(), 168);
        let car = places.is_car(strangers.pop().unwrap());
        assert!(car.is_some());
        assert_eq!(
            (places.strangers.available_permits(), places.cars.available_permits()),
            (1, 167)
        );
        let stranger = come(&places, "192.0.2.99").await.unwrap();
        let all = Arc::clone(&places.cars).try_acquire_many_owned(167).unwrap();
        assert!(places.is_car(stranger).is_none(), "all cars' places are taken");
        drop(all);
    }
}
