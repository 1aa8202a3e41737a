//! Runs in the car: signals, the owner's policy, runtimes, journal.
//!
//! | module | what |
//! |---|---|
//! | `agent` | one agent in its process |
//! | `boot` | puts a car's parts together |
//! | `policy` | signals, the owner's document and commands → standing, brake, offer |
//! | `brake` | whether programs run at all, and who pulls it when the policy loop does not look |
//! | `stays` | what the car remembers of its stays, and forecasts by |
//! | `attempts` | one actor per attempt, and the supervisor that admits and routes |
//! | `runtime` | what runs programs: WebAssembly, containers |
//! | `cgroup` | the kernel's hold on containers |
//! | `ask` | probes and hooks: asks a program how it is |
//! | `images` | programs and data from registries |
//! | `journal` | what ran, on disk |
//! | `consents` | what the owner agreed to, signed, on disk |
//! | `forget` | a car that forgets its owner |
//! | `receipts` | what attempts used, signed, on disk; and how the owner reads it |
//! | `logs`, `output` | what programs print and leave |
//! | `egress` | what of the world a Pod reaches: the owner's terms, a proxy, a rate |
//! | `energy` | what work takes of the car's energy: instruments, a day's count |
//! | `guard` | a second process that ends this one if a fence passes and it does not act |
//! | `signals` | where the car's signals come from |
//! | `control` | the owner's commands in the car |
//! | `page` | the owner's page on the car's own network |
//! | `profiles` | ready policies for owners |
//! | `proto`, `stamp`, `stream`, `addresses` | what several rooms need: generated protocols, files that change, connections of any kind, the car's own addresses |

mod addresses;
pub mod agent;
mod ask;
pub mod attempts;
pub mod boot;
pub mod brake;
pub mod cgroup;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod consents;
pub mod control;
pub mod directory;
pub mod egress;
pub mod energy;
pub mod forget;
pub mod guard;
pub mod identity;
pub mod images;
pub mod journal;
pub mod logs;
pub mod outlook;
pub mod output;
pub mod page;
pub mod pod;
pub mod policy;
pub mod profiles;
mod proto;
pub mod receipts;
pub mod runtime;
pub mod signals;
mod stamp;
mod stays;
mod stream;
pub mod uplink;

#[cfg(test)]
mod testing;
