//! Whether a Pod's network leads anywhere: looked at by the agent for every sandbox, whatever the container engine was configured to.
//!
//! Called when a sandbox has been made, before any container of it. A vehicle gives a Pod no network beyond itself: no route out, and no
//! address of the car on the same wire. What must never happen: a program that starts in a network from which the car, or what is near
//! it, can be reached.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use rustix::process::Pid;

use crate::addresses;

/// The last field of an interface's route that is up and goes through somebody.
const GATEWAY: u32 = 0x2;

/// A route of the kernel's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Route {
    to: Ipv4Addr,
    mask: Ipv4Addr,
    gateway: bool,
}

/// Looks at the network of a process. The error is a sentence for whoever set up the car's engine.
pub(super) fn check(process: Pid) -> Result<(), String> {
    let unreadable = |e: io::Error| format!("the Pod's network cannot be looked at: {e}");
    let path = format!("/proc/{}/net", process.as_raw_pid());
    let four = fs::read_to_string(format!("{path}/route")).map_err(unreadable)?;
    judge(&routes(&four), &own_addresses().map_err(unreadable)?)?;
    match fs::read_to_string(format!("{path}/if_inet6")) {
        Ok(text) => match text.lines().find(|line| line.split_whitespace().last() != Some("lo")) {
            Some(line) => Err(format!(
                "the container engine gives Pods IPv6 ({}), by which the car could be reached; a vehicle's Pods have none",
                line.split_whitespace().last().unwrap_or_default()
            )),
            None => Ok(()),
        },
        // A kernel without it.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(unreadable(e)),
    }
}

fn judge(routes: &[Route], own: &[Ipv4Addr]) -> Result<(), String> {
    for route in routes {
        if route.gateway {
            return Err(format!(
                "the container engine gives Pods a way to {}/{}; a vehicle's Pods have none: see docs/containers.md",
                route.to,
                route.mask.to_bits().leading_ones()
            ));
        }
        let near = own
            .iter()
            .find(|own| own.to_bits() & route.mask.to_bits() == route.to.to_bits());
        if let Some(near) = near {
            return Err(format!(
                "the container engine puts Pods on a wire with the car's own address {near}: see docs/containers.md"
            ));
        }
    }
    Ok(())
}

/// The kernel's table: a line of names, and one line a route, with addresses in hexadecimal and in the machine's order of bytes.
fn routes(text: &str) -> Vec<Route> {
    let address = |word: &str| Some(Ipv4Addr::from(u32::from_str_radix(word, 16).ok()?.to_ne_bytes()));
    let lines = text.lines().skip(1).filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let (to, flags, mask) = (words.get(1)?, words.get(3)?, words.get(7)?);
        Some(Route {
            to: address(to)?,
            mask: address(mask)?,
            gateway: u32::from_str_radix(flags, 16).ok()? & GATEWAY != 0,
        })
    });
    lines.collect()
}

/// The car's own addresses, but those of its loopback.
fn own_addresses() -> io::Result<Vec<Ipv4Addr>> {
    let v4 = |own: IpNet| match own.addr() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    };
    let all = addresses::own()?.into_iter().filter_map(v4);
    Ok(all.filter(|address| !address.is_loopback()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    /// A route as a little-endian machine writes it.
    fn line(to: [u8; 4], flags: u32, mask: [u8; 4]) -> String {
        let hex = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        format!(
            "eth0\t{}\t{}\t{flags:04X}\t0\t0\t0\t{}\t0\t0\t0\n",
            hex(to),
            hex([0; 4]),
            hex(mask)
        )
    }

    #[test]
    fn pods_own_wire_without_the_car_is_well() {
        let table = format!("{TABLE}{}", line([10, 98, 0, 0], 1, [255, 255, 0, 0]));
        let routes = routes(&table);
        assert_eq!(routes.len(), 1);
        assert_eq!(judge(&routes, &[Ipv4Addr::new(192, 168, 1, 7)]), Ok(()));
        assert_eq!(judge(&[], &[Ipv4Addr::new(192, 168, 1, 7)]), Ok(()));
    }

    #[test]
    fn way_out_and_address_of_the_car_on_the_wire_are_told() {
        let out = format!("{TABLE}{}", line([0; 4], 3, [0; 4]));
        assert!(judge(&routes(&out), &[]).unwrap_err().contains("a way to 0.0.0.0/0"));
        let wire = format!("{TABLE}{}", line([10, 98, 0, 0], 1, [255, 255, 0, 0]));
        let message = judge(&routes(&wire), &[Ipv4Addr::new(10, 98, 0, 1)]).unwrap_err();
        assert!(message.contains("10.98.0.1"), "{message}");
    }
}
