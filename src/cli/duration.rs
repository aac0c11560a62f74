//! Reads durations and times: a bare number in the option's own unit, or with units as in `90s`,
//! `10m`, `2h`.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// The longest wait: a moment that lies further ahead cannot be computed on every system.
const LONGEST: Duration = Duration::from_hours(100 * 365 * 24);

/// Why a text is no duration or time.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(super) enum InvalidDuration {
    #[error("expected a number, or a duration such as 90s, 10m or 2h")]
    Unreadable(#[source] Option<humantime::DurationError>),
    #[error("expected at least one millisecond")]
    Zero,
    #[error("expected at most 100 years")]
    TooLong,
    #[error("expected a duration such as 10m or 2h, or a time such as 2026-01-31T12:00:00Z")]
    NoTime,
}

/// The value of `--ttl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeToLive {
    /// Its length in milliseconds.
    pub milliseconds: u64,
    /// Whether it was given as a number without a unit.
    is_bare: bool,
}

impl TimeToLive {
    /// A remark about a number that was probably meant in seconds, as that of `--timeout` is.
    pub fn remark(self) -> Option<String> {
        let number = self.milliseconds;
        (self.is_bare && (1..1000).contains(&number)).then(|| {
            let unit = if number == 1 {
                "millisecond"
            } else {
                "milliseconds"
            };
            format!("--ttl {number} is {number} {unit}; write {number}s for seconds")
        })
    }
}

/// Reads a time to live, whose bare number counts milliseconds.
pub(super) fn time_to_live(text: &str) -> Result<TimeToLive, InvalidDuration> {
    let milliseconds = duration(text, Duration::from_millis)?.as_millis();
    Ok(TimeToLive {
        milliseconds: u64::try_from(milliseconds).map_err(|_| InvalidDuration::Unreadable(None))?,
        is_bare: text.parse::<u64>().is_ok(),
    })
}

/// As [`time_to_live`], at least a millisecond.
pub(super) fn positive_time_to_live(text: &str) -> Result<TimeToLive, InvalidDuration> {
    match time_to_live(text)? {
        TimeToLive {
            milliseconds: 0, ..
        } => Err(InvalidDuration::Zero),
        some => Ok(some),
    }
}

/// Reads a duration whose bare number counts seconds, at most [`LONGEST`].
pub(super) fn seconds(text: &str) -> Result<Duration, InvalidDuration> {
    match duration(text, Duration::from_secs)? {
        longer if longer > LONGEST => Err(InvalidDuration::TooLong),
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
pub(super) fn since(text: &str) -> Result<Since, InvalidDuration> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(Since::Time(time.to_utc()));
    }
    let ago = humantime::parse_duration(text).ok();
    ago.and_then(|ago| TimeDelta::from_std(ago).ok())
        .filter(|ago| *ago < TimeDelta::days(366_000))
        .map(Since::Ago)
        .ok_or(InvalidDuration::NoTime)
}

fn duration(text: &str, of_bare: fn(u64) -> Duration) -> Result<Duration, InvalidDuration> {
    match text.parse() {
        Ok(number) => Ok(of_bare(number)),
        Err(_) => humantime::parse_duration(text)
            .map_err(|error| InvalidDuration::Unreadable(Some(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_has_the_options_unit_and_a_suffix_says_its_own() {
        let milliseconds = |text: &str| time_to_live(text).map(|ttl| ttl.milliseconds);
        assert_eq!(milliseconds("1500"), Ok(1500));
        assert_eq!(seconds("90"), Ok(Duration::from_secs(90)));
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7200), ("1h 30m", 5400)] {
            assert_eq!(milliseconds(text), Ok(seconds * 1000), "{text}");
            assert_eq!(super::seconds(text), Ok(Duration::from_secs(seconds)));
        }
        assert_eq!(milliseconds("250ms"), Ok(250));
        for text in ["", "-1", "ten", "10 parsecs", "1e9", "99999999999999999999"] {
            let unreadable = |error| matches!(error, InvalidDuration::Unreadable(_));
            assert!(milliseconds(text).is_err_and(unreadable), "{text}");
            assert!(seconds(text).is_err_and(unreadable), "{text}");
        }
        assert!(positive_time_to_live("0").is_err());
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
