//! Reads durations: a bare number in the option's own unit, or with units as in `90s`, `10m`, `2h`.

use std::time::Duration;

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

/// Reads a duration whose bare number counts seconds.
pub(super) fn seconds(text: &str) -> Result<Duration, &'static str> {
    duration(text, Duration::from_secs)
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
    }
}
