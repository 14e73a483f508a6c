//! Environment variables that look like settings and are not.

use std::ffi::OsString;

use crate::table::SETTINGS;

/// The prefix of all variables of this project, except those of the original.
const PREFIX: &str = "NIXERY_";
/// Variables that the scripts and tests of the project read.
const OTHERS: [&str; 2] = ["NIXERY_BENCH_ROUNDS", "NIXERY_TEST"];
/// Least similarity of a name that is suggested.
const MIN_SIMILARITY: f64 = 0.6;

/// Returns a warning for each environment variable that begins with `NIXERY_` and is not a setting,
/// with the setting whose name is the most similar.
#[must_use]
pub fn unknown_variables() -> Vec<String> {
    let text = |value: OsString| value.to_string_lossy().into_owned();
    unknown_among(std::env::vars_os().map(|(name, value)| (text(name), text(value))))
}

fn unknown_among(environment: impl IntoIterator<Item = (String, String)>) -> Vec<String> {
    let mut unknown: Vec<_> = environment
        .into_iter()
        .filter(|(name, value)| {
            name.starts_with(PREFIX)
                && !OTHERS.contains(&name.as_str())
                && SETTINGS.iter().all(|setting| setting.variable != name)
                && !is_kubernetes_service(name, value)
        })
        .map(|(name, _)| {
            let fix = nearest(&name).map_or_else(
                || "unset it".to_owned(),
                |known| format!("rename it to {known}"),
            );
            format!("{name} is set, but there is no such setting. Fix: {fix}")
        })
        .collect();
    unknown.sort_unstable();
    unknown
}

/// Returns the setting with the most similar name. The prefix is ignored, as the original's
/// settings do not have it.
fn nearest(name: &str) -> Option<&'static str> {
    let similarity = |known: &str| {
        let [name, known] = [name, known].map(|name| name.trim_start_matches(PREFIX));
        strsim::normalized_damerau_levenshtein(name, known)
    };
    SETTINGS
        .iter()
        .map(|setting| (similarity(setting.variable), setting.variable))
        .filter(|(similarity, _)| *similarity >= MIN_SIMILARITY)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, variable)| variable)
}

/// Whether Kubernetes sets this variable for a service that is called `nixery`.
fn is_kubernetes_service(name: &str, value: &str) -> bool {
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_")
        || value.starts_with("tcp://")
        || value.starts_with("udp://")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("NIXERY_PORT", "8080", Some("rename it to PORT"))]
    #[case("NIXERY_STORAGE_PATH", "/x", Some("rename it to STORAGE_PATH"))]
    #[case("NIXERY_LAYER_BUGDET", "9", Some("rename it to NIXERY_LAYER_BUDGET"))]
    #[case("NIXERY_FROBNICATE", "", Some("unset it"))]
    #[case("NIXERY_CHANNEL", "x", None)]
    #[case("CHANNEL", "x", None)]
    #[case("NIXERY_PORT", "tcp://10.0.0.1:8080", None)]
    #[case("NIXERY_PORT_8080_TCP_ADDR", "10.0.0.1", None)]
    #[case("NIXERY_SERVICE_HOST", "10.0.0.1", None)]
    fn what_looks_like_a_setting_is_reported(
        #[case] name: &str,
        #[case] value: &str,
        #[case] fix: Option<&str>,
    ) {
        let found = unknown_among([(name.to_owned(), value.to_owned())]);
        let found = found.first().and_then(|line| line.split_once("Fix: "));
        assert_eq!(found.map(|(_, fix)| fix), fix);
    }
}
