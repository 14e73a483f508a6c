//! The layer strategies of a command, and their data.

use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::Result;
use clap::ValueEnum;
use nixery_builder::{budget_of_paths, load_cluster_plan, load_popularity};
use nixery_core::{
    ClusterPlan, Clustered, DEFAULT_BUDGET, DEFAULT_THRESHOLD, Dominator, LayerStrategy,
    Popularity, Size, Weight,
};

use super::graph::GraphArgs;
use crate::errors::usage;

/// The budget, and the data of the strategies.
#[derive(clap::Args)]
pub(crate) struct DataArgs {
    /// Popularity data, as `nixery lab popcount` writes it: a path or a URL [default: none]
    #[arg(long, value_name = "FILE", visible_alias = "popularity")]
    pop: Option<String>,

    /// A cluster plan, as `nixery lab plan build` writes it: a path or a URL [default: none]
    #[arg(long, value_name = "FILE")]
    plan: Option<String>,

    /// Limit of layers. One layer of an image is the root layer, which is not shown
    #[arg(long, value_name = "COUNT", default_value_t = DEFAULT_BUDGET)]
    pub(crate) budget: NonZeroUsize,

    /// For `dominator`: the popularity from which a path is separated from the paths that need it
    /// [default: 100]
    #[arg(long, value_name = "COUNT")]
    threshold: Option<u64>,

    /// For `dominator`: the size that counts when groups are merged [default: closure]
    #[arg(long, value_enum, value_name = "SIZE")]
    weight: Option<WeightName>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Strategy {
    /// As in the original Nixery: a path and what only it needs, by popularity and size
    Dominator,
    /// By size, without data
    Size,
    /// By the cluster plan of --plan
    Plan,
}

#[derive(Clone, Copy, ValueEnum)]
enum WeightName {
    /// The path with all that it references, as in the original's code
    #[value(alias = "closure-size")]
    Closure,
    /// Only the path
    #[value(alias = "nar-size")]
    Nar,
}

/// The loaded data.
pub(crate) struct Data {
    /// The strategy that is used when none is named.
    best: Strategy,
    pub(crate) budget: NonZeroUsize,
    /// Looked up across versions, as in a registry.
    pub(super) popularity: Option<Popularity>,
    exact_popularity: Option<Popularity>,
    pub(super) plan: Option<Arc<ClusterPlan>>,
    threshold: u64,
    weight: Weight,
}

/// A strategy and its name in tables.
pub(crate) struct Named {
    pub(crate) name: &'static str,
    pub(crate) strategy: Box<dyn LayerStrategy>,
}

impl DataArgs {
    /// Loads the data.
    ///
    /// # Errors
    /// A file or URL cannot be read.
    pub(crate) async fn load(&self) -> Result<Data> {
        let exact_popularity = match &self.pop {
            Some(location) => Some(load_popularity(location).await?),
            None => None,
        };
        let plan = match &self.plan {
            Some(location) => Some(Arc::new(load_cluster_plan(location).await?)),
            None => None,
        };
        // As in a registry. Options of `dominator` select it, too.
        let for_dominator = self.pop.is_some() || self.threshold.is_some() || self.weight.is_some();
        let best = match &plan {
            Some(_) => Strategy::Plan,
            None if for_dominator => Strategy::Dominator,
            None => Strategy::Size,
        };
        Ok(Data {
            best,
            budget: self.budget,
            popularity: exact_popularity.clone().map(Popularity::across_versions),
            exact_popularity,
            plan,
            threshold: self.threshold.unwrap_or(DEFAULT_THRESHOLD),
            weight: match self.weight {
                None | Some(WeightName::Closure) => Weight::ClosureSize,
                Some(WeightName::Nar) => Weight::NarSize,
            },
        })
    }

    /// Loads the data for a graph or image. The root layer is part of an image's budget, as in a
    /// registry.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(super) async fn load_for(&self, graph: &GraphArgs) -> Result<Data> {
        let mut data = self.load().await?;
        if graph.is_image() {
            data.budget = budget_of_paths(data.budget);
        }
        Ok(data)
    }
}

impl Data {
    /// Returns the named strategy, or the one that a registry with this data uses.
    ///
    /// # Errors
    /// `plan` is named, and there is no plan.
    pub(super) fn one(&self, strategy: Option<Strategy>) -> Result<Box<dyn LayerStrategy>> {
        Ok(match strategy.unwrap_or(self.best) {
            Strategy::Dominator => self.dominator(self.popularity.clone().unwrap_or_default()),
            Strategy::Size => Box::new(Size),
            Strategy::Plan => self.clustered()?,
        })
    }

    /// Returns the named strategies, or all that there is data for; `dominator` in all variants.
    ///
    /// # Errors
    /// As [`Self::one`].
    pub(crate) fn all(&self, strategies: &[Strategy]) -> Result<Vec<Named>> {
        let wanted = |strategy| strategies.contains(&strategy) || strategies.is_empty();
        let mut all = Vec::new();
        let mut add = |name, strategy| all.push(Named { name, strategy });
        if wanted(Strategy::Dominator) {
            let none = self.dominator(Popularity::default());
            add("dominator, no popularity", none);
            if let (Some(exact), Some(any)) = (&self.exact_popularity, &self.popularity) {
                let (exact, any) = (exact.clone(), any.clone());
                add(
                    "dominator, popularity of exact names",
                    self.dominator(exact),
                );
                add("dominator, popularity of any version", self.dominator(any));
            }
        }
        if wanted(Strategy::Size) {
            add("size", Box::new(Size));
        }
        if wanted(Strategy::Plan) && (self.plan.is_some() || !strategies.is_empty()) {
            add("plan", self.clustered()?);
        }
        Ok(all)
    }

    fn dominator(&self, popularity: Popularity) -> Box<dyn LayerStrategy> {
        Box::new(Dominator {
            popularity: Arc::new(popularity),
            threshold: self.threshold,
            weight: self.weight,
        })
    }

    fn clustered(&self) -> Result<Box<dyn LayerStrategy>> {
        match &self.plan {
            Some(plan) => Ok(Box::new(Clustered { plan: plan.clone() })),
            None => Err(usage(
                "--strategy plan needs a cluster plan. Fix: name one with --plan FILE",
            )),
        }
    }
}
