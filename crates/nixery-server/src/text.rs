//! Times as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// "4.2 s", "3 min 20 s", "1 h 5 min".
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// "just now", "5 min ago", "3 h ago", "2 days ago".
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

/// Date and time in UTC, `2026-02-28T23:59:59Z` (RFC 3339).
pub(crate) fn timestamp(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    // By hand: each line of the log has one.
    let mut text = String::with_capacity("2026-02-28T23:59:59.000001Z".len());
    number(&mut text, year, 4, '-');
    number(&mut text, month, 2, '-');
    number(&mut text, day, 2, 'T');
    number(&mut text, second / 3600, 2, ':');
    number(&mut text, second / 60 % 60, 2, ':');
    number(&mut text, second % 60, 2, 'Z');
    text
}

/// Appends a number with leading zeros, and what follows it.
fn number(text: &mut String, number: u64, digits: u32, end: char) {
    for place in (0..digits).rev() {
        let digit = number / 10_u64.pow(place) % 10;
        text.extend(char::from_digit(u32::try_from(digit).unwrap_or(0), 10));
    }
    text.push(end);
}

/// The same to the microsecond, `2026-02-28T23:59:59.000001Z`.
pub(crate) fn precise_timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut text = timestamp(time);
    text.pop();
    text.push('.');
    number(&mut text, since.subsec_micros().into(), 6, 'Z');
    text
}

/// Year, month and day of a number of days after 1970-01-01, counting years from March, so that the odd day is their
/// last (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    // From 0000-03-01, in eras of 400 years.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let of_month = day - (153 * month + 2) / 5 + 1;
    let next = u64::from(month >= 10);
    (era * 400 + year + next, month + 3 - 12 * next, of_month)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

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
