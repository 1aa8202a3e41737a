//! Ready policies for owners who do not want to begin with an empty page: `documents/profiles`, one file each.
//!
//! Called by the command line. A profile is a whole document whose consent accepts nothing; the lines of the consent and of the time zone
//! are filled in here, and its comments stay. What must never happen: a consent that its owner has not given by name.

use jiff::Timestamp;

/// A ready policy.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// What it is called.
    pub name: &'static str,
    text: &'static str,
}

/// What an owner says to make a policy of a profile.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// When the consent is given.
    pub at: Timestamp,
    /// When it ends.
    pub expires: Option<Timestamp>,
    /// The job classes that it is for.
    pub classes: &'a [String],
    /// The owner's time zone.
    pub time_zone: Option<&'a str>,
}

/// A profile that cannot be filled in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// There is no such profile.
    #[error("'{0}' is no profile; there are {names}", names = ALL.map(|profile| profile.name).join(", "))]
    Unknown(String),
    /// No is the default.
    #[error(
        "no job class is named, and no is the default: say with --class, once for each, what you agree to, such as --class inference. \
         Without a class the car would accept no work, so nothing is written"
    )]
    NoClass,
    /// Its hours would be anybody's.
    #[error("{0} has hours: say by what clock with --time-zone, such as --time-zone Europe/Berlin")]
    NoTimeZone(&'static str),
}

/// All profiles, from the one that most want.
pub const ALL: [Profile; 5] = [
    Profile {
        name: "plugged-in-nights",
        text: include_str!("../documents/profiles/plugged-in-nights.yaml"),
    },
    Profile {
        name: "whenever-plugged-in",
        text: include_str!("../documents/profiles/whenever-plugged-in.yaml"),
    },
    Profile {
        name: "weekends",
        text: include_str!("../documents/profiles/weekends.yaml"),
    },
    Profile {
        name: "generous-at-work",
        text: include_str!("../documents/profiles/generous-at-work.yaml"),
    },
    Profile {
        name: "careful",
        text: include_str!("../documents/profiles/careful.yaml"),
    },
];

impl Profile {
    /// The profile of this name.
    pub fn find(name: &str) -> Result<Self, ProfileError> {
        let found = ALL.into_iter().find(|profile| profile.name == name);
        found.ok_or_else(|| ProfileError::Unknown(name.to_owned()))
    }

    /// What it means, in one line.
    pub fn line(&self) -> &'static str {
        let first = self.text.lines().next().unwrap_or_default();
        first.trim_start_matches("# ")
    }

    /// Whether it has hours, and so needs a time zone.
    pub fn has_hours(&self) -> bool {
        self.text.lines().any(|line| line.starts_with("timeZone: "))
    }

    /// The document that it becomes for one owner.
    pub fn filled_in(&self, given: &Given<'_>) -> Result<String, ProfileError> {
        if given.classes.is_empty() {
            return Err(ProfileError::NoClass);
        }
        let mut lines = Vec::new();
        for line in self.text.lines() {
            if line.starts_with("  givenAt: ") {
                lines.push(format!("  givenAt: {}", given.at));
                lines.extend(given.expires.map(|expires| format!("  expiresAt: {expires}")));
            } else if line.starts_with("  classes: [] ") {
                // In quotes, for a class may look like a number or a truth value.
                let classes: Vec<_> = given.classes.iter().map(|class| format!("{class:?}")).collect();
                lines.push(format!("  classes: [{}]", classes.join(", ")));
            } else if line.starts_with("timeZone: ") {
                let zone = given.time_zone.ok_or(ProfileError::NoTimeZone(self.name))?;
                lines.push(format!("timeZone: {zone}"));
            } else {
                lines.push(line.to_owned());
            }
        }
        Ok(lines.join("\n") + "\n")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    #[test]
    fn profile_that_is_filled_in_says_what_its_owner_said_and_nothing_else() {
        let at = "2026-11-23T10:00:00.125Z".parse().unwrap();
        let expires = Some("2027-11-23T10:00:00Z".parse().unwrap());
        let classes = ["inference".to_owned(), "12".to_owned(), "no".to_owned()];
        for profile in ALL {
            let given = Given {
                at,
                expires,
                classes: &classes,
                time_zone: Some("America/New_York"),
            };
            let name = Path::new(profile.name);
            let filled_in = config::owner_in(&profile.filled_in(&given).unwrap(), name).unwrap();
            let mut by_hand = config::owner_in(profile.text, name).unwrap();
            assert!(by_hand.consent.classes.is_empty(), "a profile alone gives nothing away");
            (by_hand.consent.given_at, by_hand.consent.expires_at) = (at, expires);
            by_hand.consent.classes = classes.to_vec();
            by_hand.time_zone = by_hand.time_zone.map(|_| "America/New_York".to_owned());
            assert_eq!(filled_in, by_hand, "{}", profile.name);
        }
    }

    #[test]
    fn profile_says_in_one_line_what_it_means() {
        for profile in ALL {
            assert!(
                profile.line().starts_with("Works "),
                "{}: {}",
                profile.name,
                profile.line()
            );
        }
    }

    #[test]
    fn profile_with_hours_needs_a_clock_and_every_profile_a_class() {
        let classes = ["inference".to_owned()];
        let given = |classes| Given {
            at: Timestamp::UNIX_EPOCH,
            expires: None,
            classes,
            time_zone: None,
        };
        let nights = Profile::find("plugged-in-nights").unwrap();
        let refused = nights.filled_in(&given(&classes));
        assert_eq!(refused, Err(ProfileError::NoTimeZone("plugged-in-nights")));
        let whenever = Profile::find("whenever-plugged-in").unwrap();
        whenever.filled_in(&given(&classes)).unwrap();
        assert!(nights.has_hours() && !whenever.has_hours());
        assert_eq!(whenever.filled_in(&given(&[])), Err(ProfileError::NoClass));
        let unknown = Profile::find("generous").unwrap_err().to_string();
        assert!(unknown.contains("plugged-in-nights, whenever-plugged-in"), "{unknown}");
    }
}
