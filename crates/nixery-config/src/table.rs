//! The table of settings. Flags, environment variables, help, messages and the reference page
//! (`docs/configuration.md`) are generated from it.

use std::fmt;

/// Where a setting is shown. Every setting has a variable and a flag, even if the help does not
/// show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// In the help and on the reference page.
    Shown,
    /// On the reference page only, by its variable.
    Advanced,
}

/// A setting.
#[derive(Debug, PartialEq, Eq)]
pub struct Setting {
    /// The environment variable.
    pub variable: &'static str,
    /// The flag, without its dashes.
    pub flag: &'static str,
    /// The placeholder of the value in the help.
    pub value: &'static str,
    /// The group it belongs to.
    pub group: Group,
    /// Where it is shown.
    pub level: Level,
    /// Whether its value may be or contain a secret, and is not printed.
    pub secret: bool,
    /// What it does, without a full stop.
    pub help: &'static str,
    /// The default. If it is a plain value, the settings read it from here.
    pub default: &'static str,
    /// Variables of other programs that are read if the setting itself is not set.
    pub fallbacks: &'static [&'static str],
}

impl Setting {
    /// Returns the flag in commands whose flags lack this prefix.
    pub(crate) fn flag_without(&self, prefix: &str) -> &'static str {
        self.flag.strip_prefix(prefix).unwrap_or(self.flag)
    }

    /// Returns the names for messages: the variable it was read from, and the flag.
    pub(crate) fn name(&self, variable: &str, flag_prefix: &str) -> String {
        format!("{variable} (--{})", self.flag_without(flag_prefix))
    }
}

/// Shows the variable and the flag, which every message about a setting names.
impl fmt::Display for Setting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name(self.variable, ""))
    }
}

/// Declares [`Group`], a constant for each setting, and [`SETTINGS`]. A group has a name and a
/// heading. An entry has a name, a variable, a flag, a placeholder, a level and a help text; it may
/// be secret, and have a default and fallbacks.
macro_rules! settings {
    ($($group:ident $heading:literal { $(
        $name:ident: $variable:literal $flag:literal $value:literal, $level:ident $($secret:ident)?,
            $help:literal $(, default $default:literal)? $(, else $($fallback:literal)+)?;
    )+ })+) => {
        /// A group of settings in the help and on the reference page.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Group {
            $(#[doc = $heading] $group,)+
        }
        impl Group {
            /// All groups, in the order of the help.
            pub const ALL: &[Self] = &[$(Self::$group),+];

            /// Returns the heading in the help and on the reference page.
            #[must_use]
            pub const fn heading(self) -> &'static str {
                match self {
                    $(Self::$group => $heading,)+
                }
            }
        }
        $($(
            #[doc = $help]
            pub const $name: &Setting = &Setting {
                variable: $variable,
                flag: $flag,
                value: $value,
                group: Group::$group,
                level: Level::$level,
                secret: !stringify!($($secret)?).is_empty(),
                help: $help,
                default: concat!($($default)?),
                fallbacks: &[$($($fallback),+)?],
            };
        )+)+
        /// All settings, in the order of the help.
        pub const SETTINGS: &[&Setting] = &[$($($name),+),+];
    };
}

settings! {
    Source "Package source (at most one)" {
        CHANNEL: "NIXERY_CHANNEL" "channel" "CHANNEL", Shown,
            "nixpkgs channel or commit",
            default "nixos-26.05, if no other source is given";
        PKGS_REPO: "NIXERY_PKGS_REPO" "pkgs-repo" "URL", Shown secret,
            "git repository with a package set; the image tag selects a branch, tag or commit";
        PKGS_PATH: "NIXERY_PKGS_PATH" "pkgs-path" "PATH", Shown,
            "Local folder or file with a package set";
    }
    Git "Tags, and package sets in git repositories" {
        CHANNELS: "NIXERY_CHANNELS" "channels" "NAMES", Advanced,
            "Channels that image tags may select besides the own channel of `NIXERY_CHANNEL`, separated by commas or spaces, such as `nixos-25.11 nixos-unstable`",
            default "none";
        PKGS_REFS: "NIXERY_PKGS_REFS" "pkgs-refs" "PATTERNS", Advanced,
            "Refs that images can be built from, separated by commas or spaces: full names with one `*` at most, such as `refs/heads/main refs/tags/v*`; a commit must be in one of them. Hosts keep changes that strangers propose in others, such as `refs/pull/*`",
            default "`refs/heads/* refs/tags/*`: all branches and tags";
        PKGS_ANY_COMMIT: "NIXERY_PKGS_ANY_COMMIT" "pkgs-any-commit" "BOOL", Advanced,
            "Build from every commit that the host serves, proposed changes and forks included: `true` or `false`",
            default "false";
        RESTRICT_EVAL: "NIXERY_RESTRICT_EVAL" "restrict-eval" "WAY", Advanced,
            "Whether package sets may read only themselves and what `allowed-uris` in nix.conf has, and no environment: `true`, `false` (as nix.conf says), or `auto`: true for git repositories",
            default "auto";
    }
    Storage "Blob store" {
        STORAGE_BACKEND: "NIXERY_STORAGE_BACKEND" "storage-backend" "KIND", Shown,
            "Kind of blob store: `filesystem`, `s3` or `gcs`",
            default "filesystem";
        STORAGE_PATH: "STORAGE_PATH" "storage-path" "FOLDER", Shown,
            "Folder of the filesystem store",
            default "`$STATE_DIRECTORY`, else `$XDG_DATA_HOME/nixery`, else `~/.local/share/nixery`, else `/var/lib/nixery`";
        SPOOL_DIR: "NIXERY_SPOOL_DIR" "spool-dir" "FOLDER", Advanced,
            "Folder for temporary files, such as layers that are being packed; do not use a small tmpfs",
            default "`spool` in the folder of the filesystem store, even with a remote store";
        STORAGE_TIMEOUT: "NIXERY_STORAGE_TIMEOUT" "storage-timeout" "TIME", Advanced,
            "How long to wait for the first byte of a remote store's answer, and for the next byte of a stalled transfer",
            default "30s, and 20s for a transfer";
        STORAGE_ATTEMPTS: "NIXERY_STORAGE_ATTEMPTS" "storage-attempts" "COUNT", Advanced,
            "Limit of attempts for one request to a remote store; 12 attempts cover an outage of 30 seconds",
            default "12";
        RECORD_KEY: "NIXERY_RECORD_KEY" "record-key" "FILE", Advanced,
            "File with a secret of at least 32 bytes, the same for all servers on a store: cached images and layers count only if a server with this secret recorded them",
            default "records are not authenticated";
    }
    S3 "Blob store in an S3 bucket; credentials are found as AWS's own tools find them" {
        S3_BUCKET: "NIXERY_S3_BUCKET" "s3-bucket" "NAME", Shown,
            "The bucket, which must exist";
        S3_PREFIX: "NIXERY_S3_PREFIX" "s3-prefix" "PREFIX", Advanced,
            "Prefix of all keys in the bucket, such as `team/nixery`",
            default "no prefix";
        S3_ENDPOINT: "NIXERY_S3_ENDPOINT" "s3-endpoint" "URL", Shown,
            "The store's address, such as `https://minio.example.org:9000`",
            default "`AWS_ENDPOINT_URL_S3`, else `AWS_ENDPOINT_URL`, else AWS",
            else "AWS_ENDPOINT_URL_S3" "AWS_ENDPOINT_URL";
        S3_PUBLIC_ENDPOINT: "NIXERY_S3_PUBLIC_ENDPOINT" "s3-public-endpoint" "URL", Shown,
            "The store's address for clients that are redirected to it",
            default "the endpoint";
        S3_REGION: "NIXERY_S3_REGION" "s3-region" "REGION", Shown,
            "The bucket's region",
            default "`AWS_REGION`, else `AWS_DEFAULT_REGION`, else us-east-1 if an endpoint is set",
            else "AWS_REGION" "AWS_DEFAULT_REGION";
        S3_ADDRESSING: "NIXERY_S3_ADDRESSING" "s3-addressing" "WAY", Advanced,
            "Form of the store's URLs: `path` is `https://host/bucket/key`, `virtual` is `https://bucket.host/key`",
            default "path";
    }
    Gcs "Blob store in a bucket of Google Cloud Storage" {
        GCS_BUCKET: "GCS_BUCKET" "gcs-bucket" "NAME", Shown,
            "The bucket, which must exist";
        GCS_PREFIX: "NIXERY_GCS_PREFIX" "gcs-prefix" "PREFIX", Advanced,
            "Prefix of all keys in the bucket, such as `team/nixery`",
            default "no prefix";
        GCS_ENDPOINT: "NIXERY_GCS_ENDPOINT" "gcs-endpoint" "URL", Advanced,
            "The store's address",
            default "`STORAGE_EMULATOR_HOST`, else Google's",
            else "STORAGE_EMULATOR_HOST";
        GCS_ANONYMOUS: "NIXERY_GCS_ANONYMOUS" "gcs-anonymous" "BOOL", Advanced,
            "Send no credentials: `true` or `false`",
            default "true if `STORAGE_EMULATOR_HOST` is used, else false";
        GCS_CREDENTIALS: "GOOGLE_APPLICATION_CREDENTIALS" "gcs-credentials" "FILE", Shown,
            "File with credentials; the key file of a service account can sign URLs as well",
            default "the credentials of the machine or workload";
    }
    Server "Server" {
        PORT: "PORT" "port" "PORT", Shown,
            "TCP port to listen on; 0 takes a free one",
            default "8080";
        LISTEN: "NIXERY_LISTEN" "listen" "ADDRESS", Shown,
            "IP address to listen on",
            default "all addresses, IPv4 and IPv6";
        PUBLIC_URL: "NIXERY_PUBLIC_URL" "public-url" "URL", Shown,
            "How clients reach this registry, such as `https://nixery.example.org`; shown in pull commands and log links",
            default "taken from each request's Host";
        TRUSTED_PROXIES: "NIXERY_TRUSTED_PROXIES" "trusted-proxies" "ADDRESSES", Advanced,
            "Addresses and networks of your reverse proxies, such as `127.0.0.1, 10.0.0.0/8`: for requests from them, the client is the right-most other address in `X-Forwarded-For` or `Forwarded`; they must set one of these headers. Pull commands and links use their `X-Forwarded-Host` and `X-Forwarded-Proto`",
            default "none: a request belongs to the address that it comes from";
        BLOB_DELIVERY: "NIXERY_BLOB_DELIVERY" "blob-delivery" "WAY", Shown,
            "How clients get blobs: `redirect` sends them to signed URLs of the store, `public` to unsigned ones, `proxy` sends blobs through this server, `auto` is `redirect` if the store can sign, else `proxy`",
            default "auto";
        REDIRECT_TTL: "NIXERY_REDIRECT_TTL" "redirect-ttl" "TIME", Advanced,
            "How long a signed URL can be used",
            default "15m";
        HOLD: "NIXERY_HOLD_SECONDS" "hold-seconds" "TIME", Advanced,
            "How long a manifest request waits for its build before it is redirected; clients give up after 30 seconds",
            default "25s";
        SHUTDOWN_GRACE: "NIXERY_SHUTDOWN_GRACE" "shutdown-grace" "TIME", Shown,
            "Time limit for running builds and transfers after a SIGTERM",
            default "2m";
        MAX_CONNECTIONS: "NIXERY_MAX_CONNECTIONS" "max-connections" "COUNT", Advanced,
            "Limit of connections; beyond it idle ones are closed, then only `/healthz`, `/readyz` and `/metrics` are answered",
            default "half of the limit of open files, at most 4096";
        MAX_CONNECTIONS_PER_CLIENT: "NIXERY_MAX_CONNECTIONS_PER_CLIENT" "max-connections-per-client" "COUNT", Advanced,
            "Limit of connections from one IPv4 address or IPv6 network (`/64`); a client gets the same share of downloads, or half of them with `NIXERY_TRUSTED_PROXIES`. If one proxy connects for all clients, set it to the limit of connections",
            default "half of the limit of connections";
        MAX_DOWNLOADS: "NIXERY_MAX_DOWNLOADS" "max-downloads" "COUNT", Advanced,
            "Limit of blobs that are sent through this server at once; others wait. Each may need 0.4 megabytes of memory",
            default "an eighth of the limit of open files, at most 256";
        LOG: "NIXERY_LOG" "log" "FILTER", Shown,
            "Log filter, such as `info` or `nixery_builder=debug,warn`",
            default "info";
        LOG_FORMAT: "NIXERY_LOG_FORMAT" "log-format" "FORMAT", Shown,
            "`text`, `json`, or `auto`: text on a terminal, JSON otherwise",
            default "auto";
        WEB_DIR: "WEB_DIR" "web-dir" "FOLDER", Advanced,
            "Folder of the web page of the original Nixery: accepted and ignored with a warning, as the page is built in";
    }
    Tls "TLS and the admin listener" {
        TLS_CERT: "NIXERY_TLS_CERT" "tls-cert" "FILE", Shown,
            "PEM file with the certificate of this server and all intermediate ones; with it the server speaks TLS, and uses a new certificate as soon as the files change; needs `NIXERY_TLS_KEY`",
            default "none: plain HTTP";
        TLS_KEY: "NIXERY_TLS_KEY" "tls-key" "FILE", Shown,
            "PEM file with the private key of the certificate, without a password (PKCS#8, PKCS#1 or SEC1)";
        ADMIN_LISTEN: "NIXERY_ADMIN_LISTEN" "admin-listen" "ADDRESS", Advanced,
            "Address and port of a second listener, such as `127.0.0.1:9090`: plain HTTP for `/healthz`, `/readyz`, `/metrics`, the pages and logs, without the registry",
            default "no second listener";
        PUBLIC_PAGES: "NIXERY_PUBLIC_PAGES" "public-pages" "BOOL", Advanced,
            "Whether the registry's own port also serves the pages, the logs, `/healthz`, `/readyz` and `/metrics`: `true` or `false`",
            default "true";
    }
    Access "Access: users, tokens and the policy; without them everybody may pull everything" {
        HTPASSWD: "NIXERY_HTPASSWD" "htpasswd" "FILE", Shown,
            "File with users and the bcrypt hashes of their passwords, as `htpasswd -B` writes it; with it, only users who log in may pull",
            default "none: no login";
        TOKENS: "NIXERY_TOKENS" "tokens" "FILE", Advanced,
            "File with the tokens of programs, a line `NAME:TOKEN` or `NAME:sha256:HEX` for each; a program sends its token as the password of NAME, or as a bearer token";
        POLICY: "NIXERY_POLICY" "policy" "FILE", Shown,
            "File that says who may pull which packages, tags and platforms, and who may start builds (docs/access.md)",
            default "everybody who has logged in may pull everything";
        TOKEN_REALM: "NIXERY_TOKEN_REALM" "token-realm" "URL", Advanced,
            "Where clients get signed tokens, as the distribution specification describes it: the URL of a token service, or `self` for this server, which issues them at `/token`",
            default "none: clients send names and passwords";
        TOKEN_SERVICE: "NIXERY_TOKEN_SERVICE" "token-service" "NAME", Advanced,
            "The name of this registry in tokens (claim `aud`)",
            default "nixery";
        TOKEN_ISSUER: "NIXERY_TOKEN_ISSUER" "token-issuer" "NAME", Advanced,
            "The issuer that tokens must name (claim `iss`), which is this server with `self`",
            default "`nixery` with `self`; else any issuer whose keys are trusted";
        TOKEN_KEYS: "NIXERY_TOKEN_KEYS" "token-keys" "URL", Advanced,
            "Public keys of a token service, as a JSON Web Key Set: an http or https URL, or a file";
        TOKEN_KEY: "NIXERY_TOKEN_KEY" "token-key" "FILE", Advanced,
            "PEM file with the private Ed25519 key that signs the tokens of this server; the same for all servers behind one address",
            default "a random key at each start";
        TOKEN_LIFETIME: "NIXERY_TOKEN_LIFETIME" "token-lifetime" "TIME", Advanced,
            "How long a token of this server is valid",
            default "5m";
        TOKEN_GROUPS: "NIXERY_TOKEN_GROUPS" "token-groups" "CLAIM", Advanced,
            "The claim of a token that has the groups of the user",
            default "groups";
    }
    Nix "Nix" {
        NIX_TIMEOUT: "NIX_TIMEOUT" "nix-timeout" "TIME", Shown,
            "How long building one image's packages may take",
            default "30m";
        EVAL_TIMEOUT: "NIXERY_EVAL_TIMEOUT" "eval-timeout" "TIME", Advanced,
            "How long evaluating the Nix code of one image's packages may take",
            default "5m";
        EVAL_MEMORY: "NIXERY_EVAL_MEMORY" "eval-memory" "SIZE", Advanced,
            "Limit of the address space of an evaluation, such as `4G`; 0 sets no limit",
            default "16GiB";
        EVAL_INTERVAL: "NIXERY_EVAL_INTERVAL" "eval-interval" "TIME", Shown,
            "How long an image of a channel, a branch or a local path is served before Nix evaluates the code of its packages again, in the background; 0 evaluates it for each request",
            default "1m, 0 for a local path";
        NIX_STORE: "NIXERY_NIX_STORE" "nix-store" "STORE", Shown,
            "Nix store to build in and pack from: `daemon`, or `local?root=/mnt/nix` for one below another folder",
            default "taken from `NIX_REMOTE` and nix.conf";
        NIX_MAX_JOBS: "NIXERY_NIX_MAX_JOBS" "nix-max-jobs" "COUNT", Shown,
            "Limit of derivations that Nix builds at once for one image",
            default "taken from nix.conf";
        NIX_WRAPPER: "NIXERY_NIX_WRAPPER" "nix-wrapper" "COMMAND", Advanced,
            "Program with arguments, separated by spaces, that runs every command of Nix, such as `systemd-run` or `bwrap`",
            default "none";
        NIX_ENV: "NIXERY_NIX_ENV" "nix-env" "NAMES", Advanced,
            "More variables that Nix inherits, separated by spaces, such as `NIXPKGS_ALLOW_UNFREE` or `AWS_*`; packages may be able to read them",
            default "none; variables that Nix, git and the network need are always inherited";
        MAX_BUILDS: "NIXERY_MAX_BUILDS" "max-builds" "COUNT", Shown,
            "Limit of images whose packages are built at once; others wait, and one more is built in the background if the source of a cached image has moved",
            default "the number of cores, from 2 to 8";
        MAX_EVALUATIONS: "NIXERY_MAX_EVALUATIONS" "max-evaluations" "COUNT", Advanced,
            "Limit of images whose Nix code is evaluated at once; each may need a gigabyte of memory, and one more is evaluated in the background to find out whether the source of a cached image has moved",
            default "the number of cores, at most 4";
        MAX_WAITING: "NIXERY_MAX_WAITING" "max-waiting" "COUNT", Advanced,
            "Limit of builds that run or wait; requests for further images get status 429",
            default "1000";
        MAX_WAITING_PER_CLIENT: "NIXERY_MAX_WAITING_PER_CLIENT" "max-waiting-per-client" "COUNT", Advanced,
            "Limit of builds that run or wait and that one client has started; its requests for further images get status 429. A client is an IPv4 address or an IPv6 network (/64); behind a proxy, set `NIXERY_TRUSTED_PROXIES` as well",
            default "50";
        MAX_PACKAGES: "NIXERY_MAX_PACKAGES" "max-packages" "COUNT", Advanced,
            "Limit of packages in the name of one image, each counted once and without meta-packages; names with more get status 400, and 0 sets no limit: a name of 255 bytes has room for about a hundred",
            default "0";
        MAX_CLOSURE_SIZE: "NIXERY_MAX_CLOSURE_SIZE" "max-closure-size" "SIZE", Advanced,
            "Limit of the size of one image's packages and all that they depend on, unpacked, such as `20G`. It is checked before they are packed, and larger images get status 422; 0 sets no limit",
            default "0";
        MAX_IMAGE_SIZE: "NIXERY_MAX_IMAGE_SIZE" "max-image-size" "SIZE", Advanced,
            "Limit of the size of one image's compressed layers, such as `5G`. Larger images, also those that the store has, get status 422; 0 sets no limit",
            default "0";
        FAILURE_TTL: "NIXERY_FAILURE_TTL" "failure-ttl" "TIME", Advanced,
            "How long a failure is cached before a request builds the image again",
            default "10s";
        LEASE: "NIXERY_LEASE_SECONDS" "lease-seconds" "TIME", Advanced,
            "How long to wait for another server on the same store that builds the same image, after it last renewed its lease (its claim on that build); 0 does not wait",
            default "15s";
        HISTORY: "NIXERY_HISTORY" "history" "COUNT", Advanced,
            "Number of builds whose result and log are kept",
            default "100";
        NIX_DIR: "NIXERY_NIX_DIR" "nix-dir" "FOLDER", Advanced,
            "Folder with the files of `nix/` (`prepare-image.nix` and the others) to use instead of the built-in ones",
            default "built in";
    }
    Layers "Layers" {
        LAYER_BUDGET: "NIXERY_LAYER_BUDGET" "layer-budget" "COUNT", Shown,
            "Limit of layers in an image; Docker's limit is 125",
            default "94";
        LAYER_STRATEGY: "NIXERY_LAYER_STRATEGY" "layer-strategy" "NAME", Shown,
            "How packages are grouped into layers: `size`, `plan`, `dominator` (as in the original), or `auto`: `plan` if a cluster plan is set, else `dominator` if popularity data is set, else `size`",
            default "auto";
        LAYER_PLAN: "NIXERY_LAYER_PLAN" "layer-plan" "URL", Shown secret,
            "Cluster plan for the strategy `plan`, as `nixery lab plan build` writes it: an http, https or file URL, or a path; with the word `learned`, the servers on the store make a plan from the images they built";
        LAYER_PLAN_HOUR: "NIXERY_LAYER_PLAN_HOUR" "layer-plan-hour" "HOUR", Advanced,
            "For a learned plan: the hour of the day, in UTC, in which one of the servers on the store checks whether a new plan is needed",
            default "3";
        POPULARITY_URL: "NIX_POPULARITY_URL" "popularity-url" "URL", Advanced secret,
            "Popularity data for the strategy `dominator`, as `nixery lab popcount` writes it: an http, https or file URL, or a path",
            default "every package is equally popular";
        POPULARITY_THRESHOLD: "NIXERY_POPULARITY_THRESHOLD" "popularity-threshold" "COUNT", Advanced,
            "Popularity from which the strategy `dominator` gives a package its own layer",
            default "100";
        LAYER_WEIGHT: "NIXERY_LAYER_WEIGHT" "layer-weight" "SIZE", Advanced,
            "The size that counts when the strategy `dominator` merges layers: `closure-size` (as in the original) or `nar-size`",
            default "closure-size";
        COMPRESSION: "NIXERY_COMPRESSION" "compression" "KIND", Shown,
            "Compression of layers: `gzip`, `gzip-single` (one gzip member, slower), or `zstd` for clients that read OCI images",
            default "gzip";
        PACK_THREADS: "NIXERY_PACK_THREADS" "pack-threads" "COUNT", Advanced,
            "Threads that pack and compress layers",
            default "the number of cores";
    }
    GcTimer "Garbage collection" {
        GC_INTERVAL: "NIXERY_GC_INTERVAL" "gc-interval" "TIME", Shown,
            "How often the server collects garbage, such as `6h`; needs one of the limits; `never` leaves it to `nixery gc`",
            default "1h for a filesystem store, else `never`";
    }
    GcPolicy "Garbage collection" {
        GC_MAX_UNUSED: "NIXERY_GC_MAX_UNUSED" "gc-max-unused" "TIME", Shown,
            "Drop images that were not requested for this long, such as `30d`";
        GC_MAX_AGE: "NIXERY_GC_MAX_AGE" "gc-max-age" "TIME", Shown,
            "Drop images that were built longer ago than this, even if they are used";
        GC_MAX_SIZE: "NIXERY_GC_MAX_SIZE" "gc-max-size" "SIZE", Shown,
            "Drop the least recently used images until the others need no more than this, such as `100G`";
        GC_MAX_SHARE: "NIXERY_GC_MAX_SHARE" "gc-max-share" "PERCENT", Shown,
            "Drop the least recently used images until the others need no more than this share of what the store's file system has for it, such as `80%`: of the bytes, and of the inodes, that the store uses or that are free. Only for filesystem stores; 100% sets no limit",
            default "80% for a server with a filesystem store, else no limit";
        GC_GRACE: "NIXERY_GC_GRACE" "gc-grace" "TIME", Advanced,
            "Keep everything that was written or used within this time; it must be the same for all programs on a store, and longer than any build or pull takes",
            default "6h";
    }
    Traffic "Recording pulls" {
        TRAFFIC_RECORD: "NIXERY_TRAFFIC_RECORD" "traffic-record" "BOOL", Shown,
            "Record the time, the client and the image of each pull, for `nixery lab replay --from-server`: `true` or `false`; clients are recorded as salted fingerprints of address and user agent",
            default "false";
        TRAFFIC_SALT: "NIXERY_TRAFFIC_SALT" "traffic-salt" "SECRET", Advanced secret,
            "Secret salt of the fingerprints, at least 16 bytes; the same for all servers on one store",
            default "random at each start, after which every client counts as new";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_at_most_forty_settings_are_shown() {
        let variables: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.variable).collect();
        let flags: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.flag).collect();
        assert_eq!(variables.len(), SETTINGS.len());
        assert_eq!(flags.len(), SETTINGS.len());
        let shown = SETTINGS.iter().filter(|s| s.level == Level::Shown).count();
        assert!((25..=40).contains(&shown), "{shown} of {}", SETTINGS.len());
    }

    #[test]
    fn variables_of_the_original_keep_their_names() {
        for original in [
            "PORT",
            "WEB_DIR",
            "NIXERY_CHANNEL",
            "NIXERY_PKGS_REPO",
            "NIXERY_PKGS_PATH",
            "NIXERY_STORAGE_BACKEND",
            "STORAGE_PATH",
            "GCS_BUCKET",
            "NIX_TIMEOUT",
            "NIX_POPULARITY_URL",
        ] {
            let known = SETTINGS.iter().any(|setting| setting.variable == original);
            assert!(known, "{original}");
        }
    }
}
