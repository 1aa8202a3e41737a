//! The car's own addresses, as its computer's interfaces have them now.
//!
//! Read before a Pod's network is trusted, and before a Pod is let to an address: a car moves from one network to another.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::sys::socket::SockaddrStorage;

fn ip(address: SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| Some(IpAddr::V6(address.as_sockaddr_in6()?.ip())))
}

/// Each with the network on its wire, those of the loopback too.
pub(crate) fn own() -> io::Result<Vec<IpNet>> {
    let all = nix::ifaddrs::getifaddrs()?;
    let networks = all.filter_map(|interface| {
        let address = ip(interface.address?)?;
        let mask = interface.netmask.and_then(ip);
        let network = mask.and_then(|mask| IpNet::with_netmask(address, mask).ok());
        Some(network.unwrap_or_else(|| IpNet::from(address)))
    });
    Ok(networks.collect())
}

/// Whether an address is of the car's own network, or of the car itself: one that is not routed in the world.
pub(crate) fn is_near(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// The interface that has this address now; `None`: none has it.
pub(crate) fn interface_of(address: IpAddr) -> io::Result<Option<String>> {
    let all: Vec<_> = nix::ifaddrs::getifaddrs()?.collect();
    // All of 127.0.0.0/8 is the loopback's, which has one of it.
    let is_it = |own: IpAddr| own == address || (own.is_loopback() && address.is_loopback());
    let has = all
        .into_iter()
        .find(|interface| interface.address.and_then(ip).is_some_and(is_it));
    Ok(has.map(|interface| interface.interface_name))
}
