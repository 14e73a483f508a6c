//! How Nix's results become layers.

use super::building::{MANY, cores};
use super::value::{ConfigErrors, Setting, given};
use nixery_builder::DEFAULT_LAYER_BUDGET;
use nixery_core::Codec;
use nixery_core::plan::{DEFAULT_THRESHOLD, Weight};
use std::num::NonZeroUsize;

const BUDGET: Setting = Setting::new("NIXERY_LAYER_BUDGET", "--layer-budget");
const STRATEGY: Setting = Setting::new("NIXERY_LAYER_STRATEGY", "--layer-strategy");
const PLAN: Setting = Setting::new("NIXERY_LAYER_PLAN", "--layer-plan");
const PLAN_HOUR: Setting = Setting::new("NIXERY_LAYER_PLAN_HOUR", "--layer-plan-hour");
const THRESHOLD: Setting = Setting::new("NIXERY_POPULARITY_THRESHOLD", "--popularity-threshold");
const WEIGHT: Setting = Setting::new("NIXERY_LAYER_WEIGHT", "--layer-weight");
const POPULARITY: Setting = Setting::new("NIX_POPULARITY_URL", "--popularity-url");
const COMPRESSION: Setting = Setting::new("NIXERY_COMPRESSION", "--compression");
const PACK_THREADS: Setting = Setting::new("NIXERY_PACK_THREADS", "--pack-threads");

/// What stands for a plan where the servers on a store are to learn one.
const LEARNED: &str = "learned";
/// When they do so, unless configured.
const DEFAULT_PLAN_HOUR: u8 = 3;

/// Docker refuses images with more layers than this.
const MOST_LAYERS: usize = 125;

/// Flags and variables of making layers.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Layers")]
pub struct LayeringArgs {
    /// Most layers an image may have; Docker's limit is 125 [default: 94]
    #[arg(long, env = "NIXERY_LAYER_BUDGET", value_name = "COUNT")]
    pub layer_budget: Option<String>,

    /// How packages are grouped into layers: `size`, `plan`, `dominator` (as in the original), or `auto`:
    /// `plan` where a cluster plan is set, else `dominator` where popularity data is, else `size`
    /// [default: auto]
    #[arg(long, env = "NIXERY_LAYER_STRATEGY", value_name = "NAME")]
    pub layer_strategy: Option<String>,

    /// Cluster plan for the strategy `plan`, as `nixery plan build` writes it: an http, https or file
    /// URL, or a path; or the word `learned`: the plan that the servers on the store make of the
    /// images they built
    #[arg(
        long,
        env = "NIXERY_LAYER_PLAN",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub layer_plan: Option<String>,

    /// The hour of the day, in UTC, in which one of the servers on the store looks whether it is time
    /// for another plan, where it is `learned` [default: 3]
    #[arg(long, env = "NIXERY_LAYER_PLAN_HOUR", value_name = "HOUR")]
    pub layer_plan_hour: Option<String>,

    /// Popularity from which the strategy `dominator` gives a package a layer of its own [default: 100]
    #[arg(long, env = "NIXERY_POPULARITY_THRESHOLD", value_name = "COUNT")]
    pub popularity_threshold: Option<String>,

    /// The size a package weighs when the strategy `dominator` merges layers: `closure-size` or
    /// `nar-size` [default: closure-size, as in the original]
    #[arg(long, env = "NIXERY_LAYER_WEIGHT", value_name = "SIZE")]
    pub layer_weight: Option<String>,

    /// Popularity data for the strategy `dominator`, as `nixery popcount` writes it: an http, https or
    /// file URL, or a path [default: every package is equally popular]
    #[arg(
        long,
        env = "NIX_POPULARITY_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub popularity_url: Option<String>,

    /// Compression of layers: `gzip`, `gzip-single` (one gzip member, slower), or `zstd` for clients that read OCI
    /// images [default: gzip]
    #[arg(long, env = "NIXERY_COMPRESSION", value_name = "KIND")]
    pub compression: Option<String>,

    /// Threads that pack and compress layers [default: the cores]
    #[arg(long, env = "NIXERY_PACK_THREADS", value_name = "COUNT")]
    pub pack_threads: Option<String>,
}

/// Checked settings of making layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayeringSettings {
    /// Most layers in an image.
    pub budget: NonZeroUsize,
    /// How packages are grouped.
    pub strategy: StrategySettings,
    /// How layers are compressed.
    pub compression: Codec,
    /// Threads that pack layers.
    pub pack_threads: usize,
    /// Settings of other strategies that are set all the same, a sentence each.
    pub ignored: Vec<String>,
}

/// A layer strategy, its data not loaded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StrategySettings {
    /// Large paths alone, the small ones by how much they need.
    Size,
    /// By a cluster plan.
    Plan {
        /// Where it is.
        location: String,
    },
    /// By the cluster plan that the servers on the store have learned.
    Learned {
        /// The hour of the day, in UTC, in which they learn.
        hour: u8,
    },
    /// The original's.
    Dominator {
        /// Where popularity data is.
        popularity: Option<String>,
        /// Popularity from which a path gets its own layer.
        threshold: u64,
        /// The size that a path weighs.
        weight: Weight,
    },
}

impl StrategySettings {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Plan { .. } | Self::Learned { .. } => "plan",
            Self::Dominator { .. } => "dominator",
        }
    }
}

/// What `NIXERY_LAYER_STRATEGY` says.
#[derive(Debug, Clone, Copy)]
enum Choice {
    Auto,
    Size,
    Plan,
    Dominator,
}

impl LayeringArgs {
    /// Checks the settings; those of other strategies than the chosen one are listed as ignored.
    ///
    /// # Errors
    /// Every value that is not allowed.
    pub fn settings(&self) -> Result<LayeringSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let budget = errors.number(
            BUDGET,
            self.layer_budget.as_deref(),
            DEFAULT_LAYER_BUDGET.get(),
            1..=MOST_LAYERS,
        );
        let strategy = self.strategy(&mut errors);
        let settings = LayeringSettings {
            budget: NonZeroUsize::new(budget).unwrap_or(DEFAULT_LAYER_BUDGET),
            ignored: self.ignored(&strategy),
            strategy,
            compression: errors.choice(
                COMPRESSION,
                self.compression.as_deref(),
                Codec::Gzip,
                &[
                    ("gzip", Codec::Gzip),
                    ("gzip-single", Codec::GzipSingle),
                    ("zstd", Codec::Zstd),
                ],
            ),
            pack_threads: errors.number(
                PACK_THREADS,
                self.pack_threads.as_deref(),
                cores(),
                1..=MANY,
            ),
        };
        errors.finish(settings)
    }

    /// The strategy. All of its settings are checked, those of others too: a wrong value is wrong.
    fn strategy(&self, errors: &mut ConfigErrors) -> StrategySettings {
        let choice = errors.choice(
            STRATEGY,
            self.layer_strategy.as_deref(),
            Choice::Auto,
            &[
                ("auto", Choice::Auto),
                ("size", Choice::Size),
                ("plan", Choice::Plan),
                ("dominator", Choice::Dominator),
            ],
        );
        let plan = given(self.layer_plan.as_deref());
        let hour = errors.number(
            PLAN_HOUR,
            self.layer_plan_hour.as_deref(),
            DEFAULT_PLAN_HOUR,
            0..=23,
        );
        let popularity = given(self.popularity_url.as_deref());
        let dominator = StrategySettings::Dominator {
            popularity: popularity.map(str::to_owned),
            threshold: errors.number(
                THRESHOLD,
                self.popularity_threshold.as_deref(),
                DEFAULT_THRESHOLD,
                1..=u64::MAX,
            ),
            weight: errors.choice(
                WEIGHT,
                self.layer_weight.as_deref(),
                Weight::default(),
                &[
                    ("closure-size", Weight::ClosureSize),
                    ("nar-size", Weight::NarSize),
                ],
            ),
        };
        match (choice, plan) {
            (Choice::Auto | Choice::Plan, Some(LEARNED)) => StrategySettings::Learned { hour },
            (Choice::Auto | Choice::Plan, Some(location)) => StrategySettings::Plan {
                location: location.to_owned(),
            },
            (Choice::Plan, None) => {
                let needed = format!(
                    "the path or URL of a cluster plan, as `nixery plan build` writes it, since {STRATEGY} is plan"
                );
                errors.missing(PLAN, needed);
                StrategySettings::Size
            }
            // Whoever has popularity data wants it used.
            (Choice::Auto, None) if popularity.is_some() => dominator,
            (Choice::Dominator, _) => dominator,
            (Choice::Auto | Choice::Size, _) => StrategySettings::Size,
        }
    }

    /// What was set for other strategies than the chosen one.
    fn ignored(&self, strategy: &StrategySettings) -> Vec<String> {
        let dominator = matches!(strategy, StrategySettings::Dominator { .. });
        let learned = matches!(strategy, StrategySettings::Learned { .. });
        let plan = learned || matches!(strategy, StrategySettings::Plan { .. });
        let name = strategy.name();
        let hour = given(self.layer_plan_hour.as_deref()).filter(|_| !learned);
        let hour = hour.map(|_| {
            format!("{PLAN_HOUR} is set but not used: {PLAN} is not '{LEARNED}', or the layer strategy is not plan")
        });
        [
            (PLAN, &self.layer_plan, plan),
            (THRESHOLD, &self.popularity_threshold, dominator),
            (WEIGHT, &self.layer_weight, dominator),
            (POPULARITY, &self.popularity_url, dominator),
        ]
        .into_iter()
        .filter(|(_, value, used)| !used && given(value.as_deref()).is_some())
        .map(|(setting, ..)| format!("{setting} is set but not used: the layer strategy is {name}"))
        .chain(hour)
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::budget(|a: &mut LayeringArgs| a.layer_budget = Some("126".into()), "NIXERY_LAYER_BUDGET (--layer-budget) is \"126\"; allowed: a whole number from 1 to 125")]
    #[case::strategy(|a: &mut LayeringArgs| a.layer_strategy = Some("best".into()), "NIXERY_LAYER_STRATEGY (--layer-strategy) is \"best\"; allowed: auto, size, plan, dominator")]
    #[case::plan(|a: &mut LayeringArgs| a.layer_strategy = Some("plan".into()), "NIXERY_LAYER_PLAN (--layer-plan) is not set; needed: the path or URL of a cluster plan")]
    #[case::hour(|a: &mut LayeringArgs| a.layer_plan_hour = Some("24".into()), "NIXERY_LAYER_PLAN_HOUR (--layer-plan-hour) is \"24\"; allowed: a whole number from 0 to 23")]
    #[case::threshold(|a: &mut LayeringArgs| a.popularity_threshold = Some("-1".into()), "NIXERY_POPULARITY_THRESHOLD")]
    #[case::weight(|a: &mut LayeringArgs| a.layer_weight = Some("size".into()), "NIXERY_LAYER_WEIGHT (--layer-weight) is \"size\"; allowed: closure-size, nar-size")]
    #[case::compression(|a: &mut LayeringArgs| a.compression = Some("xz".into()), "NIXERY_COMPRESSION (--compression) is \"xz\"; allowed: gzip, gzip-single, zstd")]
    #[case::threads(|a: &mut LayeringArgs| a.pack_threads = Some("0".into()), "NIXERY_PACK_THREADS")]
    fn wrong_layer_settings_are_refused(
        #[case] set: fn(&mut LayeringArgs),
        #[case] expected: &str,
    ) {
        let mut arguments = LayeringArgs::default();
        set(&mut arguments);
        let message = arguments.settings().unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }

    #[rstest]
    #[case::nothing_set(None, None, None, "size", 0)]
    #[case::empty(Some(""), Some(" "), Some(""), "size", 0)]
    #[case::a_plan(None, Some("p"), None, "plan", 0)]
    #[case::popularity(None, None, Some("p"), "dominator", 0)]
    #[case::both(Some("auto"), Some("p"), Some("p"), "plan", 1)]
    #[case::size(Some("size"), Some("p"), Some("p"), "size", 2)]
    #[case::plan(Some("plan"), Some("p"), Some("p"), "plan", 1)]
    #[case::dominator(Some("dominator"), Some("p"), Some("p"), "dominator", 1)]
    #[case::dominator_alone(Some("dominator"), None, None, "dominator", 0)]
    fn which_strategy(
        #[case] strategy: Option<&str>,
        #[case] plan: Option<&str>,
        #[case] popularity: Option<&str>,
        #[case] expected: &str,
        #[case] ignored: usize,
    ) {
        let own = |text: Option<&str>| text.map(str::to_owned);
        let arguments = LayeringArgs {
            layer_strategy: own(strategy),
            layer_plan: own(plan),
            popularity_url: own(popularity),
            ..LayeringArgs::default()
        };
        let settings = arguments.settings().unwrap();
        assert_eq!(settings.strategy.name(), expected);
        assert_eq!(settings.ignored.len(), ignored, "{:?}", settings.ignored);
    }

    #[test]
    fn settings_of_other_strategies_are_not_ignored_silently() {
        let arguments = LayeringArgs {
            popularity_threshold: Some("9".into()),
            layer_weight: Some("nar-size".into()),
            ..LayeringArgs::default()
        };
        assert_eq!(
            arguments.settings().unwrap().ignored,
            [
                "NIXERY_POPULARITY_THRESHOLD (--popularity-threshold) is set but not used: the layer strategy is size",
                "NIXERY_LAYER_WEIGHT (--layer-weight) is set but not used: the layer strategy is size",
            ]
        );
    }

    #[rstest]
    #[case::alone(None, None, 3)]
    #[case::empty(None, Some(""), 3)]
    #[case::chosen(Some("plan"), Some("23"), 23)]
    fn a_plan_may_be_learned(
        #[case] strategy: Option<&str>,
        #[case] hour: Option<&str>,
        #[case] expected: u8,
    ) {
        let arguments = LayeringArgs {
            layer_strategy: strategy.map(str::to_owned),
            layer_plan: Some("learned".into()),
            layer_plan_hour: hour.map(str::to_owned),
            ..LayeringArgs::default()
        };
        let settings = arguments.settings().unwrap();
        assert_eq!(
            settings.strategy,
            StrategySettings::Learned { hour: expected }
        );
        assert!(settings.ignored.is_empty(), "{:?}", settings.ignored);
    }

    #[rstest]
    #[case::a_file(Some("./learned"))]
    #[case::none(None)]
    fn an_hour_is_for_plans_that_are_learned(#[case] plan: Option<&str>) {
        let arguments = LayeringArgs {
            layer_plan: plan.map(str::to_owned),
            layer_plan_hour: Some("4".into()),
            ..LayeringArgs::default()
        };
        let ignored = arguments.settings().unwrap().ignored;
        assert_eq!(
            ignored,
            [
                "NIXERY_LAYER_PLAN_HOUR (--layer-plan-hour) is set but not used: NIXERY_LAYER_PLAN (--layer-plan) is not 'learned', or the layer strategy is not plan"
            ]
        );
    }

    #[test]
    fn the_defaults_need_nothing() {
        let layers = LayeringArgs::default().settings().unwrap();
        assert_eq!(layers.budget.get(), 94);
        assert_eq!(layers.strategy, StrategySettings::Size);
        assert_eq!(layers.compression, Codec::Gzip);
        let original = LayeringArgs {
            layer_strategy: Some("dominator".into()),
            ..LayeringArgs::default()
        };
        let dominator = StrategySettings::Dominator {
            popularity: None,
            threshold: 100,
            weight: Weight::ClosureSize,
        };
        assert_eq!(original.settings().unwrap().strategy, dominator);
    }
}
