//! Formats times and texts for people.

use std::borrow::Cow;
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

/// Writes characters that cannot be seen as escapes, such as `\u{202e}`: those that change the
/// direction of text, that have no width, or that control a terminal. Line feeds and tabs stay.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find(is_invisible) else {
        return Cow::Borrowed(text);
    };
    let (before, from) = text.split_at(first);
    let mut shown = String::with_capacity(text.len() + 16);
    shown.push_str(before);
    for c in from.chars() {
        if is_invisible(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Whether a character is not seen itself and may change how others are seen.
fn is_invisible(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        // Soft hyphen, Arabic letter mark, Mongolian vowel separator.
        '\u{ad}' | '\u{61c}' | '\u{180e}'
        // No width, marks of direction, separators of lines, embeddings and overrides.
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        // Joiners, invisible operators, isolates, and their deprecated neighbours.
        | '\u{2060}'..='\u{206f}'
        // Byte order mark, interlinear annotations, tags.
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => true,
        c => c.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
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

    #[rstest]
    #[case("", "")]
    #[case("two lines\n\tand a tab", "two lines\n\tand a tab")]
    #[case("Grüße, שלום, 你好 🙂", "Grüße, שלום, 你好 🙂")]
    #[case("a\u{202e}txt.exe", "a\\u{202e}txt.exe")]
    #[case("\u{61c}\u{200e}\u{200f}", "\\u{61c}\\u{200e}\\u{200f}")]
    #[case("\u{202a}\u{202d}", "\\u{202a}\\u{202d}")]
    #[case("\u{2066}a\u{2069}", "\\u{2066}a\\u{2069}")]
    #[case("\u{feff}a\u{200b}b\u{ad}c", "\\u{feff}a\\u{200b}b\\u{ad}c")]
    #[case("\u{1b}[31mred\u{7}\r\n", "\\u{1b}[31mred\\u{7}\\u{d}\n")]
    #[case("\0\u{7f}\u{9b}", "\\u{0}\\u{7f}\\u{9b}")]
    fn characters_that_cannot_be_seen_are_escaped(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(visible(text), expected);
    }

    fn any_character() -> impl Strategy<Value = char> {
        prop_oneof![
            any::<char>(),
            (0..0x100_u32).prop_filter_map("a character", char::from_u32),
            (0x2000..0x2070_u32).prop_filter_map("a character", char::from_u32),
        ]
    }

    proptest! {
        #[test]
        fn no_text_has_invisible_characters_afterwards(
            characters in proptest::collection::vec(any_character(), 0..40)
        ) {
            let text: String = characters.iter().collect();
            let shown = visible(&text);
            prop_assert!(!shown.contains(is_invisible));
            if !text.contains(is_invisible) {
                prop_assert_eq!(shown, text.as_str());
            }
        }
    }
}
