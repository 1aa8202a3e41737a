//! What a car's owner has consented to: one record for each purpose, after ISO/IEC TS 27560, in a chain that the car signs.
//!
//! Called by the agent, which keeps the chain on disk and judges by it, and by the owner's commands, which write it and show it. Values only:
//! files, keys and clocks are the caller's. No is the default: what was never given, was taken back, has run out, was given under another
//! notice, by another vehicle, or cannot be read to its last byte, allows nothing. What must never happen: a purpose in force that the chain
//! does not show as given by its newest word.
//!
//! | module | what |
//! |---|---|
//! | `record` | what a record and an entry of the chain say |
//! | `notice` | what the owner was told |
//! | `held` | what holds at a moment, and if not, why |
//! | `fold` | from the bytes of a chain to what is held |
//! | `export` | records with all their events, for people and other programs |

mod export;
mod fold;
mod held;
mod notice;
mod record;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use export::{Full, records};
pub use fold::{Around, Place, Report, read, verify};
pub use held::{Consents, Ended, Held, Known, Lack, Unusable};
pub use notice::{Notice, NoticeError};
pub use record::{
    BASIS, Entry, Event, EventState, EventType, LANGUAGE, Mark, NoticeShown, PAYLOAD_TYPE, Record, SCHEMA_VERSION,
};
