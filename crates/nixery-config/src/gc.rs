//! The collection of garbage: what may stay in the blob store, and how often the server looks.

use super::value::{ConfigErrors, Setting, given};
use nixery_builder::DEFAULT_GC_GRACE;
use nixery_builder::gc::GcPolicy;
use std::time::Duration;

const INTERVAL: Setting = Setting::new("NIXERY_GC_INTERVAL", "--gc-interval");

/// The names of the settings that make a policy: the command that collects has shorter flags.
struct Names {
    max_unused: Setting,
    max_age: Setting,
    max_size: Setting,
    grace: Setting,
}

const SERVER: Names = Names {
    max_unused: Setting::new("NIXERY_GC_MAX_UNUSED", "--gc-max-unused"),
    max_age: Setting::new("NIXERY_GC_MAX_AGE", "--gc-max-age"),
    max_size: Setting::new("NIXERY_GC_MAX_SIZE", "--gc-max-size"),
    grace: Setting::new("NIXERY_GC_GRACE", "--gc-grace"),
};

const COMMAND: Names = Names {
    max_unused: Setting::new("NIXERY_GC_MAX_UNUSED", "--max-unused"),
    max_age: Setting::new("NIXERY_GC_MAX_AGE", "--max-age"),
    max_size: Setting::new("NIXERY_GC_MAX_SIZE", "--max-size"),
    grace: Setting::new("NIXERY_GC_GRACE", "--grace"),
};

/// Flags and variables of the server's collection of garbage.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Garbage collection")]
pub struct GcArgs {
    /// How often the server collects garbage, such as `6h`; needs one of the limits [default: never]
    #[arg(long, env = "NIXERY_GC_INTERVAL", value_name = "TIME")]
    pub gc_interval: Option<String>,

    /// Drop images that nobody asked for in so long, such as `30d`
    #[arg(long, env = "NIXERY_GC_MAX_UNUSED", value_name = "TIME")]
    pub gc_max_unused: Option<String>,

    /// Drop images that were built longer ago, used or not
    #[arg(long, env = "NIXERY_GC_MAX_AGE", value_name = "TIME")]
    pub gc_max_age: Option<String>,

    /// Drop the least recently used images while all need more than this, such as `100G`
    #[arg(long, env = "NIXERY_GC_MAX_SIZE", value_name = "SIZE")]
    pub gc_max_size: Option<String>,

    /// Keep whatever was written or used in so long; longer than any build and any pull
    /// [default: 6h]
    #[arg(long, env = "NIXERY_GC_GRACE", value_name = "TIME")]
    pub gc_grace: Option<String>,
}

/// Flags and variables of a collection by command: the same policy under shorter flags.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "What stays")]
pub struct GcPolicyArgs {
    /// Drop images that nobody asked for in so long, such as `30d`
    #[arg(long, env = "NIXERY_GC_MAX_UNUSED", value_name = "TIME")]
    pub max_unused: Option<String>,

    /// Drop images that were built longer ago, used or not
    #[arg(long, env = "NIXERY_GC_MAX_AGE", value_name = "TIME")]
    pub max_age: Option<String>,

    /// Drop the least recently used images while all need more than this, such as `100G`
    #[arg(long, env = "NIXERY_GC_MAX_SIZE", value_name = "SIZE")]
    pub max_size: Option<String>,

    /// Keep whatever was written or used in so long; not less than the servers on the store are
    /// told, and longer than any build and any pull [default: 6h]
    #[arg(long, env = "NIXERY_GC_GRACE", value_name = "TIME")]
    pub grace: Option<String>,
}

/// Checked settings of the server's collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcSettings {
    /// How often; `None` for never.
    pub interval: Option<Duration>,
    /// What stays. Its grace counts for use marks also where the server never collects.
    pub policy: GcPolicy,
}

impl GcArgs {
    /// Checks the settings.
    ///
    /// # Errors
    /// Every value that is not allowed; an interval without a limit.
    pub fn settings(&self) -> Result<GcSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let interval = errors.duration(INTERVAL, self.gc_interval.as_deref(), 1);
        let policy = policy(
            &mut errors,
            &SERVER,
            [
                &self.gc_max_unused,
                &self.gc_max_age,
                &self.gc_max_size,
                &self.gc_grace,
            ],
        );
        if let Some(interval) = given(self.gc_interval.as_deref())
            && errors.0.is_empty()
            && !policy.has_limit()
        {
            let allowed = format!("an interval together with {}", limits(&SERVER));
            errors.invalid(INTERVAL, interval, allowed);
        }
        errors.finish(GcSettings { interval, policy })
    }
}

impl GcPolicyArgs {
    /// Checks the settings. A policy without a limit is none: see [`GcPolicy::has_limit`].
    ///
    /// # Errors
    /// Every value that is not allowed.
    pub fn policy(&self) -> Result<GcPolicy, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let texts = [&self.max_unused, &self.max_age, &self.max_size, &self.grace];
        let policy = policy(&mut errors, &COMMAND, texts);
        errors.finish(policy)
    }

    /// The settings of which one is needed, for messages.
    #[must_use]
    pub fn limits() -> String {
        limits(&COMMAND)
    }
}

impl GcSettings {
    /// What is odd about them though they are allowed, for a warning; `longest_build` is the time
    /// after which Nix is stopped.
    #[must_use]
    pub fn oddity(&self, longest_build: Duration) -> Option<String> {
        let grace = self.policy.grace;
        // A build must end well within: marks it relies on may be a quarter of the grace old.
        (self.interval.is_some() && grace * 3 / 4 < longest_build).then(|| {
            format!(
                "{} is {} s, and an image may take {} s to be evaluated and built (NIXERY_EVAL_TIMEOUT, NIX_TIMEOUT): layers of a build that takes so long may be collected before it ends, and are then built again; let the grace be a third longer than a build",
                SERVER.grace,
                grace.as_secs(),
                longest_build.as_secs()
            )
        })
    }
}

fn limits(names: &Names) -> String {
    let Names {
        max_unused,
        max_age,
        max_size,
        ..
    } = names;
    format!("{max_unused}, {max_age} or {max_size}")
}

fn policy(errors: &mut ConfigErrors, names: &Names, texts: [&Option<String>; 4]) -> GcPolicy {
    let [max_unused, max_age, max_size, grace] = texts.map(Option::as_deref);
    GcPolicy {
        max_unused: errors.duration(names.max_unused, max_unused, 1),
        max_age: errors.duration(names.max_age, max_age, 1),
        max_size: errors.size(names.max_size, max_size),
        grace: errors
            .duration(names.grace, grace, 1)
            .unwrap_or(DEFAULT_GC_GRACE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn an_interval_needs_a_limit() {
        let mut arguments = GcArgs {
            gc_interval: some("6h"),
            gc_grace: some("1h"),
            ..GcArgs::default()
        };
        let errors = arguments.settings().unwrap_err().to_string();
        assert_eq!(
            errors,
            "NIXERY_GC_INTERVAL (--gc-interval) is \"6h\"; allowed: an interval together with \
             NIXERY_GC_MAX_UNUSED (--gc-max-unused), NIXERY_GC_MAX_AGE (--gc-max-age) or \
             NIXERY_GC_MAX_SIZE (--gc-max-size)"
        );
        arguments.gc_max_size = some("100G");
        let settings = arguments.settings().unwrap();
        assert_eq!(settings.interval, Some(Duration::from_secs(21_600)));
        assert_eq!(settings.policy.max_size, Some(100_000_000_000));
    }

    #[test]
    fn nothing_is_collected_unless_asked_for() {
        let settings = GcArgs::default().settings().unwrap();
        assert_eq!(settings.interval, None);
        assert_eq!(settings.policy, GcPolicy::default());
        assert!(!GcPolicyArgs::default().policy().unwrap().has_limit());
    }

    #[test]
    fn a_grace_shorter_than_a_build_is_odd() {
        let arguments = GcArgs {
            gc_interval: some("6h"),
            gc_max_unused: some("30d"),
            gc_grace: some("30m"),
            ..GcArgs::default()
        };
        let settings = arguments.settings().unwrap();
        let oddity = settings.oddity(Duration::from_secs(2100)).unwrap();
        assert!(
            oddity.starts_with("NIXERY_GC_GRACE (--gc-grace) is 1800 s"),
            "{oddity}"
        );
        assert_eq!(settings.oddity(Duration::from_secs(600)), None);
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let arguments = GcPolicyArgs {
            max_unused: some("a month"),
            max_age: some("0"),
            max_size: some("100 gigs"),
            grace: some("-1"),
        };
        let errors = arguments.policy().unwrap_err();
        assert_eq!(errors.0.len(), 4, "{errors}");
        assert!(errors.to_string().contains("(--max-size)"), "{errors}");
    }
}
