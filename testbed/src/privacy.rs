//! What leaves a car and what the cluster holds of it, searched for what must stay in the car.
//!
//! Used by the cluster test of docs/privacy.md. [`canary`] turns secrets into the bytes by which they could be told, [`scan`] finds them in
//! whatever was recorded, [`wire`] records what a car sends, between car and adapter, [`pulls`] what it sends a registry, and [`objects`] what an API server holds. What must
//! never happen: a search that finds nothing because it looked at nothing; so whoever searches also looks for something that is surely there.

pub mod canary;
pub mod objects;
pub mod pulls;
pub mod scan;
pub mod wire;

#[cfg(test)]
mod fields;
