//! Reads the query parameters that this server knows; all others are passed along or ignored.

use percent_encoding::percent_decode_str;

/// Returns the value of the first parameter with this name, decoded.
///
/// A percent sign that starts no escape stays as it is, and bytes that are not UTF-8 become `�`.
#[must_use]
pub(crate) fn value(query: Option<&str>, name: &str) -> Option<String> {
    values(query, name).next()
}

/// Returns the values of all parameters with this name, decoded as [`value`] does.
pub(crate) fn values<'a>(query: Option<&'a str>, name: &'a str) -> impl Iterator<Item = String> {
    pairs(query)
        .filter(move |(key, _)| *key == name)
        .map(|(_, value)| percent_decode_str(value).decode_utf8_lossy().into_owned())
}

/// Returns the query of a redirect: `ours` first, as they are, then the request's other parameters
/// unchanged.
///
/// Mirrors add parameters of their own to requests (`?ns=docker.io`) and need them back.
#[must_use]
pub(crate) fn rewrite(query: Option<&str>, ours: &[(&str, &str)], dropped: &[&str]) -> String {
    let mut parts: Vec<String> = ours
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    for pair in query.unwrap_or_default().split('&') {
        let name = pair.split('=').next().unwrap_or_default();
        let replaced = ours.iter().any(|(ours, _)| *ours == name);
        if !pair.is_empty() && !replaced && !dropped.contains(&name) {
            parts.push(pair.to_owned());
        }
    }
    parts.join("&")
}

fn pairs(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    query
        .unwrap_or_default()
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("hold=3", Some("3"))]
    #[case("ns=docker.io&hold=3&hold=4", Some("3"))]
    #[case("hold", Some(""))]
    #[case("hold=%33%", Some("3%"))]
    #[case("hold=%ff", Some("\u{fffd}"))]
    #[case("held=3", None)]
    #[case("", None)]
    fn reads_the_first_of_a_name(#[case] query: &str, #[case] expected: Option<&str>) {
        assert_eq!(value(Some(query), "hold").as_deref(), expected);
    }

    #[rstest]
    #[case(None, "hold=2")]
    #[case(Some("hold=1"), "hold=2")]
    #[case(Some("ns=docker.io&hold=1&log=x&a"), "hold=2&ns=docker.io&a")]
    fn a_redirect_keeps_what_it_does_not_know(#[case] query: Option<&str>, #[case] expected: &str) {
        assert_eq!(rewrite(query, &[("hold", "2")], &["log"]), expected);
    }

    proptest! {
        #[test]
        fn any_query_is_read(query in "[ -~]{0,60}") {
            let _ = value(Some(&query), "n");
        }
    }
}
