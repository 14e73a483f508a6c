//! Settings of all stores, as tables.

use std::ffi::OsString;

use nixery_storage::{RemoteLimits, S3Addressing};
use rstest::rstest;

use super::*;
use crate::Arguments;
use crate::table::{
    GCS_ANONYMOUS, GCS_BUCKET, GCS_ENDPOINT, GCS_PREFIX, S3_ADDRESSING, S3_BUCKET, S3_ENDPOINT,
    S3_PREFIX, S3_PUBLIC_ENDPOINT, S3_REGION,
};

fn environment(variables: &[(&'static str, &'static str)]) -> impl Fn(&str) -> Option<OsString> {
    let variables = variables.to_vec();
    move |name| {
        let found = variables.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| OsString::from(value))
    }
}

type StorageArguments = Arguments<StorageSettings>;

fn s3_arguments() -> StorageArguments {
    StorageArguments::default()
        .with(STORAGE_BACKEND, "s3")
        .with(S3_BUCKET, "images")
        .with(S3_REGION, "eu-central-1")
}

fn gcs_arguments() -> StorageArguments {
    StorageArguments::default()
        .with(STORAGE_BACKEND, "gcs")
        .with(GCS_BUCKET, "images")
}

fn s3_config(arguments: &StorageArguments, variables: &[(&'static str, &'static str)]) -> S3Config {
    match arguments
        .settings_in(&environment(variables))
        .unwrap()
        .backend
    {
        StorageBackend::S3(config) => config,
        other => panic!("{other:?}"),
    }
}

fn gcs_config(
    arguments: &StorageArguments,
    variables: &[(&'static str, &'static str)],
) -> GcsConfig {
    match arguments
        .settings_in(&environment(variables))
        .unwrap()
        .backend
    {
        StorageBackend::Gcs(config) => config,
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case::service(&[("STATE_DIRECTORY", "/var/lib/n"), ("HOME", "/root")], "/var/lib/n")]
#[case::data_home(&[("XDG_DATA_HOME", "/d"), ("HOME", "/home/a")], "/d/nixery")]
#[case::home(&[("HOME", "/home/a")], "/home/a/.local/share/nixery")]
#[case::relative_is_ignored(&[("XDG_DATA_HOME", "d"), ("HOME", "/home/a")], "/home/a/.local/share/nixery")]
#[case::no_home(&[("HOME", "/")], "/var/lib/nixery")]
#[case::nothing(&[], "/var/lib/nixery")]
fn the_default_folder_follows_conventions(
    #[case] variables: &[(&'static str, &'static str)],
    #[case] expected: &str,
) {
    let settings = StorageArguments::default().settings_in(&environment(variables));
    let settings = settings.unwrap();
    assert_eq!(
        settings.backend.to_string(),
        format!("filesystem {expected}")
    );
    assert_eq!(settings.spool, PathBuf::from(expected).join("spool"));
    // A remote store has its spool in the same place.
    let settings = s3_arguments().settings_in(&environment(variables)).unwrap();
    assert_eq!(settings.spool, PathBuf::from(expected).join("spool"));
}

#[rstest]
#[case::backend(s3_arguments().with(STORAGE_BACKEND, "tape"), "NIXERY_STORAGE_BACKEND (--storage-backend) is \"tape\"; allowed: filesystem, s3, gcs")]
#[case::s3_bucket_missing(s3_arguments().with(S3_BUCKET, " "), "NIXERY_S3_BUCKET (--s3-bucket) is not set; needed: the name of the bucket")]
#[case::s3_bucket(s3_arguments().with(S3_BUCKET, "s3://images"), "NIXERY_S3_BUCKET (--s3-bucket) is \"s3://images\"; allowed: a bucket's name")]
#[case::s3_prefix(s3_arguments().with(S3_PREFIX, "a/../b"), "NIXERY_S3_PREFIX (--s3-prefix) is \"a/../b\"; allowed: names such as")]
#[case::s3_prefix_twice(s3_arguments().with(S3_PREFIX, "a//b"), "NIXERY_S3_PREFIX")]
#[case::s3_endpoint(s3_arguments().with(S3_ENDPOINT, "minio:9000"), "NIXERY_S3_ENDPOINT (--s3-endpoint) is \"minio:9000\"; allowed: http:// or https://")]
#[case::s3_public_endpoint(s3_arguments().with(S3_PUBLIC_ENDPOINT, "https://h/p"), "NIXERY_S3_PUBLIC_ENDPOINT (--s3-public-endpoint) is \"https://h/p\"")]
#[case::s3_region(s3_arguments().with(S3_REGION, "eu central"), "NIXERY_S3_REGION (--s3-region) is \"eu central\"; allowed: a region's name")]
#[case::s3_region_missing(s3_arguments().with(S3_REGION, ""), "NIXERY_S3_REGION (--s3-region) is not set; needed: the bucket's region")]
#[case::s3_addressing(s3_arguments().with(S3_ADDRESSING, "dns"), "NIXERY_S3_ADDRESSING (--s3-addressing) is \"dns\"; allowed: path, virtual")]
#[case::gcs_bucket_missing(gcs_arguments().with(GCS_BUCKET, ""), "GCS_BUCKET (--gcs-bucket) is not set; needed: the name of the bucket")]
#[case::gcs_prefix(gcs_arguments().with(GCS_PREFIX, "a b"), "NIXERY_GCS_PREFIX (--gcs-prefix) is \"a b\"")]
#[case::gcs_endpoint(gcs_arguments().with(GCS_ENDPOINT, "ftp://h"), "NIXERY_GCS_ENDPOINT (--gcs-endpoint) is \"ftp://h\"")]
#[case::gcs_anonymous(gcs_arguments().with(GCS_ANONYMOUS, "maybe"), "NIXERY_GCS_ANONYMOUS (--gcs-anonymous) is \"maybe\"; allowed: true, false, 1, 0")]
#[case::gcs_credentials(gcs_arguments().with(GCS_CREDENTIALS, "/no/such.json"), "GOOGLE_APPLICATION_CREDENTIALS (--gcs-credentials) is \"/no/such.json\"; allowed: a file that exists")]
#[case::timeout(s3_arguments().with(STORAGE_TIMEOUT, "0"), "NIXERY_STORAGE_TIMEOUT (--storage-timeout) is \"0\"; allowed: a time from 1s to 10m")]
#[case::attempts(gcs_arguments().with(STORAGE_ATTEMPTS, "0"), "NIXERY_STORAGE_ATTEMPTS (--storage-attempts) is \"0\"; allowed: a whole number from 1 to 100")]
fn wrong_and_missing_values_are_refused_by_name(
    #[case] arguments: StorageArguments,
    #[case] expected: &str,
) {
    let errors = arguments.settings_in(&environment(&[])).unwrap_err();
    assert_eq!(errors.0.len(), 1, "{errors}");
    assert!(errors.to_string().contains(expected), "{errors}");
}

#[test]
fn everything_that_is_wrong_is_reported_at_once() {
    let arguments = StorageArguments::default()
        .with(STORAGE_BACKEND, "s3")
        .with(STORAGE_ATTEMPTS, "many")
        .with(S3_PREFIX, "..")
        .with(S3_ADDRESSING, "dns");
    let errors = arguments.settings_in(&environment(&[])).unwrap_err();
    // Bucket and region are missing.
    assert_eq!(errors.0.len(), 5, "{errors}");
}

#[test]
fn a_password_in_an_endpoint_is_not_repeated() {
    let arguments = s3_arguments().with(S3_ENDPOINT, "https://u:hunter2@h");
    let errors = arguments.settings_in(&environment(&[])).unwrap_err();
    assert!(!errors.to_string().contains("hunter2"), "{errors}");
}

#[test]
fn every_setting_of_s3_reaches_its_place() {
    let arguments = s3_arguments()
        .with(S3_PREFIX, "/team/nixery/")
        .with(S3_ENDPOINT, "http://10.0.0.1:8333/")
        .with(S3_PUBLIC_ENDPOINT, "https://blobs.example.org")
        .with(S3_ADDRESSING, "virtual")
        .with(STORAGE_TIMEOUT, "7")
        .with(STORAGE_ATTEMPTS, "3");
    let config = s3_config(&arguments, &[]);
    assert_eq!(
        (config.bucket.as_str(), config.prefix.as_str()),
        ("images", "team/nixery")
    );
    assert_eq!(config.endpoint.as_deref(), Some("http://10.0.0.1:8333"));
    assert_eq!(
        config.public_endpoint.as_deref(),
        Some("https://blobs.example.org")
    );
    assert_eq!(config.region.as_deref(), Some("eu-central-1"));
    assert_eq!(config.addressing, S3Addressing::Virtual);
    assert_eq!(config.limits.attempts, 3);
    assert_eq!(config.limits.call_timeout, Duration::from_secs(7));
    assert_eq!(config.limits.stall_timeout, Duration::from_secs(7));
    let settings = arguments.settings_in(&environment(&[])).unwrap();
    assert!(settings.ignored.is_empty());
    assert_eq!(
        settings.backend.to_string(),
        "s3 bucket images, prefix team/nixery, at http://10.0.0.1:8333, region eu-central-1, for clients at https://blobs.example.org"
    );
    assert_eq!(
        settings.backend.client_endpoint(),
        Some("https://blobs.example.org")
    );
}

#[rstest]
#[case::s3_first(&[("AWS_ENDPOINT_URL_S3", "http://a"), ("AWS_ENDPOINT_URL", "http://b"), ("AWS_REGION", "r"), ("AWS_DEFAULT_REGION", "d")], Some("http://a"), Some("r"))]
#[case::then_all(&[("AWS_ENDPOINT_URL_S3", ""), ("AWS_ENDPOINT_URL", "http://b"), ("AWS_DEFAULT_REGION", "d")], Some("http://b"), Some("d"))]
#[case::an_endpoint_needs_no_region(&[("AWS_ENDPOINT_URL", "http://b")], Some("http://b"), None)]
#[case::aws_needs_no_endpoint(&[("AWS_REGION", "r")], None, Some("r"))]
fn s3_settings_come_from_awss_variables_too(
    #[case] variables: &[(&'static str, &'static str)],
    #[case] endpoint: Option<&str>,
    #[case] region: Option<&str>,
) {
    let config = s3_config(&s3_arguments().with(S3_REGION, ""), variables);
    assert_eq!(config.endpoint.as_deref(), endpoint);
    assert_eq!(config.region.as_deref(), region);
    assert_eq!(config.addressing, S3Addressing::Path);
    assert_eq!(config.limits, RemoteLimits::default());
}

#[test]
fn a_wrong_value_of_awss_variables_is_named_as_it_came() {
    let variables = environment(&[("AWS_ENDPOINT_URL", "nowhere")]);
    let errors = s3_arguments().settings_in(&variables).unwrap_err();
    let expected = "AWS_ENDPOINT_URL (--s3-endpoint) is \"nowhere\"";
    assert!(errors.to_string().contains(expected), "{errors}");
}

#[rstest]
#[case::host(&[("STORAGE_EMULATOR_HOST", "127.0.0.1:4443")], None, Some("http://127.0.0.1:4443"), true)]
#[case::url(&[("STORAGE_EMULATOR_HOST", "https://h:1")], None, Some("https://h:1"), true)]
#[case::with_credentials(&[("STORAGE_EMULATOR_HOST", "h:1")], Some("false"), Some("http://h:1"), false)]
#[case::google(&[], None, None, false)]
#[case::public_bucket(&[], Some("1"), None, true)]
fn an_emulator_of_gcs_is_asked_without_credentials(
    #[case] variables: &[(&'static str, &'static str)],
    #[case] anonymous: Option<&str>,
    #[case] endpoint: Option<&str>,
    #[case] expected: bool,
) {
    let arguments = gcs_arguments().with(GCS_ANONYMOUS, anonymous.unwrap_or_default());
    let config = gcs_config(&arguments, variables);
    assert_eq!(config.endpoint.as_deref(), endpoint);
    assert_eq!(config.anonymous, expected);
}

#[test]
fn a_credential_file_reaches_gcs_and_its_name_the_message() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let arguments = gcs_arguments().with(GCS_CREDENTIALS, file.path());
    let config = gcs_config(&arguments, &[]);
    assert_eq!(config.credential_file.as_deref(), Some(file.path()));
    let described = StorageBackend::Gcs(config);
    assert_eq!(described.to_string(), "gcs bucket images, at Google");
}

#[rstest]
#[case::s3_for_gcs(gcs_arguments().with(S3_BUCKET, "b"), &["NIXERY_S3_BUCKET (--s3-bucket) is set but not used: the blob store is gcs"])]
#[case::gcs_for_s3(s3_arguments().with(GCS_BUCKET, "b"), &["GCS_BUCKET (--gcs-bucket) is set but not used: the blob store is s3"])]
#[case::both_for_filesystem(s3_arguments().with(STORAGE_TIMEOUT, "9").with(STORAGE_BACKEND, ""), &["NIXERY_STORAGE_TIMEOUT", "NIXERY_S3_BUCKET", "NIXERY_S3_REGION"])]
#[case::folder_for_s3(s3_arguments().with(STORAGE_PATH, "/srv/n"), &["STORAGE_PATH (--storage-path) is set, but the blob store is s3: the folder holds only the spool folder"])]
#[case::folder_and_spool_for_s3(s3_arguments().with(STORAGE_PATH, "/srv/n").with(SPOOL_DIR, "/spool"), &["STORAGE_PATH (--storage-path) is set but not used"])]
#[case::empty_is_not_given(s3_arguments().with(GCS_BUCKET, ""), &[])]
#[case::googles_own_are_not_ours(s3_arguments().with(GCS_CREDENTIALS, "/key.json"), &[])]
fn settings_of_other_stores_are_not_ignored_silently(
    #[case] arguments: StorageArguments,
    #[case] expected: &[&str],
) {
    let ignored = arguments.settings_in(&environment(&[])).unwrap().ignored;
    assert_eq!(ignored.len(), expected.len(), "{ignored:?}");
    for (line, expected) in ignored.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}");
    }
}

#[test]
fn the_originals_signing_key_gets_a_warning_that_helps() {
    let variables = environment(&[
        ("GCS_SIGNING_KEY", "/key.pem"),
        ("GCS_SIGNING_ACCOUNT", "a@b"),
    ]);
    let ignored = gcs_arguments().settings_in(&variables).unwrap().ignored;
    assert_eq!(ignored.len(), 1);
    for part in [
        "GCS_SIGNING_KEY and GCS_SIGNING_ACCOUNT",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "NIXERY_BLOB_DELIVERY=public",
    ] {
        assert!(ignored[0].contains(part), "{}", ignored[0]);
    }
    // Only where they would have mattered.
    assert!(
        s3_arguments()
            .settings_in(&variables)
            .unwrap()
            .ignored
            .is_empty()
    );
}
