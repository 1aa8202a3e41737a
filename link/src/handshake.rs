//! Which version of the protocol two peers speak: the highest that both know.
//!
//! Pure; called by the adapter on `Hello` and by the car on `Welcome`. There is one version so far, and a range from the first
//! day, for cars outlive the programs they talk to.

/// The versions that this code speaks, both ends included.
pub const SUPPORTED: VersionRange = VersionRange { min: 1, max: 1 };

/// A range of protocol versions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// The lowest.
    pub min: u32,
    /// The highest.
    pub max: u32,
}

impl VersionRange {
    /// Whether `version` is in it.
    pub fn contains(self, version: u32) -> bool {
        (self.min..=self.max).contains(&version)
    }
}

impl std::fmt::Display for VersionRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.min == self.max {
            write!(f, "{}", self.min)
        } else {
            write!(f, "{} to {}", self.min, self.max)
        }
    }
}

/// Two peers have no version in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Incompatible {
    /// The car's newest version is older than the adapter's oldest.
    #[error("the car speaks protocol {car}, this adapter {adapter}: update the car's agent")]
    CarTooOld {
        /// What the car speaks.
        car: VersionRange,
        /// What the adapter speaks.
        adapter: VersionRange,
    },
    /// The car's oldest version is newer than the adapter's newest.
    #[error("the car speaks protocol {car}, this adapter {adapter}: update Kerbside in the cluster")]
    AdapterTooOld {
        /// What the car speaks.
        car: VersionRange,
        /// What the adapter speaks.
        adapter: VersionRange,
    },
    /// The car's range is no range.
    #[error("the car says that it speaks protocol {} to {}, which is no range", car.min, car.max)]
    NotARange {
        /// What the car said.
        car: VersionRange,
    },
}

/// The highest version that both speak.
pub fn negotiate(car: VersionRange, adapter: VersionRange) -> Result<u32, Incompatible> {
    if car.min == 0 || car.min > car.max {
        return Err(Incompatible::NotARange { car });
    }
    if car.max < adapter.min {
        return Err(Incompatible::CarTooOld { car, adapter });
    }
    if car.min > adapter.max {
        return Err(Incompatible::AdapterTooOld { car, adapter });
    }
    Ok(car.max.min(adapter.max))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(min: u32, max: u32) -> VersionRange {
        VersionRange { min, max }
    }

    #[rstest::rstest]
    #[case(range(1, 1), range(1, 1), 1)]
    #[case(range(1, 3), range(2, 5), 3)]
    #[case(range(2, 9), range(1, 4), 4)]
    fn version_in_both_ranges_is_the_highest(
        #[case] car: VersionRange,
        #[case] adapter: VersionRange,
        #[case] is: u32,
    ) {
        assert_eq!(negotiate(car, adapter), Ok(is));
    }

    #[rstest::rstest]
    #[case(range(1, 1), range(2, 3), "update the car's agent")]
    #[case(range(4, 5), range(2, 3), "update Kerbside in the cluster")]
    #[case(range(3, 2), range(1, 9), "no range")]
    #[case(range(0, 0), range(1, 9), "no range")]
    fn versions_without_a_common_one_say_who_must_update(
        #[case] car: VersionRange,
        #[case] adapter: VersionRange,
        #[case] says: &str,
    ) {
        let message = negotiate(car, adapter).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }

    proptest! {
        #[test]
        fn negotiated_version_is_in_both_ranges_and_no_higher_one_is(a in 0u32..9, b in 0u32..9, c in 1u32..9, d in 0u32..9) {
            let (car, adapter) = (range(a, b), range(c, c + d));
            if let Ok(version) = negotiate(car, adapter) {
                prop_assert!(car.contains(version) && adapter.contains(version));
                prop_assert!(!(car.contains(version + 1) && adapter.contains(version + 1)));
            } else {
                prop_assert!((1..20).all(|v| !(a > 0 && car.contains(v) && adapter.contains(v))));
            }
        }
    }
}
