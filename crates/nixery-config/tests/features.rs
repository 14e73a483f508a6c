//! A setting whose feature is off is refused.

#![cfg(not(all(feature = "s3", feature = "gcs", feature = "http", feature = "lab")))]

use nixery_config::table::{self, Setting};
use nixery_config::{Arguments, Settings};

fn check_refused(setting: &Setting, value: &str, feature: &str) {
    let arguments = Arguments::<Settings>::default().with(setting, value);
    let errors = arguments.settings().expect_err("the feature is off");
    assert_eq!(
        errors.to_string(),
        format!(
            "{setting} is \"{value}\", but this program was built without the feature `{feature}`. Fix: build it with that feature, or use another value"
        )
    );
}

#[cfg(not(feature = "s3"))]
#[test]
fn a_store_in_s3_needs_its_feature() {
    check_refused(table::STORAGE_BACKEND, "s3", "s3");
}

#[cfg(not(feature = "gcs"))]
#[test]
fn a_store_in_gcs_needs_its_feature() {
    check_refused(table::STORAGE_BACKEND, "gcs", "gcs");
}

#[cfg(not(feature = "http"))]
#[test]
fn data_at_a_url_needs_its_feature() {
    check_refused(table::LAYER_PLAN, "https://example.org/plan", "http");
    check_refused(table::POPULARITY_URL, "http://example.org/p", "http");
}

#[cfg(not(feature = "lab"))]
#[test]
fn learned_plans_and_recorded_pulls_need_their_feature() {
    check_refused(table::LAYER_PLAN, "learned", "lab");
    check_refused(table::TRAFFIC_RECORD, "true", "lab");
}
