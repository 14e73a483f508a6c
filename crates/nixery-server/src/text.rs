//! Formats times for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Formats a duration: "4.2 s", "3 min 20 s", "1 h 5 min".
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Formats a time in the past: "just now", "5 min ago", "3 h ago", "2 days ago".
pub(crate) fn ago(since: Duration) -> String {
    let minutes = since.as_secs() / 60;
    match minutes {
        0 => "just now".to_owned(),
        1..60 => format!("{minutes} min ago"),
        60..1440 => format!("{} h ago", minutes / 60),
        1440..2880 => "1 day ago".to_owned(),
        _ => format!("{} days ago", minutes / 1440),
    }
}

/// Formats a date and time in UTC, `2026-02-28T23:59:59Z` (RFC 3339).
pub(crate) fn timestamp(time: SystemTime) -> String {
    // The library panics before 1970, where a clock that is not set may be.
    humantime::format_rfc3339_seconds(time.max(UNIX_EPOCH)).to_string()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0, "1970-01-01T00:00:00Z")]
    #[case(951_782_399, "2000-02-28T23:59:59Z")]
    #[case(951_782_400, "2000-02-29T00:00:00Z")]
    #[case(951_868_800, "2000-03-01T00:00:00Z")]
    #[case(1_798_761_599, "2026-12-31T23:59:59Z")]
    #[case(4_107_542_400, "2100-03-01T00:00:00Z")]
    fn times_are_written_in_utc(#[case] seconds: u64, #[case] expected: &str) {
        assert_eq!(
            timestamp(UNIX_EPOCH + Duration::from_secs(seconds)),
            expected
        );
    }

    #[rstest]
    #[case(400, "0.4 s", "just now")]
    #[case(42_000, "42 s", "just now")]
    #[case(200_000, "3 min 20 s", "3 min ago")]
    #[case(3_900_000, "1 h 5 min", "1 h ago")]
    #[case(90_000_000, "25 h 0 min", "1 day ago")]
    #[case(200_000_000, "55 h 33 min", "2 days ago")]
    fn durations_are_rounded_for_reading(
        #[case] milliseconds: u64,
        #[case] long: &str,
        #[case] since: &str,
    ) {
        let value = Duration::from_millis(milliseconds);
        assert_eq!(duration(value), long);
        assert_eq!(ago(value), since);
    }
}
