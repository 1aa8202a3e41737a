//! Durations as people write them in manifests: `40m`, `1h30m`, `250ms`.
//!
//! Called by `api` (schema pattern), the operator, the adapter and the car, so that one text means one time everywhere. The
//! form is `^([0-9]{1,5}(h|m|s|ms)){1,4}$`: a number always has a unit, and no text of this form can overflow.

use std::fmt::Write as _;
use std::time::Duration;

/// The form of a duration, as the CRDs' schemas state it.
pub const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// The longest duration that [`format`] can write; longer ones are written as this.
pub const LONGEST: Duration = Duration::from_millis((99_999 * 3600 + 59 * 60 + 59) * 1000 + 999);

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is not a duration: write one to four numbers, each with a unit of h, m, s or ms, such as 40m or 1h30m"
)]
pub struct DurationError {
    text: String,
}

/// Reads a duration of the form [`PATTERN`].
///
/// ```
/// use std::time::Duration;
/// assert_eq!(kerbside_core::duration::parse("1m30s").unwrap(), Duration::from_secs(90));
/// assert!(kerbside_core::duration::parse("90").is_err());
/// ```
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let error = || DurationError {
        text: text.chars().take(40).collect(),
    };
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        parts += 1;
        if !(1..=5).contains(&digits) || parts > 4 {
            return Err(error());
        }
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| error())?;
        let (unit, tail) = unit(tail).ok_or_else(error)?;
        total += Duration::from_millis(number * unit);
        rest = tail;
    }
    if parts == 0 { Err(error()) } else { Ok(total) }
}

/// The unit at the start of `text`, in milliseconds, and what follows it. `ms` comes before `m`, which it starts with.
fn unit(text: &str) -> Option<(u64, &str)> {
    [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1000)]
        .into_iter()
        .find_map(|(unit, millis)| text.strip_prefix(unit).map(|rest| (millis, rest)))
}

/// Writes a duration in the form that [`parse`] reads, largest unit first.
///
/// What is finer than a millisecond is cut off; what is longer than [`LONGEST`] is written as that.
pub fn format(duration: Duration) -> String {
    let millis = duration.min(LONGEST).as_millis();
    let parts = [
        (millis / 3_600_000, "h"),
        (millis / 60_000 % 60, "m"),
        (millis / 1000 % 60, "s"),
        (millis % 1000, "ms"),
    ];
    let mut text = String::new();
    for (number, unit) in parts.into_iter().filter(|(number, _)| *number > 0) {
        write!(text, "{number}{unit}").expect("writing to a String cannot fail");
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// For `#[serde(with = "kerbside_core::duration::text")]` on a [`Duration`].
pub mod text {
    use super::Duration;
    use serde::{Deserialize as _, Deserializer, Serializer};

    /// Writes the duration as text.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format(*duration))
    }

    /// Reads the duration from text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// For `#[serde(default, with = "kerbside_core::duration::optional_text")]` on an `Option<Duration>`.
pub mod optional_text {
    use super::Duration;
    use serde::{Deserialize as _, Deserializer, Serializer};

    /// Writes the duration as text, or nothing.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serializer.serialize_some(&super::format(*duration)),
            None => serializer.serialize_none(),
        }
    }

    /// Reads the duration from text, if there is any.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| super::parse(&text).map_err(serde::de::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[rstest::rstest]
    #[case("0s", 0)]
    #[case("250ms", 250)]
    #[case("40m", 2_400_000)]
    #[case("1h30m", 5_400_000)]
    #[case("30m1h", 5_400_000)]
    #[case("1m1ms", 60_001)]
    #[case("99999h99999h99999h99999h", 4 * 99_999 * 3_600_000)]
    fn duration_of_the_form_is_read(#[case] text: &str, #[case] millis: u64) {
        assert_eq!(parse(text).unwrap(), Duration::from_millis(millis));
    }

    #[rstest::rstest]
    #[case("")]
    #[case("10")]
    #[case("s")]
    #[case("-1s")]
    #[case("1.5s")]
    #[case("1 s")]
    #[case("1d")]
    #[case("100000s")]
    #[case("1s1s1s1s1s")]
    #[case("1sms")]
    #[case("1é")]
    fn duration_of_another_form_is_refused_with_advice(#[case] text: &str) {
        let message = parse(text).unwrap_err().to_string();
        assert!(message.contains("such as 40m"), "{message}");
    }

    #[test]
    fn duration_too_long_to_write_is_written_as_the_longest() {
        assert_eq!(format(Duration::MAX), format(LONGEST));
        assert_eq!(parse(&format(LONGEST)).unwrap(), LONGEST);
    }

    proptest! {
        #[test]
        fn duration_printed_and_read_is_the_same(millis in 0..=u64::try_from(LONGEST.as_millis()).unwrap()) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn duration_of_any_text_never_panics(text in "[0-9hms. ]{0,20}") {
            if let Ok(duration) = parse(&text) {
                prop_assert_eq!(parse(&format(duration.min(LONGEST))), Ok(duration.min(LONGEST)));
            }
        }
    }
}
