//! A fleet that nobody owns: what thousands of parked cars do, hour by hour, out of one seed.
//!
//! One half is pure. [`traces`] draws what happens to each car, [`statistics`] measures traces as the published studies measured
//! cars, [`forecast`] how often a car's own forecast holds, [`pace`] runs their time faster than ours, [`timeline`] draws a run, [`privacy`] lets
//! an attacker guess when cars leave. The other, [`cars`], plays traces with the real agent's decisions over the real link, thousands of cars in one
//! process. Called by the testbed's `chaos` and benchmarks. What must never happen: the traces of two runs of one seed differ, on whatever machine.

#![deny(missing_docs)]

pub mod cars;
pub mod forecast;
pub mod pace;
pub mod privacy;
pub mod statistics;
pub mod timeline;
pub mod traces;

#[cfg(test)]
mod golden;
