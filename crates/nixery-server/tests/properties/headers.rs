//! Properties of any bytes as the headers `Range`, `If-Range` and `Accept`.

use http::header::{ACCEPT, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue};
use nixery_manifest::Family;

use crate::negotiate::preference;
use crate::range::{Selection, select};

const ETAG: &str = "\"etag\"";
/// No bytes, one byte, and sizes around which sums may overflow.
const SIZES: [u64; 5] = [0, 1, 1000, u64::MAX - 1, u64::MAX];

/// Panics if a property does not hold. Each line is a value of every header.
pub(crate) fn check(data: &[u8]) {
    let mut accepted = HeaderMap::new();
    for line in data.split(|&byte| byte == b'\n') {
        let Ok(value) = HeaderValue::from_bytes(line) else {
            continue;
        };
        for size in SIZES {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, value.clone());
            let selected = select(&headers, size, ETAG);
            within(selected, size);
            // Of two ranges, and for other contents, the whole blob is sent.
            headers.append(RANGE, value.clone());
            assert_eq!(select(&headers, size, ETAG), Selection::Whole);
            headers.insert(RANGE, value.clone());
            headers.insert(IF_RANGE, HeaderValue::from_static("\"other\""));
            assert_eq!(select(&headers, size, ETAG), Selection::Whole);
        }
        accepted.append(ACCEPT, value);
        let preference = preference(&accepted);
        assert!(preference.oci || preference.first == Family::Docker);
    }
}

fn within(selection: Selection, size: u64) {
    if let Selection::Part { start, end } = selection {
        assert!(start < end && end <= size, "{start}..{end} of {size}");
    }
}
