//! The settings of garbage collection: what stays in the blob store, and how often the server
//! collects.

use std::time::Duration;

use nixery_state::gc::GcPolicy;

use crate::arguments::Section;
use crate::check::Checker;
use crate::table::{
    EVAL_TIMEOUT, GC_GRACE, GC_INTERVAL, GC_MAX_AGE, GC_MAX_SIZE, GC_MAX_UNUSED, Group, NIX_TIMEOUT,
};

/// Limit of times, against typing errors: a hundred years.
const MAX_SECONDS: u64 = 100 * 31_557_600;

/// Checked settings of the server's garbage collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcSettings {
    /// Time between two collections; `None` for never.
    pub interval: Option<Duration>,
    /// What stays. Its grace applies to use marks even if the server never collects.
    pub policy: GcPolicy,
}

impl Section for GcSettings {
    const GROUPS: &'static [Group] = &[Group::GcTimer, Group::GcPolicy];

    fn read(checker: &mut Checker<'_>) -> Option<Self> {
        let interval = checker.optional_time(GC_INTERVAL, 1..=MAX_SECONDS);
        let policy = policy(checker);
        let limits = [GC_MAX_UNUSED, GC_MAX_AGE, GC_MAX_SIZE];
        if interval.is_some() && !limits.iter().any(|limit| checker.is_given(limit)) {
            let allowed = format_args!(
                "an interval together with {GC_MAX_UNUSED}, {GC_MAX_AGE} or {GC_MAX_SIZE}"
            );
            checker.parsed(GC_INTERVAL, |_| None::<()>, allowed);
        }
        Some(Self { interval, policy })
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
    policy.grace = checker.time(GC_GRACE, 1..=MAX_SECONDS);
    policy
}

impl GcSettings {
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
    fn nothing_is_collected_unless_asked_for() {
        let settings = Arguments::<GcSettings>::default().settings().unwrap();
        assert_eq!(settings.interval, None);
        assert_eq!(settings.policy, GcPolicy::default());
        assert_eq!(settings.policy.grace, DEFAULT_GRACE);
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
            .with(GC_GRACE, "-1");
        let errors = arguments.settings().unwrap_err();
        assert_eq!(errors.0.len(), 4, "{errors}");
        assert!(errors.to_string().contains("(--max-size)"), "{errors}");
    }
}
