//! The settings of garbage collection: what stays in the blob store, and how often the server
//! collects.

use std::time::Duration;

use nixery_core::ByteSize;
use nixery_state::gc::GcPolicy;

use crate::arguments::Section;
use crate::check::Checker;
use crate::table::{
    EVAL_TIMEOUT, GC_GRACE, GC_INTERVAL, GC_MAX_AGE, GC_MAX_SHARE, GC_MAX_SIZE, GC_MAX_UNUSED,
    Group, NIX_TIMEOUT, STORAGE_BACKEND,
};

/// Limit of times, against typing errors: a hundred years.
const MAX_SECONDS: u64 = 100 * 31_557_600;

/// The word for no collections.
const NEVER: &str = "never";
/// Default interval of a server with a filesystem store. An hour's images do not fill a disk that
/// the share below leaves free, unless somebody wants it; then builds are refused.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Default of [`GcPolicy::max_share_percent`] for a server with a filesystem store.
const DEFAULT_SHARE_PERCENT: u8 = 80;

/// Checked settings of the server's garbage collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcSettings {
    /// Time between two collections; `None` for never.
    pub interval: Option<Duration>,
    /// What stays. Its grace applies to use marks even if the server never collects.
    pub policy: GcPolicy,
    /// A warning for each setting that is set and has no effect.
    pub ignored: Vec<String>,
}

impl Section for GcSettings {
    const GROUPS: &'static [Group] = &[Group::GcTimer, Group::GcPolicy];

    fn read(checker: &mut Checker<'_>) -> Option<Self> {
        let backend = checker.text(STORAGE_BACKEND);
        let is_filesystem = backend.is_none_or(|backend| backend == STORAGE_BACKEND.default);
        let interval = if checker.text(GC_INTERVAL).as_deref() == Some(NEVER) {
            None
        } else {
            let given = checker.optional_time(GC_INTERVAL, 1..=MAX_SECONDS);
            given.or(is_filesystem.then_some(DEFAULT_INTERVAL))
        };
        let mut policy = policy(checker);
        let mut ignored = Vec::new();
        if is_filesystem {
            policy.max_share_percent = policy.max_share_percent.or(Some(DEFAULT_SHARE_PERCENT));
        } else {
            policy.max_share_percent = None;
            ignored = checker.unused([GC_MAX_SHARE], "the blob store is not on a file system");
        }
        if interval.is_some() && !policy.has_limit() {
            let allowed = format_args!(
                "an interval together with {GC_MAX_UNUSED}, {GC_MAX_AGE} or {GC_MAX_SIZE}"
            );
            checker.parsed(GC_INTERVAL, |_| None::<()>, allowed);
        }
        Some(Self {
            interval,
            policy,
            ignored,
        })
    }
}

/// The policy of a collection by command, whose flags are shorter than the server's. A policy
/// without a limit drops nothing: see [`GcPolicy::has_limit`].
impl Section for GcPolicy {
    const GROUPS: &'static [Group] = &[Group::GcPolicy];
    const FLAG_PREFIX: &'static str = "gc-";

    fn read(checker: &mut Checker<'_>) -> Option<Self> {
        Some(policy(checker))
    }
}

fn policy(checker: &mut Checker<'_>) -> GcPolicy {
    let mut policy = GcPolicy::default();
    policy.max_unused = checker.optional_time(GC_MAX_UNUSED, 1..=MAX_SECONDS);
    policy.max_age = checker.optional_time(GC_MAX_AGE, 1..=MAX_SECONDS);
    policy.max_size = checker.optional_size(GC_MAX_SIZE);
    policy.max_share_percent =
        checker.parsed(GC_MAX_SHARE, percent, "a percentage from 1% to 100%");
    policy.grace = checker.time(GC_GRACE, 1..=MAX_SECONDS);
    policy
}

fn percent(text: &str) -> Option<u8> {
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    number
        .parse()
        .ok()
        .filter(|percent| (1..=100).contains(percent))
}

impl GcSettings {
    /// Returns what the server collects, for the log.
    #[must_use]
    pub fn describe(&self) -> String {
        let Some(interval) = self.interval else {
            return format!(
                "this server collects no garbage, so the blob store grows without limit. Fix: set {GC_INTERVAL} and a limit, or run `nixery gc` regularly"
            );
        };
        let policy = &self.policy;
        let time = humantime::format_duration;
        let limits = [
            policy
                .max_share_percent
                .filter(|percent| *percent < 100)
                .map(|percent| {
                    format!(
                        "they need more than {percent}% of what the store's file system has for it"
                    )
                }),
            policy
                .max_size
                .map(|bytes| format!("they need more than {}", ByteSize(bytes))),
            policy
                .max_unused
                .map(|unused| format!("they are unused for {}", time(unused))),
            policy
                .max_age
                .map(|age| format!("they are older than {}", time(age))),
        ];
        let limits: Vec<_> = limits.into_iter().flatten().collect();
        let when = if limits.is_empty() {
            "images are never dropped".to_owned()
        } else {
            format!("images are dropped when {}", limits.join(", or when "))
        };
        format!("garbage is collected every {}: {when}", time(interval))
    }

    /// Returns a warning if a build can take longer than its layers are kept. `longest_build` is
    /// the time after which Nix is stopped.
    #[must_use]
    pub fn warning(&self, longest_build: Duration) -> Option<String> {
        let grace = self.policy.grace;
        // Use marks that a build relies on may be as old as a quarter of the grace.
        (self.interval.is_some() && grace * 3 / 4 < longest_build).then(|| {
            format!(
                "{GC_GRACE} is {}, but building an image may take {} ({}, {}): its layers may be deleted before the build ends, and are then built again. Fix: set a time that is a third longer than a build may take",
                humantime::format_duration(grace),
                humantime::format_duration(longest_build),
                EVAL_TIMEOUT.variable,
                NIX_TIMEOUT.variable,
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arguments;
    use nixery_state::gc::DEFAULT_GRACE;

    #[test]
    fn an_interval_needs_a_limit() {
        let arguments = Arguments::<GcSettings>::default()
            .with(STORAGE_BACKEND, "s3")
            .with(GC_INTERVAL, "6h")
            .with(GC_GRACE, "1h");
        let errors = arguments.settings().unwrap_err().to_string();
        assert_eq!(
            errors,
            "NIXERY_GC_INTERVAL (--gc-interval) is \"6h\"; allowed: an interval together with \
             NIXERY_GC_MAX_UNUSED (--gc-max-unused), NIXERY_GC_MAX_AGE (--gc-max-age) or \
             NIXERY_GC_MAX_SIZE (--gc-max-size)"
        );
        let settings = arguments.with(GC_MAX_SIZE, "100G").settings().unwrap();
        assert_eq!(settings.interval, Some(Duration::from_secs(21_600)));
        assert_eq!(settings.policy.max_size, Some(100_000_000_000));
    }

    #[test]
    fn a_filesystem_store_keeps_a_part_of_the_disk_free_by_default() {
        let arguments = Arguments::<GcSettings>::default();
        let settings = arguments.settings().unwrap();
        assert_eq!(settings.interval, Some(DEFAULT_INTERVAL));
        assert_eq!(settings.policy.max_share_percent, Some(80));
        assert_eq!(settings.policy.grace, DEFAULT_GRACE);
        assert_eq!(
            settings.describe(),
            "garbage is collected every 1h: images are dropped when they need more than 80% of \
             what the store's file system has for it"
        );
        let other = arguments
            .clone()
            .with(GC_MAX_SHARE, "100 %")
            .with(GC_INTERVAL, "1d")
            .with(GC_MAX_SIZE, "100G")
            .with(GC_MAX_UNUSED, "30d");
        assert_eq!(
            other.settings().unwrap().describe(),
            "garbage is collected every 1day: images are dropped when they need more than 100.0 GB, \
             or when they are unused for 30days"
        );
        let never = arguments.with(GC_INTERVAL, "never").settings().unwrap();
        assert_eq!(never.interval, None);
        assert!(never.describe().contains("grows without limit"));
    }

    #[test]
    fn nothing_is_collected_in_a_bucket_unless_asked_for() {
        let arguments = Arguments::<GcSettings>::default().with(STORAGE_BACKEND, "gcs");
        let settings = arguments.settings().unwrap();
        assert_eq!(settings.interval, None);
        assert_eq!(settings.policy, GcPolicy::default());
        let settings = arguments.with(GC_MAX_SHARE, "50%").settings().unwrap();
        assert_eq!(settings.policy, GcPolicy::default());
        assert_eq!(settings.ignored.len(), 1, "{:?}", settings.ignored);
        let policy = Arguments::<GcPolicy>::default().settings().unwrap();
        assert!(!policy.has_limit());
    }

    #[test]
    fn a_grace_shorter_than_a_build_gets_a_warning() {
        let arguments = Arguments::<GcSettings>::default()
            .with(GC_INTERVAL, "6h")
            .with(GC_MAX_UNUSED, "30d")
            .with(GC_GRACE, "30m");
        let settings = arguments.settings().unwrap();
        let warning = settings.warning(Duration::from_secs(2100)).unwrap();
        assert!(
            warning.starts_with("NIXERY_GC_GRACE (--gc-grace) is 30m"),
            "{warning}"
        );
        assert_eq!(settings.warning(Duration::from_secs(600)), None);
    }

    #[test]
    fn all_wrong_values_are_reported_at_once_with_the_commands_flags() {
        let arguments = Arguments::<GcPolicy>::default()
            .with(GC_MAX_UNUSED, "a month")
            .with(GC_MAX_AGE, "0")
            .with(GC_MAX_SIZE, "100 gigs")
            .with(GC_MAX_SHARE, "101%")
            .with(GC_GRACE, "-1");
        let errors = arguments.settings().unwrap_err();
        assert_eq!(errors.0.len(), 5, "{errors}");
        assert!(errors.to_string().contains("(--max-size)"), "{errors}");
    }
}
