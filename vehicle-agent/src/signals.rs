//! Where the car's signals come from.
//!
//! One source per agent, chosen at start; the policy loop is its only reader. A source that ends or falls silent makes every signal
//! stale, and stale means no. The agent's own eye on its memory looks out beside it.

pub mod broker;
pub mod memory;
pub mod said;
pub mod scenario;

use futures::future::BoxFuture;
use kerbside_core::clock::Boottime;
pub use kerbside_core::owner::Word as OwnerWord;
use kerbside_core::parked::Value;

/// What a source says at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Update {
    /// Signals and their values, by VSS path.
    pub set: Vec<(String, Value)>,
    /// When they were said; `None`: now.
    pub at: Option<Boottime>,
    /// Signals that are not known any more.
    pub forget: Vec<String>,
    /// Signals that were said once, nobody can tell how long ago: not known, but the car has them.
    pub had: Vec<String>,
    /// What the owner says in the car, where the source has the owner too.
    pub owner: Option<OwnerWord>,
}

/// A source of signals.
pub trait Signals: Send {
    /// What was heard next, as soon as it is heard. `None` if nothing will ever come. Dropping the future loses nothing.
    fn next(&mut self) -> BoxFuture<'_, Option<Update>>;
}

/// A car without a source: nothing is ever known.
#[derive(Debug)]
pub struct Silent;

impl Signals for Silent {
    fn next(&mut self) -> BoxFuture<'_, Option<Update>> {
        Box::pin(std::future::ready(None))
    }
}
