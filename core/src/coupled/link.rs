//! The link: connections that delay, hold and lose what is sent, in order within one of them.
//!
//! What was sent before one side left may still arrive. A side that is not told of the end of a connection learns it by silence.

use std::collections::VecDeque;
use std::time::Duration;

use super::time::{Ms, NEVER};
use crate::ids::PodUid;
use crate::vehicle::{Report, Standing};

/// What a car sends.
#[derive(Debug, Clone)]
pub(super) enum Up {
    Hello(Standing, Vec<Report>),
    Heartbeat(u64),
    State(Standing),
    Status(Report),
    /// In truth a call of its own: the output of this attempt.
    Output(PodUid),
}

/// What an adapter sends.
#[derive(Debug, Clone)]
pub(super) enum Down {
    Welcome,
    /// And whether it is proven.
    HeartbeatAck(u64, bool),
    Run(PodUid),
    Stop(PodUid, Duration, &'static str),
    Forget(PodUid),
    StatusAck(PodUid, u64),
    /// Whether the output is in the store, or refused.
    Stored(PodUid, bool),
}

/// One direction of a connection.
#[derive(Debug)]
struct Pipe<T> {
    on_its_way: VecDeque<(Ms, T)>,
    /// When the other side hears that nothing more comes.
    end: Option<Ms>,
    last: Ms,
}

/// What comes out of a pipe.
#[derive(Debug)]
pub(super) enum Arrival<T> {
    Message(T),
    End,
}

impl<T> Pipe<T> {
    fn new() -> Self {
        Self {
            on_its_way: VecDeque::new(),
            end: None,
            last: 0,
        }
    }

    fn put(&mut self, now: Ms, delay: Ms, message: T) {
        self.last = self.last.max(now + delay);
        self.on_its_way.push_back((self.last, message));
    }

    fn finish(&mut self, now: Ms, delay: Ms) {
        self.last = self.last.max(now + delay);
        self.end = Some(self.last);
    }

    fn take(&mut self, now: Ms) -> Option<Arrival<T>> {
        if self.on_its_way.front().is_some_and(|(at, _)| *at <= now) {
            return self
                .on_its_way
                .pop_front()
                .map(|(_, message)| Arrival::Message(message));
        }
        if self.on_its_way.is_empty() && self.end.is_some_and(|at| at <= now) {
            self.end = None;
            return Some(Arrival::End);
        }
        None
    }

    fn next(&self) -> Ms {
        self.on_its_way.front().map(|(at, _)| *at).or(self.end).unwrap_or(NEVER)
    }
}

/// A connection of a car with a replica of the adapter.
#[derive(Debug)]
struct Connection {
    car: usize,
    replica: usize,
    up: Pipe<Up>,
    down: Pipe<Down>,
    car_left: bool,
    replica_left: bool,
    /// Nothing gets through any more, and nobody says so.
    lost: bool,
}

/// The way between one car and the cluster.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub(super) up: Ms,
    pub(super) down: Ms,
    /// Nothing arrives; it is not lost.
    pub(super) held: bool,
}

/// Every connection there ever was.
#[derive(Debug)]
pub(super) struct Links {
    connections: Vec<Connection>,
    pub(super) ways: Vec<Way>,
    /// Which replicas are there.
    up: Vec<bool>,
}

impl Links {
    pub(super) fn new(cars: usize, replicas: usize) -> Self {
        let way = Way {
            up: 20,
            down: 20,
            held: false,
        };
        Self {
            connections: Vec::new(),
            ways: vec![way; cars],
            up: vec![false; replicas],
        }
    }

    /// A connection with this replica, or with another if it is not there; with nobody if none is.
    pub(super) fn open(&mut self, now: Ms, car: usize, wanted: usize) -> usize {
        let replicas = self.up.len();
        let there = (0..replicas).map(|n| (wanted + n) % replicas).find(|n| self.up[*n]);
        let replica = there.unwrap_or(wanted);
        self.connections.push(Connection {
            car,
            replica,
            up: Pipe::new(),
            down: Pipe::new(),
            car_left: false,
            replica_left: false,
            lost: false,
        });
        let connection = self.connections.len() - 1;
        if there.is_none() {
            self.leave_down(now, connection, true);
        }
        connection
    }

    pub(super) fn car(&self, connection: usize) -> usize {
        self.connections[connection].car
    }

    pub(super) fn send_up(&mut self, now: Ms, connection: usize, message: Up) {
        let c = &mut self.connections[connection];
        if !c.car_left && !c.lost {
            c.up.put(now, self.ways[c.car].up, message);
        }
    }

    pub(super) fn send_down(&mut self, now: Ms, connection: usize, message: Down) {
        let c = &mut self.connections[connection];
        if !c.replica_left && !c.lost {
            c.down.put(now, self.ways[c.car].down, message);
        }
    }

    /// The car ends it; what it sent before is still on its way. `said`: the adapter hears of it.
    pub(super) fn leave_up(&mut self, now: Ms, connection: usize, said: bool) {
        let c = &mut self.connections[connection];
        if !std::mem::replace(&mut c.car_left, true) && said && !c.lost {
            c.up.finish(now, self.ways[c.car].up);
        }
    }

    /// The adapter ends it.
    pub(super) fn leave_down(&mut self, now: Ms, connection: usize, said: bool) {
        let c = &mut self.connections[connection];
        if !std::mem::replace(&mut c.replica_left, true) && said && !c.lost {
            c.down.finish(now, self.ways[c.car].down);
        }
    }

    /// Every connection of a car breaks, and what is on its way is lost.
    pub(super) fn cut(&mut self, now: Ms, car: usize, car_sees: bool, adapter_sees: bool) {
        for c in self.connections.iter_mut().filter(|c| c.car == car && !c.lost) {
            c.lost = true;
            (c.up, c.down) = (Pipe::new(), Pipe::new());
            if adapter_sees {
                c.up.finish(now, 0);
            }
            if car_sees {
                c.down.finish(now, 0);
            }
        }
    }

    /// A process of the adapter dies: its machine says so for it.
    pub(super) fn replica_dies(&mut self, now: Ms, replica: usize) {
        self.up[replica] = false;
        for n in 0..self.connections.len() {
            if self.connections[n].replica == replica {
                self.leave_down(now, n, true);
            }
        }
    }

    pub(super) fn replica_starts(&mut self, replica: usize) {
        self.up[replica] = true;
    }

    /// What arrives at the car over this connection.
    pub(super) fn reaches_car(&mut self, now: Ms, connection: usize) -> Option<Arrival<Down>> {
        let c = &mut self.connections[connection];
        if c.car_left || self.ways[c.car].held {
            return None;
        }
        c.down.take(now)
    }

    /// What arrives at a replica, and over which connection.
    pub(super) fn reaches_replica(&mut self, now: Ms, replica: usize) -> Option<(usize, Arrival<Up>)> {
        let ways = &self.ways;
        let mut open = self
            .connections
            .iter_mut()
            .enumerate()
            .filter(|(_, c)| c.replica == replica);
        open.find_map(|(n, c)| {
            if c.replica_left || ways[c.car].held {
                return None;
            }
            Some((n, c.up.take(now)?))
        })
    }

    pub(super) fn next_for_car(&self, connection: usize) -> Ms {
        let c = &self.connections[connection];
        if c.car_left || self.ways[c.car].held {
            NEVER
        } else {
            c.down.next()
        }
    }

    pub(super) fn next_for_replica(&self, replica: usize) -> Ms {
        let open = self
            .connections
            .iter()
            .filter(|c| c.replica == replica && !c.replica_left);
        let open = open.filter(|c| !self.ways[c.car].held);
        open.map(|c| c.up.next()).min().unwrap_or(NEVER)
    }
}
