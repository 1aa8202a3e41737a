//! A fleet that nobody owns: what thousands of parked cars do, hour by hour, out of one seed.
//!
//! This is the pure half of the simulator. [`traces`] draws what happens to each car, [`statistics`] measures traces as the
//! published studies measured cars, [`pace`] runs their time faster than ours, [`timeline`] draws a run. Whoever plays the cars
//! against a real adapter calls these and does the rest. What must never happen: two runs of one seed differ, on whatever machine.

#![deny(missing_docs)]

pub mod pace;
pub mod statistics;
pub mod timeline;
pub mod traces;

#[cfg(test)]
mod golden;
