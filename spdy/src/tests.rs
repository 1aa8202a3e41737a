//! What two sides of a connection see of one another, and what any bytes may do to a reader: nothing but an error.

mod codec;
mod connection;
