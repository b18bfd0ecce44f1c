//! Moments as they travel: RFC 3339, and Go's zero time for "none".

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A moment, in milliseconds since 1970-01-01T00:00:00Z; written as RFC 3339.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(i64);

/// 0001-01-01T00:00:00Z, what Go writes for a time that was never set (`time.Time.IsZero`).
const GO_ZERO_MILLIS: i64 = -62_135_596_800_000;
/// 9999-12-30T22:00:00Z: the last moment that has four digits of year in every time zone.
const LAST_MILLIS: i64 = 253_402_207_200_000;

impl Time {
    /// The moment this many milliseconds after 1970; clamped into what RFC 3339 can write.
    pub fn from_millis(millis: i64) -> Time {
        Time(millis.clamp(GO_ZERO_MILLIS, LAST_MILLIS))
    }

    /// Milliseconds since 1970; negative before it.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// Reads RFC 3339; `None` when it is not, or out of its range.
    pub fn parse(text: &str) -> Option<Time> {
        let millis = text.parse::<jiff::Timestamp>().ok()?.as_millisecond();
        (GO_ZERO_MILLIS..=LAST_MILLIS).contains(&millis).then_some(Time(millis))
    }

    /// Whether it is Go's zero, which means "none".
    pub fn is_zero(self) -> bool {
        self.0 == GO_ZERO_MILLIS
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        jiff::Timestamp::from_millisecond(self.0).expect("the constructors keep it in range").fmt(f)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        let text = String::deserialize(deserializer)?;
        Time::parse(&text).ok_or_else(|| de::Error::custom("not an RFC 3339 time"))
    }
}

/// For `#[serde(deserialize_with)]`: Go's zero is none.
pub(crate) fn unless_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Time>, D::Error> {
    Ok(Some(Time::deserialize(deserializer)?).filter(|time| !time.is_zero()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_travel_as_rfc_3339() {
        assert_eq!(Time::from_millis(123_000).to_string(), "1970-01-01T00:02:03Z");
        assert_eq!(Time::parse("1970-01-01T00:02:03Z"), Some(Time::from_millis(123_000)));
        assert_eq!(Time::parse("2026-09-01T02:00:00.25+02:00").unwrap().to_string(), "2026-09-01T00:00:00.25Z");
        assert!(Time::parse("0001-01-01T00:00:00Z").unwrap().is_zero());
        assert_eq!(Time::from_millis(i64::MAX).to_string(), "9999-12-30T22:00:00Z");
        for text in ["", "yesterday", "2026-09-01", "-000001-01-01T00:00:00Z", "2026-13-01T00:00:00Z"] {
            assert_eq!(Time::parse(text), None, "{text}");
        }
    }
}
