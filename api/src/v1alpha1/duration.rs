//! Durations as people write them, `1h30m`, kept as written.
//!
//! Used by every spec with a time in it. A value of this type always parses: [`Duration::get`] cannot fail.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use kerbside_core::duration::{DurationError, PATTERN, parse};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A length of time, narrower than Go's and CEL's durations, so that both read whatever this reads: up to four numbers
/// of up to five digits, each with its unit `h`, `m`, `s` or `ms`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration {
    text: String,
    value: std::time::Duration,
}

impl Duration {
    /// The length of time.
    pub fn get(&self) -> std::time::Duration {
        self.value
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// A default that stands in the code.
    pub(crate) fn literal(text: &'static str) -> Self {
        text.parse()
            .expect("defaults in the code are durations; a test reads each")
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        Ok(Self {
            text: text.to_owned(),
            value: parse(text)?,
        })
    }
}

impl TryFrom<String> for Duration {
    type Error = DurationError;

    fn try_from(text: String) -> Result<Self, DurationError> {
        let value = parse(&text)?;
        Ok(Self { text, value })
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> Self {
        duration.text
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Four times five digits and two letters: the bound lets CEL rules parse it within their budget.
        json_schema!({"type": "string", "pattern": PATTERN, "maxLength": 28})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_round_trips_as_written() {
        let duration: Duration = serde_json::from_str("\"90m0s\"").unwrap();
        assert_eq!(duration.get(), std::time::Duration::from_secs(5400));
        assert_eq!(serde_json::to_string(&duration).unwrap(), "\"90m0s\"");
    }

    #[rstest::rstest]
    #[case("")]
    #[case("10")]
    #[case("1.5h")]
    #[case("-5s")]
    #[case("123456s")]
    #[case("1d")]
    fn duration_outside_the_pattern_is_refused(#[case] text: &str) {
        assert!(text.parse::<Duration>().is_err());
    }

    #[test]
    fn duration_of_the_largest_pattern_is_read() {
        let largest: Duration = "99999h99999h99999h99999h".parse().unwrap();
        assert_eq!(largest.get().as_secs(), 4 * 99_999 * 3600);
    }
}
