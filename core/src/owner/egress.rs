//! What of the world work may reach by the car's network, in the owner's words, and whether an address is among it.
//!
//! Read with the owner's document; asked by the agent for every connection that a program wants to have, after its name has become an
//! address and before anything is sent there. What must never happen: a yes to an address of the car itself, or to a private or link-local
//! one that the owner has not written down.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer};

/// The owner's terms for work that wants to reach something by the network. Without them it reaches nothing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Egress {
    /// Where to.
    pub allow: Vec<Reach>,
    /// By which TCP ports.
    #[serde(default = "default_ports")]
    pub ports: Vec<u16>,
    /// The most bytes per second that all work together may receive, and as many send.
    #[serde(default = "default_rate", deserialize_with = "super::document::rate")]
    pub max_bytes_per_second: u64,
}

/// A part of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Whatever has an address that everybody can reach, by the registries of IANA, and is not on a wire with the car: the internet.
    Public,
    /// These addresses.
    Network(IpNet),
}

/// A `Reach` that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReachError {
    /// Neither a word nor a network.
    #[error("'{0}' is neither 'public' nor an address or a network such as 192.168.7.20 or 192.168.7.0/24")]
    Unknown(String),
    /// It has more bits than its length says.
    #[error("'{0}' has bits beyond its length: did you mean {1}, or the one address {2}?")]
    Bits(String, IpNet, IpAddr),
    /// It would let in what nobody has thought of.
    #[error("'{0}' is too wide: say 'public' for the internet, and each private network by itself")]
    Wide(String),
    /// It would never hold.
    #[error("'{0}' is the car itself, or nobody: work never reaches it")]
    Never(String),
}

/// Shorter ones have public and private networks in them.
const SHORTEST: (u8, u8) = (8, 16);

/// What is nobody's address, or everybody's, or the car's own: <https://www.iana.org/assignments/iana-ipv4-special-registry>.
const NEVER_V4: [Ipv4Net; 3] = [v4(0, 0, 0, 0, 8), v4(127, 0, 0, 0, 8), v4(224, 0, 0, 0, 4)];
/// The same of <https://www.iana.org/assignments/iana-ipv6-special-registry>. The first has the unspecified address, the loopback and the
/// old forms of IPv4.
const NEVER_V6: [Ipv6Net; 2] = [v6([0, 0, 0], 32), v6([0xff00, 0, 0], 8)];

/// What is not reachable by everybody, of the same registries (2026-11).
const SPECIAL_V4: [Ipv4Net; 12] = [
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(240, 0, 0, 0, 4),
];
/// Of IPv6 only this is given to anybody, but for what follows.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0], 3);
/// Protocols' own addresses, documentation, and IPv4 in another form.
const SPECIAL_V6: [Ipv6Net; 4] = [
    v6([0x2001, 0, 0], 23),
    v6([0x2001, 0x0db8, 0], 32),
    v6([0x2002, 0, 0], 16),
    v6([0x3fff, 0, 0], 20),
];
/// An IPv4 address behind a translator, in its last 32 bits (RFC 6052).
const TRANSLATED: Ipv6Net = v6([0x0064, 0xff9b, 0], 96);

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(start: [u16; 3], length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(start[0], start[1], start[2], 0, 0, 0, 0, 0), length)
}

impl Egress {
    /// Whether work may connect there. `own` are the addresses that the car has now, each with the network on its wire.
    pub fn allows(&self, address: IpAddr, port: u16, own: &[IpNet]) -> bool {
        let address = address.to_canonical();
        // A translator in the car, or beside it, would bring it to the address within.
        let never = [Some(address), translated(address)]
            .into_iter()
            .flatten()
            .any(|address| is_never(address) || own.iter().any(|own| own.addr() == address));
        !never && self.ports.contains(&port) && self.allow.iter().any(|reach| reach.has(address, own))
    }

    /// Whether it lets work reach anything.
    pub fn is_nothing(&self) -> bool {
        self.allow.is_empty() || self.ports.is_empty()
    }
}

impl Reach {
    fn has(&self, address: IpAddr, own: &[IpNet]) -> bool {
        match self {
            // With IPv6 every device of a household has an address that the world could reach, if the household's router let it.
            Self::Public => {
                let address = translated(address).unwrap_or(address);
                is_public(address) && !own.iter().any(|own| own.contains(&address))
            }
            Self::Network(network) => network.contains(&address),
        }
    }
}

fn translated(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V6(v6) if TRANSLATED.contains(&v6) => {
            let [.., a, b, c, d] = v6.octets();
            Some(Ipv4Addr::new(a, b, c, d).into())
        }
        _ => None,
    }
}

fn is_never(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_broadcast() || NEVER_V4.iter().any(|net| net.contains(&v4)),
        IpAddr::V6(v6) => NEVER_V6.iter().any(|net| net.contains(&v6)),
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !is_never(address) && !SPECIAL_V4.iter().any(|net| net.contains(&v4)),
        IpAddr::V6(v6) => GLOBAL_V6.contains(&v6) && !SPECIAL_V6.iter().any(|net| net.contains(&v6)),
    }
}

/// As the owner writes it.
impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => f.write_str("public"),
            Self::Network(network) => network.fmt(f),
        }
    }
}

impl FromStr for Reach {
    type Err = ReachError;

    fn from_str(text: &str) -> Result<Self, ReachError> {
        if text == "public" {
            return Ok(Self::Public);
        }
        let said = || text.to_owned();
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse::<IpNet>().map_err(|_| ReachError::Unknown(said()))?,
        };
        if network.addr() != network.network() {
            return Err(ReachError::Bits(said(), network.trunc(), network.addr()));
        }
        let (shortest, never) = match network {
            IpNet::V4(net) => (SHORTEST.0, NEVER_V4.iter().any(|never| never.contains(&net))),
            IpNet::V6(net) => (SHORTEST.1, NEVER_V6.iter().any(|never| never.contains(&net))),
        };
        if never || is_never(network.addr()) && network.prefix_len() == network.max_prefix_len() {
            return Err(ReachError::Never(said()));
        }
        if network.prefix_len() < shortest {
            return Err(ReachError::Wide(said()));
        }
        Ok(Self::Network(network))
    }
}

impl<'de> Deserialize<'de> for Reach {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The web.
fn default_ports() -> Vec<u16> {
    vec![80, 443]
}

/// Little enough that the family's film goes on.
fn default_rate() -> u64 {
    1 << 20
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn egress(allow: &[&str]) -> Egress {
        Egress {
            allow: allow.iter().map(|text| text.parse().unwrap()).collect(),
            ports: vec![443],
            max_bytes_per_second: 1,
        }
    }

    fn reaches(allow: &[&str], address: &str) -> bool {
        egress(allow).allows(address.parse().unwrap(), 443, &own())
    }

    /// In a household with public addresses.
    fn own() -> [IpNet; 2] {
        ["93.184.216.1/30", "2a01:4f8:1:2::5/64"].map(|net| net.parse().unwrap())
    }

    #[rstest]
    #[case("93.184.216.34")]
    #[case("11.0.0.1")]
    #[case("172.32.0.1")]
    #[case("192.31.196.1")]
    #[case("223.255.255.254")]
    #[case("2606:4700::1111")]
    #[case::mapped("::ffff:93.184.216.34")]
    #[case::translated("64:ff9b::5db8:d822")]
    fn public_address_is_reached_by_the_word_alone(#[case] address: &str) {
        assert!(reaches(&["public"], address));
        assert!(!reaches(&[], address));
        assert!(!reaches(&["10.0.0.0/8"], address));
    }

    #[rstest]
    #[case("10.1.2.3")]
    #[case("100.64.0.1")]
    #[case("169.254.169.254")]
    #[case("172.16.0.1")]
    #[case("172.31.255.255")]
    #[case("192.0.0.8")]
    #[case("192.0.2.1")]
    #[case("192.88.99.1")]
    #[case("192.168.178.1")]
    #[case("198.19.0.1")]
    #[case("203.0.113.7")]
    #[case("240.0.0.1")]
    #[case("fd00::1")]
    #[case("fe80::1")]
    #[case("2001:db8::1")]
    #[case::teredo("2001:0:1::1")]
    #[case::six_to_four("2002:c0a8:101::1")]
    #[case::local_translator("64:ff9b:1::1")]
    #[case::mapped("::ffff:192.168.178.1")]
    #[case::translated("64:ff9b::c0a8:b201")]
    #[case::neighbour("93.184.216.2")]
    #[case::neighbour_v6("2a01:4f8:1:2::1")]
    #[case::neighbour_translated("64:ff9b::5db8:d802")]
    fn address_that_is_not_everybodys_is_reached_only_if_it_is_written_down(#[case] address: &str) {
        assert!(!reaches(&["public"], address));
        let canonical = address.parse::<IpAddr>().unwrap().to_canonical();
        assert!(reaches(&[&canonical.to_string()], address));
    }

    #[rstest]
    #[case("0.0.0.0")]
    #[case("0.1.2.3")]
    #[case("127.0.0.1")]
    #[case("127.9.9.9")]
    #[case("224.0.0.1")]
    #[case("255.255.255.255")]
    #[case("::")]
    #[case("::1")]
    #[case("::127.0.0.1")]
    #[case("ff02::1")]
    #[case::mapped("::ffff:127.0.0.1")]
    #[case::translated_loopback("64:ff9b::7f00:1")]
    #[case::own("93.184.216.1")]
    #[case::own_v6("2a01:4f8:1:2::5")]
    #[case::own_mapped("::ffff:93.184.216.1")]
    #[case::own_translated("64:ff9b::5db8:d801")]
    fn car_itself_and_nobody_are_never_reached(#[case] address: &str) {
        let all = [
            Reach::Public,
            Reach::Network("0.0.0.0/0".parse().unwrap()),
            Reach::Network("::/0".parse().unwrap()),
        ];
        let widest = Egress {
            allow: all.to_vec(),
            ..egress(&[])
        };
        assert!(!widest.allows(address.parse().unwrap(), 443, &own()));
    }

    #[test]
    fn other_port_is_not_reached() {
        let address = "93.184.216.34".parse().unwrap();
        assert!(egress(&["public"]).allows(address, 443, &[]));
        assert!(!egress(&["public"]).allows(address, 25, &[]));
    }

    #[rstest]
    #[case("internet", "neither 'public'")]
    #[case("Public", "neither 'public'")]
    #[case("10.0.0.0/33", "neither 'public'")]
    #[case("router.local", "neither 'public'")]
    #[case("192.168.7.20/24", "did you mean 192.168.7.0/24, or the one address 192.168.7.20?")]
    #[case("0.0.0.0/1", "too wide")]
    #[case("128.0.0.0/1", "too wide")]
    #[case("2000::/3", "too wide")]
    #[case("127.0.0.1", "never reaches it")]
    #[case("127.0.0.0/8", "never reaches it")]
    #[case("::1", "never reaches it")]
    #[case("ff02::/16", "never reaches it")]
    #[case("255.255.255.255", "never reaches it")]
    fn word_that_is_no_part_of_the_world_is_refused(#[case] text: &str, #[case] says: &str) {
        let message = text.parse::<Reach>().unwrap_err().to_string();
        assert!(message.contains(says) && message.contains(text), "{message}");
    }

    proptest! {
        /// The standard library knows parts of the same registries.
        #[test]
        fn public_is_never_what_the_standard_library_calls_private(bits: u32, wide: u128) {
            let v4 = Ipv4Addr::from_bits(bits);
            let odd = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_broadcast() || v4.is_documentation()
                || v4.is_multicast() || v4.is_unspecified();
            prop_assert!(!(odd && is_public(v4.into())), "{v4}");
            let v6 = Ipv6Addr::from_bits(wide);
            let odd = v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_multicast() || v6.is_loopback();
            prop_assert!(!(odd && is_public(v6.into())), "{v6}");
            // Whatever form an IPv4 address comes in, the answer is the same.
            for form in [IpAddr::V6(v4.to_ipv6_mapped()), IpAddr::V6(Ipv6Addr::from_bits((0x0064_ff9b << 96) | u128::from(bits)))] {
                let all = egress(&["public"]);
                prop_assert_eq!(all.allows(form, 443, &[]), all.allows(v4.into(), 443, &[]), "{}", form);
            }
        }
    }
}
