//! How many bytes the link costs, at the IP layer, in both directions: from the kernel's own counts of every connection.
//!
//! Read with `ss`, which asks the kernel for TCP_INFO. A segment costs its payload, 20 bytes of IP and 32 of TCP (with timestamps, as
//! Linux sends them); retransmissions are in the kernel's counts.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// IPv4 without options, and TCP with timestamps.
const HEADERS: u64 = 20 + 32;

/// What connections have cost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// How many connections there are.
    pub(super) connections: u64,
    /// Bytes at the IP layer, both directions.
    pub(super) bytes: u64,
}

/// Of all connections of this machine to that port.
pub(super) async fn to_port(port: u16) -> Result<Traffic> {
    let output = Command::new("ss")
        .args(["-tinHO", "state", "established", "dport", "=", &format!(":{port}")])
        .stdin(Stdio::null())
        .output()
        .await
        .context("failed to run ss, of the package iproute2")?;
    ensure!(
        output.status.success(),
        "ss failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .fold(Traffic::default(), |sum, line| Traffic {
            connections: sum.connections + 1,
            bytes: sum.bytes + cost(line),
        }))
}

/// Of one line of `ss -tinO`.
fn cost(line: &str) -> u64 {
    let count = |name: &str| {
        let word = line.split_whitespace().find_map(|word| word.strip_prefix(name));
        word.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
    };
    let payload = count("bytes_sent:") + count("bytes_received:");
    payload + HEADERS * (count("segs_out:") + count("segs_in:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_costs_its_payload_and_its_headers() {
        let line = "0 0 127.1.0.1:40000 127.0.0.1:7443 cubic wscale:7,7 rto:204 bytes_sent:1000 bytes_acked:1000 \
                    bytes_received:500 segs_out:10 segs_in:9 data_segs_out:8";
        assert_eq!(cost(line), 1500 + 19 * 52);
        assert_eq!(cost("nonsense"), 0);
    }
}
