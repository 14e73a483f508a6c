//! Which strategies a command plans with, and the data they plan by.

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
use crate::errors::Usage;

/// What every strategy is told.
#[derive(clap::Args)]
pub(super) struct DataArgs {
    /// Popularity data, as `nixery popcount` writes it: a path or a URL [default: none]
    #[arg(long, value_name = "FILE", visible_alias = "popularity")]
    pop: Option<String>,

    /// A cluster plan, as `nixery plan build` writes it: a path or a URL [default: none]
    #[arg(long, value_name = "FILE")]
    plan: Option<String>,

    /// Most layers; of an image one of them is the root layer, which is not shown
    #[arg(long, value_name = "COUNT", default_value_t = DEFAULT_BUDGET)]
    pub(super) budget: NonZeroUsize,

    /// For `dominator`: popularity from which a path is separated from what needs it [default: 100]
    #[arg(long, value_name = "COUNT")]
    threshold: Option<u64>,

    /// For `dominator`: the size that a path weighs when groups are merged [default: closure]
    #[arg(long, value_enum, value_name = "SIZE")]
    weight: Option<WeightName>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Strategy {
    /// The original's: dominator trees, popularity times size
    Dominator,
    /// By size alone, without any data
    Size,
    /// By a cluster plan, which --plan names
    Plan,
}

#[derive(Clone, Copy, ValueEnum)]
enum WeightName {
    /// With all it references, as the original's code has it
    #[value(alias = "closure-size")]
    Closure,
    /// The path alone
    #[value(alias = "nar-size")]
    Nar,
}

/// The data, loaded.
pub(super) struct Data {
    /// The strategy where none is asked for.
    best: Strategy,
    pub(super) budget: NonZeroUsize,
    /// Looked up across versions, as servers do.
    pub(super) popularity: Option<Popularity>,
    exact_popularity: Option<Popularity>,
    pub(super) plan: Option<Arc<ClusterPlan>>,
    threshold: u64,
    weight: Weight,
}

/// A strategy and what to call it.
pub(super) struct Named {
    pub(super) name: &'static str,
    pub(super) strategy: Box<dyn LayerStrategy>,
}

impl DataArgs {
    pub(super) async fn load(&self) -> Result<Data> {
        let exact_popularity = match &self.pop {
            Some(location) => Some(load_popularity(location).await?),
            None => None,
        };
        let plan = match &self.plan {
            Some(location) => Some(Arc::new(load_cluster_plan(location).await?)),
            None => None,
        };
        // As a registry chooses; and whoever says how `dominator` is to group wants it.
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

    /// The same for the graph or image that a command is about: of an image's budget the root layer takes its part,
    /// as in a registry.
    pub(super) async fn load_for(&self, graph: &GraphArgs) -> Result<Data> {
        let mut data = self.load().await?;
        if graph.is_image() {
            data.budget = budget_of_paths(data.budget);
        }
        Ok(data)
    }
}

impl Data {
    /// The strategy asked for, else the one that is taken without a word.
    pub(super) fn one(&self, strategy: Option<Strategy>) -> Result<Box<dyn LayerStrategy>> {
        Ok(match strategy.unwrap_or(self.best) {
            Strategy::Dominator => self.dominator(self.popularity.clone().unwrap_or_default()),
            Strategy::Size => Box::new(Size),
            Strategy::Plan => self.clustered()?,
        })
    }

    /// The strategies asked for, else all that there is data for; `dominator` in all variants.
    pub(super) fn all(&self, strategies: &[Strategy]) -> Result<Vec<Named>> {
        let wanted = |strategy| strategies.contains(&strategy) || strategies.is_empty();
        let mut all = Vec::new();
        if wanted(Strategy::Dominator) {
            let name = "dominator, no popularity";
            let strategy = self.dominator(Popularity::default());
            all.push(Named { name, strategy });
            if let Some(popularity) = &self.exact_popularity {
                let name = "dominator, popularity of exact names";
                let strategy = self.dominator(popularity.clone());
                all.push(Named { name, strategy });
            }
            if let Some(popularity) = &self.popularity {
                let name = "dominator, popularity of any version";
                let strategy = self.dominator(popularity.clone());
                all.push(Named { name, strategy });
            }
        }
        if wanted(Strategy::Size) {
            let strategy = Box::new(Size);
            all.push(Named {
                name: "size",
                strategy,
            });
        }
        if wanted(Strategy::Plan) && (self.plan.is_some() || !strategies.is_empty()) {
            let strategy = self.clustered()?;
            all.push(Named {
                name: "plan",
                strategy,
            });
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
            None => {
                let message = "--strategy plan needs a plan: name one with --plan FILE";
                Err(Usage(message.to_owned()).into())
            }
        }
    }
}
