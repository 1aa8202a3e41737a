//! How often one address, and all together, may ask.
//!
//! Pure; the adapter asks it before it looks at an enrolment. It protects the API server from strangers, not the tokens, which
//! are too long to guess. Never: more memory than `addresses` buckets, whatever comes.

use std::net::IpAddr;
use std::time::Duration;

use kerbside_core::clock::Boottime;
use kerbside_core::rate::{Bucket, Buckets, Rate};

/// How often one address, and all together, may ask.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// So many at once from one address.
    pub burst: u32,
    /// And then one per this time.
    pub every: Duration,
    /// So many at once from everybody.
    pub burst_of_all: u32,
    /// And then one per this time.
    pub every_of_all: Duration,
    /// How many addresses are remembered.
    pub addresses: usize,
}

impl Default for Rates {
    /// Wide enough for a depot whose cars share an address, narrow enough that the API server does not notice.
    fn default() -> Self {
        Self {
            burst: 60,
            every: Duration::from_secs(1),
            burst_of_all: 300,
            every_of_all: Duration::from_millis(100),
            addresses: 4096,
        }
    }
}

impl Rates {
    /// The usual ones with so many a second from everybody, at least one, and 30 s of them at once. What one address may ask
    /// stays as it is.
    pub fn per_second(all: u32) -> Self {
        let usual = Self::default();
        let all = all.max(1);
        Self {
            burst_of_all: all.saturating_mul(30),
            every_of_all: Duration::from_secs(1) / all,
            ..usual
        }
    }
}

/// Asked too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many enrolments from this address: try again in {} s", after.as_secs().saturating_add(1))]
pub struct TooOften {
    /// When the next one is let through.
    pub after: Duration,
}

/// The buckets.
#[derive(Debug)]
pub struct RateLimit {
    rate_of_all: Rate,
    all: Bucket,
    by_address: Buckets<IpAddr>,
}

impl RateLimit {
    /// Full buckets.
    pub fn new(rates: Rates) -> Self {
        let of_one = Rate {
            burst: rates.burst,
            every: rates.every,
        };
        Self {
            rate_of_all: Rate {
                burst: rates.burst_of_all,
                every: rates.every_of_all,
            },
            all: Bucket::default(),
            by_address: Buckets::new(of_one, rates.addresses),
        }
    }

    /// Lets one request of `address` through, or says when to come again. A stranger with many addresses is still held by the bucket of all.
    pub fn allow(&mut self, address: IpAddr, now: Boottime) -> Result<(), TooOften> {
        let key = network(address);
        let after = self
            .by_address
            .wait(&key, now)
            .max(self.all.wait(self.rate_of_all, now));
        if !after.is_zero() {
            return Err(TooOften { after });
        }
        self.all.take(self.rate_of_all, now);
        self.by_address.take(key, now);
        Ok(())
    }
}

/// Who has one IPv6 address has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & (u128::MAX << 64)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATES: Rates = Rates {
        burst: 3,
        every: Duration::from_secs(10),
        burst_of_all: 5,
        every_of_all: Duration::from_secs(1),
        addresses: 2,
    };

    fn at(seconds: u64) -> Boottime {
        Boottime(Duration::from_secs(seconds))
    }

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn usual_rates_are_ten_a_second_from_everybody() {
        let (usual, ten) = (Rates::default(), Rates::per_second(10));
        assert_eq!(
            (usual.burst_of_all, usual.every_of_all),
            (ten.burst_of_all, ten.every_of_all)
        );
        let mut limit = RateLimit::new(Rates::per_second(200));
        for car in 0..6000_u32 {
            limit.allow(car.to_be_bytes().into(), at(100)).unwrap();
        }
        let late = limit.allow([11, 0, 0, 1].into(), at(100)).unwrap_err();
        assert_eq!(late.after, Duration::from_millis(5));
    }

    #[test]
    fn address_after_its_burst_waits_for_the_next_token() {
        let mut limit = RateLimit::new(RATES);
        for _ in 0..3 {
            limit.allow(address(1), at(100)).unwrap();
        }
        assert_eq!(
            limit.allow(address(1), at(100)),
            Err(TooOften {
                after: Duration::from_secs(10)
            })
        );
        assert_eq!(
            limit.allow(address(1), at(104)),
            Err(TooOften {
                after: Duration::from_secs(6)
            })
        );
        limit.allow(address(2), at(104)).unwrap();
        limit.allow(address(1), at(110)).unwrap();
    }

    #[test]
    fn addresses_together_wait_for_the_bucket_of_all() {
        let mut limit = RateLimit::new(RATES);
        for n in 0..5 {
            limit.allow(address(n), at(100)).unwrap();
        }
        assert_eq!(
            limit.allow(address(9), at(100)),
            Err(TooOften {
                after: Duration::from_secs(1)
            })
        );
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_a_bucket() {
        let mut limit = RateLimit::new(RATES);
        for n in 0..3u128 {
            limit
                .allow(IpAddr::V6((0x2001_0db8_u128 << 96 | n).into()), at(1))
                .unwrap();
        }
        assert!(
            limit
                .allow(IpAddr::V6((0x2001_0db8_u128 << 96 | 0x77).into()), at(1))
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn limit_never_holds_more_addresses_nor_lets_more_through(asks in prop::collection::vec((0u8..9, 0u64..5), 1..300)) {
            let mut limit = RateLimit::new(RATES);
            let mut now = 1000;
            let mut through = 0u64;
            for (who, later) in asks {
                now += later;
                through += u64::from(limit.allow(address(who), at(now)).is_ok());
                prop_assert!(limit.by_address.len() <= RATES.addresses);
                prop_assert!(through <= 5 + now - 1000);
            }
        }
    }
}
