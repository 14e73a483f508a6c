//! Settings of a store in an S3 bucket.

use super::{Environment, checks, first, set};
use crate::value::{ConfigErrors, Setting};
use nixery_storage::{RemoteLimits, S3Addressing, S3Config};

const BUCKET: Setting = Setting::new("NIXERY_S3_BUCKET", "--s3-bucket");
const PREFIX: Setting = Setting::new("NIXERY_S3_PREFIX", "--s3-prefix");
const ENDPOINT: Setting = Setting::new("NIXERY_S3_ENDPOINT", "--s3-endpoint");
const PUBLIC_ENDPOINT: Setting = Setting::new("NIXERY_S3_PUBLIC_ENDPOINT", "--s3-public-endpoint");
const REGION: Setting = Setting::new("NIXERY_S3_REGION", "--s3-region");
const ADDRESSING: Setting = Setting::new("NIXERY_S3_ADDRESSING", "--s3-addressing");

/// Where AWS's own tools look, in this order.
const ENDPOINT_OF_AWS: [&str; 2] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
const REGION_OF_AWS: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];

/// Flags and variables of a store in an S3 bucket. Keys come from where AWS's own tools find them:
/// `AWS_ACCESS_KEY_ID` and its kin, profile files, web identity, container and machine roles.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Blob store in an S3 bucket; keys are found as AWS's own tools do")]
pub struct S3Args {
    /// The bucket, which must exist
    #[arg(long, env = "NIXERY_S3_BUCKET", value_name = "NAME")]
    pub s3_bucket: Option<String>,

    /// Where in the bucket the store is, such as `team/nixery` [default: at its top]
    #[arg(long, env = "NIXERY_S3_PREFIX", value_name = "PREFIX")]
    pub s3_prefix: Option<String>,

    /// The store's address, such as `https://minio.example.org:9000` [default:
    /// `AWS_ENDPOINT_URL_S3`, else `AWS_ENDPOINT_URL`, else AWS]
    #[arg(long, env = "NIXERY_S3_ENDPOINT", value_name = "URL")]
    pub s3_endpoint: Option<String>,

    /// The store's address for clients that are redirected to it [default: the endpoint]
    #[arg(long, env = "NIXERY_S3_PUBLIC_ENDPOINT", value_name = "URL")]
    pub s3_public_endpoint: Option<String>,

    /// The bucket's region [default: `AWS_REGION`, else `AWS_DEFAULT_REGION`, else us-east-1 with
    /// an endpoint of its own]
    #[arg(long, env = "NIXERY_S3_REGION", value_name = "REGION")]
    pub s3_region: Option<String>,

    /// `path` for `https://host/bucket/key`, `virtual` for `https://bucket.host/key` [default:
    /// path]
    #[arg(long, env = "NIXERY_S3_ADDRESSING", value_name = "WAY")]
    pub s3_addressing: Option<String>,
}

impl S3Args {
    pub(super) fn config(
        &self,
        environment: Environment<'_>,
        limits: RemoteLimits,
        errors: &mut ConfigErrors,
    ) -> S3Config {
        let endpoint = first(
            ENDPOINT,
            self.s3_endpoint.as_deref(),
            &ENDPOINT_OF_AWS,
            environment,
        );
        let endpoint = endpoint.map(|(setting, url)| checks::endpoint(errors, setting, &url));
        let public = first(
            PUBLIC_ENDPOINT,
            self.s3_public_endpoint.as_deref(),
            &[],
            environment,
        );
        let region = first(
            REGION,
            self.s3_region.as_deref(),
            &REGION_OF_AWS,
            environment,
        );
        let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        match &region {
            Some((setting, region)) if !region.bytes().all(word) => {
                errors.invalid(*setting, region, "a region's name, such as eu-central-1");
            }
            None if endpoint.is_none() => {
                let needed = "the bucket's region, such as eu-central-1, or the endpoint of a store that is not AWS";
                errors.missing(REGION, needed);
            }
            _ => {}
        }
        S3Config {
            bucket: checks::bucket(errors, BUCKET, self.s3_bucket.as_deref()),
            prefix: checks::prefix(errors, PREFIX, self.s3_prefix.as_deref()),
            endpoint,
            public_endpoint: public.map(|(setting, url)| checks::endpoint(errors, setting, &url)),
            region: region.map(|(_, region)| region),
            addressing: errors.choice(
                ADDRESSING,
                self.s3_addressing.as_deref(),
                S3Addressing::Path,
                &[
                    ("path", S3Addressing::Path),
                    ("virtual", S3Addressing::Virtual),
                ],
            ),
            credentials: None,
            anonymous: false,
            limits,
        }
    }

    pub(super) fn given(&self) -> Vec<Setting> {
        set(&[
            (BUCKET, &self.s3_bucket),
            (PREFIX, &self.s3_prefix),
            (ENDPOINT, &self.s3_endpoint),
            (PUBLIC_ENDPOINT, &self.s3_public_endpoint),
            (REGION, &self.s3_region),
            (ADDRESSING, &self.s3_addressing),
        ])
    }
}
