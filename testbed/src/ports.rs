//! Free ports on loopback, so that any number of testbeds live on one machine.
//!
//! A port is free when it can be bound now. They come from below the range that the kernel gives to outgoing connections, which
//! is what makes it unlikely that one is taken between the asking and the use.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

/// Below Linux' range for outgoing connections (32768 and up) and above what well-known services use.
const RANGE: std::ops::Range<u16> = 15_000..30_000;
/// More than enough where not nearly every port is taken.
const TRIES: usize = 500;

/// A TCP port that nobody listens on.
pub fn free() -> Result<u16> {
    for _ in 0..TRIES {
        let port = rand::random_range(RANGE);
        // Bound on every address: something on another one would make a server that listens on all of them fail.
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("found no free TCP port between {} and {}", RANGE.start, RANGE.end)
}

#[cfg(test)]
mod tests {
    #[test]
    fn free_port_is_in_the_range_and_bindable() {
        let port = super::free().unwrap();
        assert!(super::RANGE.contains(&port));
    }
}
