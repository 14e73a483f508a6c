//! Times as image configs write them.

/// Is `text` a date and time of RFC 3339, `2026-02-28T23:59:59.5+01:00`?
///
/// Go programs refuse to read a config with any other. Their parser wants a capital `T` and `Z`,
/// two digits everywhere, and knows no leap seconds.
pub(crate) fn is_rfc3339(text: &str) -> bool {
    parse(text.as_bytes()).is_some()
}

fn parse(text: &[u8]) -> Option<()> {
    let (year, text) = number(text, 4)?;
    let (month, text) = number(literal(text, b'-')?, 2)?;
    let (day, text) = number(literal(text, b'-')?, 2)?;
    let (hour, text) = number(literal(text, b'T')?, 2)?;
    let (minute, text) = number(literal(text, b':')?, 2)?;
    let (second, text) = number(literal(text, b':')?, 2)?;
    let in_range = (1..=12).contains(&month)
        && (1..=days(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    (in_range && is_zone(fraction(text)?)).then_some(())
}

fn number(text: &[u8], digits: usize) -> Option<(u32, &[u8])> {
    let (head, rest) = text.split_at_checked(digits)?;
    let value = head.iter().try_fold(0, |value, byte| {
        byte.is_ascii_digit()
            .then(|| value * 10 + u32::from(byte - b'0'))
    })?;
    Some((value, rest))
}

fn literal(text: &[u8], expected: u8) -> Option<&[u8]> {
    let (first, rest) = text.split_first()?;
    (*first == expected).then_some(rest)
}

/// Skips an optional fraction of a second.
fn fraction(text: &[u8]) -> Option<&[u8]> {
    let Some(rest) = literal(text, b'.') else {
        return Some(text);
    };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (digits > 0).then(|| &rest[digits..])
}

fn is_zone(text: &[u8]) -> bool {
    let offset = match text {
        b"Z" => return true,
        [b'+' | b'-', offset @ ..] => offset,
        _ => return false,
    };
    let parsed = number(offset, 2).and_then(|(hours, rest)| {
        let (minutes, rest) = number(literal(rest, b':')?, 2)?;
        Some((hours, minutes, rest))
    });
    matches!(parsed, Some((0..24, 0..60, [])))
}

fn days(year: u32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => {
            29
        }
        2 => 28,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::is_rfc3339;
    use rstest::rstest;

    #[rstest]
    #[case("1970-01-01T00:00:01Z", true)]
    #[case("2024-02-29T23:59:59.123456789+05:30", true)]
    #[case("2026-02-29T00:00:00Z", false)]
    #[case("2000-02-29T00:00:00Z", true)]
    #[case("1900-02-29T00:00:00Z", false)]
    #[case("2026-13-01T00:00:00Z", false)]
    #[case("2026-04-31T00:00:00Z", false)]
    #[case("2026-01-01T24:00:00Z", false)]
    #[case("2026-01-01T00:00:60Z", false)]
    #[case("2026-01-01T00:00:00.Z", false)]
    #[case("2026-01-01T00:00:00", false)]
    #[case("2026-01-01T00:00:00+0100", false)]
    #[case("2026-01-01T00:00:00+01:00x", false)]
    #[case("2026-01-01t00:00:00z", false)]
    #[case("2026-01-01", false)]
    #[case("", false)]
    #[case("now", false)]
    fn accepts_what_go_reads(#[case] text: &str, #[case] valid: bool) {
        assert_eq!(is_rfc3339(text), valid, "{text}");
    }
}
