//! One file per command.

pub mod doctor;
pub mod enrol;
pub mod ledger;
pub mod logs;
pub mod results;
pub mod revoke;
pub mod uninstall;
pub mod why;
