//! Reads the `Range` header of a blob request (RFC 9110, section 14).

use http::HeaderMap;
use http::header::{IF_RANGE, RANGE};

/// The bytes of a blob to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Selection {
    /// The whole blob: there is no range, or one that this server need not honour.
    Whole,
    /// The bytes from `start` up to and without `end`.
    Part {
        /// First byte.
        start: u64,
        /// One past the last byte; always greater than `start`.
        end: u64,
    },
    /// A valid range outside of this blob.
    Unsatisfiable,
}

/// Selects the bytes that a GET with these headers gets of a blob of `size` bytes with the entity
/// tag `etag`.
///
/// A range is only honoured if it is the only one, well formed, in bytes, and without an `If-Range`
/// that names other contents. Everything else means the whole blob, as the RFC allows.
#[must_use]
pub(crate) fn select(headers: &HeaderMap, size: u64, etag: &str) -> Selection {
    let mut values = headers.get_all(RANGE).iter();
    let (Some(range), None) = (values.next(), values.next()) else {
        return Selection::Whole;
    };
    // Blobs carry no date, so an `If-Range` with one can only fail; a weak tag never matches.
    if headers
        .get_all(IF_RANGE)
        .iter()
        .any(|tag| tag.as_bytes() != etag.as_bytes())
    {
        return Selection::Whole;
    }
    range
        .to_str()
        .ok()
        .and_then(|range| parse(range, size))
        .unwrap_or(Selection::Whole)
}

/// Reads the value of a `Range` header of a blob of `size` bytes.
fn parse(value: &str, size: u64) -> Option<Selection> {
    let (unit, set) = value.split_once('=')?;
    let (first, last) = set.trim().split_once('-')?;
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !unit.trim().eq_ignore_ascii_case("bytes") || !is_number(first) || !is_number(last) {
        return None;
    }
    // A number that does not fit saturates, as it is past the end of every blob.
    let number = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX));
    match (number(first), number(last)) {
        (None, None) => None,
        (Some(first), Some(last)) if first > last => None,
        (Some(start), _) if start >= size => Some(Selection::Unsatisfiable),
        (Some(start), last) => Some(Selection::Part {
            start,
            end: last.map_or(size, |last| last.saturating_add(1).min(size)),
        }),
        (None, Some(0)) => Some(Selection::Unsatisfiable),
        (None, Some(_)) if size == 0 => None,
        (None, Some(length)) => Some(Selection::Part {
            start: size.saturating_sub(length),
            end: size,
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const fn part(start: u64, end: u64) -> Selection {
        Selection::Part { start, end }
    }

    #[rstest]
    #[case::first_bytes("bytes=0-3", part(0, 4))]
    #[case::one_byte("bytes=9-9", part(9, 10))]
    #[case::open_end("bytes=4-", part(4, 10))]
    #[case::end_past_the_blob("bytes=4-4000", part(4, 10))]
    #[case::suffix("bytes=-3", part(7, 10))]
    #[case::suffix_longer_than_the_blob("bytes=-30", part(0, 10))]
    #[case::huge_last("bytes=0-99999999999999999999999", part(0, 10))]
    #[case::unit_in_capitals("BYTES=0-3", part(0, 4))]
    #[case::start_at_the_end("bytes=10-", Selection::Unsatisfiable)]
    #[case::huge_start("bytes=99999999999999999999999-", Selection::Unsatisfiable)]
    #[case::empty_suffix("bytes=-0", Selection::Unsatisfiable)]
    #[case::several("bytes=0-1,4-5", Selection::Whole)]
    #[case::backwards("bytes=5-4", Selection::Whole)]
    #[case::other_unit("lines=0-1", Selection::Whole)]
    #[case::no_unit("0-1", Selection::Whole)]
    #[case::nothing("bytes=-", Selection::Whole)]
    #[case::words("bytes=a-b", Selection::Whole)]
    #[case::words_after_the_end("bytes=20-b", Selection::Whole)]
    #[case::sign("bytes=+1-2", Selection::Whole)]
    #[case::spaces_inside("bytes=1 - 2", Selection::Whole)]
    fn reads_ranges_of_ten_bytes(#[case] value: &str, #[case] expected: Selection) {
        assert_eq!(parse(value, 10).unwrap_or(Selection::Whole), expected);
    }

    #[rstest]
    #[case("bytes=0-0", Selection::Unsatisfiable)]
    #[case("bytes=0-", Selection::Unsatisfiable)]
    #[case("bytes=-1", Selection::Whole)]
    fn an_empty_blob_has_no_first_byte(#[case] value: &str, #[case] expected: Selection) {
        assert_eq!(parse(value, 0).unwrap_or(Selection::Whole), expected);
    }

    #[rstest]
    #[case::same(Some("\"a\""), part(0, 1))]
    #[case::absent(None, part(0, 1))]
    #[case::other(Some("\"b\""), Selection::Whole)]
    #[case::weak(Some("W/\"a\""), Selection::Whole)]
    #[case::date(Some("Tue, 15 Nov 1994 12:45:26 GMT"), Selection::Whole)]
    fn if_range_must_name_the_same_contents(
        #[case] if_range: Option<&'static str>,
        #[case] expected: Selection,
    ) {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, http::HeaderValue::from_static("bytes=0-0"));
        if let Some(value) = if_range {
            headers.insert(IF_RANGE, http::HeaderValue::from_static(value));
        }
        assert_eq!(select(&headers, 10, "\"a\""), expected);
    }

    proptest! {
        #[test]
        fn a_part_is_never_empty_and_never_leaves_the_blob(value in "(bytes=)?[0-9]{0,21}-?[0-9]{0,21}", size: u64) {
            if let Some(Selection::Part { start, end }) = parse(&value, size) {
                prop_assert!(start < end && end <= size);
            }
        }
    }
}
