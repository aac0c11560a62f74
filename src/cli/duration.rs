//! Reads durations and times: a bare number in the option's own unit, or with units as in `90s`,
//! `10m`, `2h`.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// The longest wait: a moment that lies further ahead cannot be computed on every system.
const LONGEST: Duration = Duration::from_hours(100 * 365 * 24);
const EXPECTED: &str = "expected a number, or a duration such as 90s, 10m or 2h";

/// Reads a duration whose bare number counts milliseconds. Returns milliseconds.
pub(super) fn milliseconds(text: &str) -> Result<u64, &'static str> {
    let duration = duration(text, Duration::from_millis)?;
    u64::try_from(duration.as_millis()).map_err(|_| EXPECTED)
}

/// As [`milliseconds`], at least 1.
pub(super) fn positive_milliseconds(text: &str) -> Result<u64, &'static str> {
    match milliseconds(text)? {
        0 => Err("expected at least one millisecond"),
        some => Ok(some),
    }
}

/// Reads a duration whose bare number counts seconds, at most [`LONGEST`].
pub(super) fn seconds(text: &str) -> Result<Duration, &'static str> {
    match duration(text, Duration::from_secs)? {
        longer if longer > LONGEST => Err("expected at most 100 years"),
        wait => Ok(wait),
    }
}

/// The earliest time that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// So long before now.
    Ago(TimeDelta),
    /// A moment.
    Time(DateTime<Utc>),
}

/// Reads a duration before now, or a time as in RFC 3339.
pub(super) fn since(text: &str) -> Result<Since, &'static str> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(Since::Time(time.to_utc()));
    }
    let ago = humantime::parse_duration(text).ok();
    ago.and_then(|ago| TimeDelta::from_std(ago).ok())
        .filter(|ago| *ago < TimeDelta::days(366_000))
        .map(Since::Ago)
        .ok_or("expected a duration such as 10m or 2h, or a time such as 2026-01-31T12:00:00Z")
}

fn duration(text: &str, of_bare: fn(u64) -> Duration) -> Result<Duration, &'static str> {
    match text.parse() {
        Ok(number) => Ok(of_bare(number)),
        Err(_) => humantime::parse_duration(text).map_err(|_| EXPECTED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_has_the_options_unit_and_a_suffix_says_its_own() {
        assert_eq!(milliseconds("1500"), Ok(1500));
        assert_eq!(seconds("90"), Ok(Duration::from_secs(90)));
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7200), ("1h 30m", 5400)] {
            assert_eq!(milliseconds(text), Ok(seconds * 1000), "{text}");
            assert_eq!(super::seconds(text), Ok(Duration::from_secs(seconds)));
        }
        assert_eq!(milliseconds("250ms"), Ok(250));
        for text in ["", "-1", "ten", "10 parsecs", "1e9", "99999999999999999999"] {
            assert_eq!(milliseconds(text), Err(EXPECTED), "{text}");
            assert_eq!(seconds(text), Err(EXPECTED), "{text}");
        }
        assert!(positive_milliseconds("0").is_err());
        assert!(seconds("100 years").is_err() && seconds(&u64::MAX.to_string()).is_err());
    }

    #[test]
    fn a_beginning_is_an_age_or_a_time() {
        assert_eq!(since("2h"), Ok(Since::Ago(TimeDelta::hours(2))));
        let time = since("1970-01-01T01:00:00+01:00");
        assert_eq!(time, Ok(Since::Time(DateTime::UNIX_EPOCH)));
        for text in ["", "yesterday", "9999999999y"] {
            assert!(since(text).is_err(), "{text}");
        }
    }
}
