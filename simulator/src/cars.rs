//! Plays cars: thousands in one process, each with the real agent's decisions and its own connection over the real link.
//!
//! A [`Lot`](lot::Lot) is what the cars of one process share, a [`SimCar`](car::SimCar) is one of them. Below the agent's own code a simulated
//! car differs from a real one in four things: its signals come from a trace ([`looks`]), its radio can be silenced ([`radio`]), its
//! programs only let time pass ([`program`]), and its images lie in one cache with those of the others. What really happened in
//! the cars is written down in [`truth`], which no adapter and no operator has a hand in. What must never happen: a decision that
//! a real car would take elsewhere is taken here.

pub mod car;
pub mod looks;
pub mod lot;
pub mod play;
pub mod program;
pub mod radio;
pub mod truth;
