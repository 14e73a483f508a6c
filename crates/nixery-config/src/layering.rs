//! The settings of layers.

use std::num::NonZeroUsize;

use nixery_core::{Codec, DEFAULT_BUDGET, Weight};

use crate::arguments::Section;
use crate::building::{MAX_COUNT, cores};
use crate::check::Checker;
use crate::table::{
    COMPRESSION, Group, LAYER_BUDGET, LAYER_PLAN, LAYER_PLAN_HOUR, LAYER_STRATEGY, LAYER_WEIGHT,
    PACK_THREADS, POPULARITY_THRESHOLD, POPULARITY_URL, Setting,
};

/// The value of [`LAYER_PLAN`] for a plan that the servers on a store learn.
const LEARNED: &str = "learned";
/// Docker refuses images with more layers than this.
const MAX_LAYERS: usize = 125;
const CODECS: [(&str, Codec); 3] = [
    ("gzip", Codec::Gzip),
    ("gzip-single", Codec::GzipSingle),
    ("zstd", Codec::Zstd),
];
const WEIGHTS: [(&str, Weight); 2] = [
    ("closure-size", Weight::ClosureSize),
    ("nar-size", Weight::NarSize),
];

/// Checked settings of making layers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayeringSettings {
    /// Limit of layers in an image.
    pub budget: NonZeroUsize,
    /// How packages are grouped.
    pub strategy: StrategySettings,
    /// How layers are compressed.
    pub compression: Codec,
    /// Threads that pack layers.
    pub pack_threads: usize,
    /// A warning for each setting that is set and has no effect.
    pub ignored: Vec<String>,
}

/// A layer strategy whose data is not loaded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StrategySettings {
    /// Large paths get a layer each; small ones are grouped by the size of what they need.
    Size,
    /// Paths are grouped by a cluster plan.
    Plan {
        /// The path or URL of the plan.
        location: String,
    },
    /// Paths are grouped by the cluster plan that the servers on the store have learned.
    Learned {
        /// The hour of the day, in UTC, in which a server learns a plan.
        hour: u8,
    },
    /// The strategy of the original.
    Dominator {
        /// The path or URL of popularity data.
        popularity: Option<String>,
        /// Popularity from which a path gets its own layer.
        threshold: u64,
        /// The size that a path weighs.
        weight: Weight,
    },
}

impl StrategySettings {
    /// Returns the name in the configuration.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Plan { .. } | Self::Learned { .. } => "plan",
            Self::Dominator { .. } => "dominator",
        }
    }
}

/// The values of [`LAYER_STRATEGY`].
const STRATEGIES: [&str; 4] = ["auto", "size", "plan", "dominator"];

impl Section for LayeringSettings {
    const GROUPS: &'static [Group] = &[Group::Layers];

    fn read(checker: &mut Checker<'_>) -> Option<Self> {
        let budget = checker.number(LAYER_BUDGET, 1..=MAX_LAYERS);
        let strategy = strategy(checker)?;
        Some(Self {
            budget: NonZeroUsize::new(budget).unwrap_or(DEFAULT_BUDGET),
            ignored: ignored(checker, &strategy),
            strategy,
            compression: checker.choice(COMPRESSION, &CODECS)?,
            pack_threads: checker
                .optional_number(PACK_THREADS, 1..=MAX_COUNT)
                .unwrap_or_else(cores),
        })
    }
}

/// Reads the strategy. The settings of other strategies are checked as well.
fn strategy(checker: &mut Checker<'_>) -> Option<StrategySettings> {
    let choice = checker.choice(LAYER_STRATEGY, &STRATEGIES.map(|word| (word, word)))?;
    let hour = checker.number(LAYER_PLAN_HOUR, 0..=23);
    let popularity = location(checker, POPULARITY_URL);
    let dominator = StrategySettings::Dominator {
        threshold: checker.number(POPULARITY_THRESHOLD, 1..=u64::MAX),
        weight: checker.choice(LAYER_WEIGHT, &WEIGHTS)?,
        popularity: popularity.clone(),
    };
    let strategy = match (choice, location(checker, LAYER_PLAN)) {
        ("auto" | "plan", Some(plan)) if plan == LEARNED => {
            checker.needs(LAYER_PLAN, cfg!(feature = "lab"), "lab");
            StrategySettings::Learned { hour }
        }
        ("auto" | "plan", Some(location)) => StrategySettings::Plan { location },
        ("plan", None) => {
            let needed = format!(
                "the path or URL of a cluster plan, as `nixery lab plan build` writes it, because {LAYER_STRATEGY} is plan"
            );
            checker.missing(LAYER_PLAN, needed);
            StrategySettings::Size
        }
        // Popularity data that is set shall be used.
        ("auto", None) if popularity.is_some() => dominator,
        ("dominator", _) => dominator,
        _ => StrategySettings::Size,
    };
    Some(strategy)
}

/// Reads the path or URL of a strategy's data.
fn location(checker: &mut Checker<'_>, setting: &Setting) -> Option<String> {
    let location = checker.text(setting)?;
    let remote = ["http://", "https://"]
        .iter()
        .any(|scheme| location.starts_with(scheme));
    checker.needs(setting, !remote || cfg!(feature = "http"), "http");
    Some(location)
}

/// Returns a warning for what was set for other strategies than the chosen one.
fn ignored(checker: &Checker<'_>, strategy: &StrategySettings) -> Vec<String> {
    let dominator = matches!(strategy, StrategySettings::Dominator { .. });
    let learned = matches!(strategy, StrategySettings::Learned { .. });
    let plan = learned || matches!(strategy, StrategySettings::Plan { .. });
    let why = format!("the layer strategy is {}", strategy.name());
    let mut ignored = checker.unused((!plan).then_some(LAYER_PLAN), &why);
    if !dominator {
        let unused = [POPULARITY_THRESHOLD, LAYER_WEIGHT, POPULARITY_URL];
        ignored.extend(checker.unused(unused, &why));
    }
    if !learned {
        let why = format!("{LAYER_PLAN} is not '{LEARNED}', or the layer strategy is not plan");
        ignored.extend(checker.unused([LAYER_PLAN_HOUR], &why));
    }
    ignored
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arguments;
    use rstest::rstest;

    #[rstest]
    #[case::budget(
        LAYER_BUDGET,
        "126",
        "NIXERY_LAYER_BUDGET (--layer-budget) is \"126\"; allowed: a whole number from 1 to 125"
    )]
    #[case::strategy(
        LAYER_STRATEGY,
        "best",
        "NIXERY_LAYER_STRATEGY (--layer-strategy) is \"best\"; allowed: auto, size, plan, dominator"
    )]
    #[case::plan(
        LAYER_STRATEGY,
        "plan",
        "NIXERY_LAYER_PLAN (--layer-plan) is not set; needed: the path or URL of a cluster plan"
    )]
    #[case::hour(
        LAYER_PLAN_HOUR,
        "24",
        "NIXERY_LAYER_PLAN_HOUR (--layer-plan-hour) is \"24\"; allowed: a whole number from 0 to 23"
    )]
    #[case::threshold(POPULARITY_THRESHOLD, "-1", "NIXERY_POPULARITY_THRESHOLD")]
    #[case::weight(
        LAYER_WEIGHT,
        "size",
        "NIXERY_LAYER_WEIGHT (--layer-weight) is \"size\"; allowed: closure-size, nar-size"
    )]
    #[case::compression(
        COMPRESSION,
        "xz",
        "NIXERY_COMPRESSION (--compression) is \"xz\"; allowed: gzip, gzip-single, zstd"
    )]
    #[case::threads(PACK_THREADS, "0", "NIXERY_PACK_THREADS")]
    fn wrong_layer_settings_are_refused(
        #[case] setting: &Setting,
        #[case] value: &str,
        #[case] expected: &str,
    ) {
        let arguments = Arguments::<LayeringSettings>::default().with(setting, value);
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
        let arguments = Arguments::<LayeringSettings>::default()
            .with(LAYER_STRATEGY, strategy.unwrap_or_default())
            .with(LAYER_PLAN, plan.unwrap_or_default())
            .with(POPULARITY_URL, popularity.unwrap_or_default());
        let settings = arguments.settings().unwrap();
        assert_eq!(settings.strategy.name(), expected);
        assert_eq!(settings.ignored.len(), ignored, "{:?}", settings.ignored);
    }

    #[test]
    fn settings_of_other_strategies_are_not_ignored_silently() {
        let arguments = Arguments::<LayeringSettings>::default()
            .with(POPULARITY_THRESHOLD, "9")
            .with(LAYER_WEIGHT, "nar-size");
        assert_eq!(
            arguments.settings().unwrap().ignored,
            [
                "NIXERY_POPULARITY_THRESHOLD (--popularity-threshold) is set but not used: the layer strategy is size",
                "NIXERY_LAYER_WEIGHT (--layer-weight) is set but not used: the layer strategy is size",
            ]
        );
    }

    #[cfg(feature = "lab")]
    #[rstest]
    #[case::alone(None, None, 3)]
    #[case::empty(None, Some(""), 3)]
    #[case::chosen(Some("plan"), Some("23"), 23)]
    fn a_plan_may_be_learned(
        #[case] strategy: Option<&str>,
        #[case] hour: Option<&str>,
        #[case] expected: u8,
    ) {
        let arguments = Arguments::<LayeringSettings>::default()
            .with(LAYER_STRATEGY, strategy.unwrap_or_default())
            .with(LAYER_PLAN, "learned")
            .with(LAYER_PLAN_HOUR, hour.unwrap_or_default());
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
        let arguments = Arguments::<LayeringSettings>::default()
            .with(LAYER_PLAN, plan.unwrap_or_default())
            .with(LAYER_PLAN_HOUR, "4");
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
        let layers = Arguments::<LayeringSettings>::default().settings().unwrap();
        assert_eq!(layers.budget.get(), 94);
        assert_eq!(layers.strategy, StrategySettings::Size);
        assert_eq!(layers.compression, Codec::Gzip);
        let original = Arguments::<LayeringSettings>::default().with(LAYER_STRATEGY, "dominator");
        let dominator = StrategySettings::Dominator {
            popularity: None,
            threshold: 100,
            weight: Weight::ClosureSize,
        };
        assert_eq!(original.settings().unwrap().strategy, dominator);
    }
}
