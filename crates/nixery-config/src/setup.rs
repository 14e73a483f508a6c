//! From checked settings to a blob store, Nix and a builder.

use crate::table::{LAYER_PLAN, POPULARITY_URL};
use crate::{LayeringSettings, NixSettings, StorageBackend, StorageSettings, StrategySettings};
use nixery_builder::{
    Builder, BuilderConfig, BuilderError, LoadError, default_eval_interval, load_cluster_plan,
    load_popularity,
};
use nixery_core::ClusterPlan;
use nixery_core::PackageSource;
use nixery_core::Popularity;
use nixery_core::{Clustered, Dominator, LayerStrategy, Size};
#[cfg(feature = "lab")]
use nixery_lab::learned::{self, LearnError};
use nixery_nix::{Finding, Nix, NixCli, NixCliConfig, NixCliError};
#[cfg(feature = "gcs")]
use nixery_storage::GcsStorage;
#[cfg(feature = "s3")]
use nixery_storage::S3Storage;
use nixery_storage::{FilesystemStorage, Storage, StorageError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Why the store, Nix or the builder cannot be used. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The blob store cannot be used.
    #[error("the blob store cannot be used. Fix: {hint}")]
    Storage {
        /// What to do.
        hint: &'static str,
        /// What is wrong.
        #[source]
        source: Box<StorageError>,
    },
    /// Popularity data cannot be loaded.
    #[error(
        "the popularity data of {POPULARITY_URL} cannot be loaded. Fix: correct the setting, or unset it to do without"
    )]
    Popularity(#[source] Box<LoadError>),
    /// The cluster plan cannot be loaded.
    #[error(
        "the cluster plan of {LAYER_PLAN} cannot be loaded. Fix: correct the setting, or unset it to do without"
    )]
    Plan(#[source] Box<LoadError>),
    /// The learned plan cannot be read from the store.
    #[cfg(feature = "lab")]
    #[error("the learned layer plan cannot be read")]
    Learned(#[source] Box<LearnError>),
    /// The Nix command-line tools cannot be prepared.
    #[error(transparent)]
    NixCli(#[from] NixCliError),
    /// The builder cannot work.
    #[error(transparent)]
    Builder(#[from] BuilderError),
    /// Nix cannot work here. The findings say why, and how to fix it.
    #[error("Nix cannot build images here:\n{}", .0.iter().map(line).collect::<Vec<_>>().join("\n"))]
    Nix(Vec<Finding>),
}

/// One line for a finding of the preflight.
#[must_use]
pub fn line(finding: &Finding) -> String {
    let problem = finding.problem.trim_end_matches('.');
    format!("{problem}. Fix: {}", finding.remedy)
}

/// Opens the blob store; on the filesystem it is created where there is none.
///
/// # Errors
/// [`SetupError::Storage`].
pub fn storage(settings: &StorageSettings) -> Result<Arc<dyn Storage>, SetupError> {
    let storage = match &settings.backend {
        StorageBackend::Filesystem(path) => FilesystemStorage::open(path).map(shared),
        #[cfg(feature = "s3")]
        StorageBackend::S3(config) => S3Storage::open(config.clone()).map(shared),
        #[cfg(feature = "gcs")]
        StorageBackend::Gcs(config) => GcsStorage::open(config.clone()).map(shared),
    };
    storage.map_err(unusable(&settings.backend))
}

/// Opens a blob store that exists, writing nothing to it.
///
/// # Errors
/// There is none, or it cannot be used.
pub fn existing_storage(settings: &StorageSettings) -> Result<Arc<dyn Storage>, StorageError> {
    match &settings.backend {
        StorageBackend::Filesystem(path) => FilesystemStorage::open_existing(path).map(shared),
        #[cfg(feature = "s3")]
        StorageBackend::S3(config) => S3Storage::open(config.clone()).map(shared),
        #[cfg(feature = "gcs")]
        StorageBackend::Gcs(config) => GcsStorage::open(config.clone()).map(shared),
    }
}

fn shared(storage: impl Storage + 'static) -> Arc<dyn Storage> {
    Arc::new(storage)
}

fn unusable(backend: &StorageBackend) -> impl Fn(StorageError) -> SetupError + use<> {
    let hint = backend.hint();
    move |source| SetupError::Storage {
        hint,
        source: Box::new(source),
    }
}

/// Opens the blob store and checks that it works.
///
/// # Errors
/// [`SetupError::Storage`].
pub async fn working_storage(settings: &StorageSettings) -> Result<Arc<dyn Storage>, SetupError> {
    let storage = storage(settings)?;
    let checked = storage.check().await;
    checked.map_err(unusable(&settings.backend))?;
    Ok(storage)
}

/// Nix by its command-line tools; `spool` gets the built-in Nix files.
///
/// # Errors
/// [`SetupError::Builder`].
pub fn nix(settings: &NixSettings, spool: &Path) -> Result<Arc<dyn Nix>, SetupError> {
    Ok(Arc::new(nix_cli(settings, spool)?))
}

/// The same, as its own type, for callers that need more than the trait has.
///
/// # Errors
/// [`SetupError::Builder`].
pub fn nix_cli(settings: &NixSettings, spool: &Path) -> Result<NixCli, SetupError> {
    let config = NixCliConfig {
        nix_dir: settings.nix_dir.clone(),
        evaluate_timeout: settings.evaluate_timeout,
        realise_timeout: settings.realise_timeout,
        max_jobs: settings.max_jobs,
        store: settings.store.clone(),
        ..NixCliConfig::new(spool)
    };
    Ok(NixCli::new(config)?)
}

/// Checks whether Nix works. Returns findings that do not keep it from working.
///
/// # Errors
/// [`SetupError::Nix`] with everything that was found, if no build can succeed.
pub async fn preflight(nix: &dyn Nix) -> Result<Vec<Finding>, SetupError> {
    let findings = nix.preflight().await;
    if findings.iter().any(|finding| finding.fatal) {
        return Err(SetupError::Nix(findings));
    }
    Ok(findings)
}

/// The layer strategy; loads the data it needs. Where a plan is to be learned and the store has none yet
/// that can be used, it is [`Size`].
///
/// # Errors
/// [`SetupError::Plan`], [`SetupError::Learned`], [`SetupError::Popularity`].
pub async fn strategy(
    settings: &StrategySettings,
    #[cfg_attr(not(feature = "lab"), allow(unused_variables))] storage: &dyn Storage,
) -> Result<Arc<dyn LayerStrategy>, SetupError> {
    let strategy: Arc<dyn LayerStrategy> = match settings {
        StrategySettings::Size => Arc::new(Size),
        StrategySettings::Plan { location } => {
            let plan = load_cluster_plan(location)
                .await
                .map_err(|error| SetupError::Plan(Box::new(error)))?;
            clustered(Arc::new(plan))
        }
        // The settings refuse it.
        #[cfg(not(feature = "lab"))]
        StrategySettings::Learned { .. } => Arc::new(Size),
        #[cfg(feature = "lab")]
        StrategySettings::Learned { .. } => {
            let learned = learned::load(storage).await;
            match learned.map_err(|error| SetupError::Learned(Box::new(error)))? {
                Some(learned) => clustered(learned.plan),
                None => {
                    tracing::info!(
                        "there is no learned layer plan that can be used: paths are grouped by size"
                    );
                    Arc::new(Size)
                }
            }
        }
        StrategySettings::Dominator {
            popularity,
            threshold,
            weight,
        } => {
            let popularity = match popularity {
                // The data is of one revision, and the packages move on.
                Some(location) => load_popularity(location)
                    .await
                    .map_err(|error| SetupError::Popularity(Box::new(error)))?
                    .across_versions(),
                None => Popularity::default(),
            };
            Arc::new(Dominator {
                popularity: Arc::new(popularity),
                threshold: *threshold,
                weight: *weight,
            })
        }
    };
    Ok(strategy)
}

fn clustered(plan: Arc<ClusterPlan>) -> Arc<dyn LayerStrategy> {
    log_plan(&plan);
    Arc::new(Clustered { plan })
}

/// Logs which plan is used from now on.
pub fn log_plan(plan: &ClusterPlan) {
    tracing::info!(
        revision = plan.revision(),
        names = plan.len(),
        clusters = plan.clusters(),
        samples = plan.samples(),
        digest = %plan.digest(),
        "cluster plan"
    );
}

/// The builder of a configuration, over the given Nix and blob store; `gc_grace` is that of the
/// store's collection of garbage.
///
/// # Errors
/// The strategy's data or the spool folder cannot be used.
pub async fn builder(
    source: PackageSource,
    nix_settings: &NixSettings,
    layering: &LayeringSettings,
    spool: &Path,
    nix: Arc<dyn Nix>,
    storage: Arc<dyn Storage>,
    gc_grace: Duration,
) -> Result<Builder, SetupError> {
    let config = BuilderConfig {
        gc_grace,
        eval_interval: nix_settings
            .eval_interval
            .unwrap_or_else(|| default_eval_interval(&source)),
        budget: layering.budget,
        strategy: strategy(&layering.strategy, &*storage).await?,
        compression: layering.compression,
        pack_threads: layering.pack_threads,
        max_builds: nix_settings.max_builds,
        max_evaluations: nix_settings.max_evaluations,
        max_waiting: nix_settings.max_waiting,
        failure_ttl: nix_settings.failure_ttl,
        lease_ttl: nix_settings.lease_ttl,
        history: nix_settings.history,
        ..BuilderConfig::new(source, spool)
    };
    Ok(Builder::new(config, nix, storage).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nixery_core::PlannedPackage;
    use nixery_core::{DEFAULT_THRESHOLD, Weight};
    use nixery_storage::MemoryStorage;

    fn plan(samples: u32) -> ClusterPlan {
        let bash = PlannedPackage {
            name: "bash".to_owned(),
            cluster: "bash".to_owned(),
            samples,
        };
        ClusterPlan::new("demo".to_owned(), 10, [bash]).unwrap()
    }

    fn at(path: &Path) -> StrategySettings {
        StrategySettings::Plan {
            location: path.to_str().unwrap().to_owned(),
        }
    }

    /// The id is part of cache keys: another plan gives other images.
    #[tokio::test]
    async fn the_plans_digest_is_part_of_the_strategys_id() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut ids = Vec::new();
        for samples in [3, 3, 4] {
            std::fs::write(file.path(), plan(samples).to_bytes()).unwrap();
            ids.push(
                strategy(&at(file.path()), &MemoryStorage::new())
                    .await
                    .unwrap()
                    .id(),
            );
        }
        assert_eq!(ids[0], format!("plan/1 {}", plan(3).digest()));
        assert_eq!(ids[1], ids[0]);
        assert_ne!(ids[2], ids[0]);
    }

    #[tokio::test]
    async fn until_a_plan_is_learned_there_is_size() {
        let learned = StrategySettings::Learned { hour: 3 };
        let strategy = strategy(&learned, &MemoryStorage::new()).await.unwrap();
        assert_eq!(strategy.id(), Size.id());
    }

    /// And so is how popularity is looked up.
    #[tokio::test]
    async fn popularity_is_that_of_any_version() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let json = br#"{"glibc-2.38": 312}"#;
        std::fs::write(file.path(), json).unwrap();
        let settings = |popularity| StrategySettings::Dominator {
            popularity,
            threshold: DEFAULT_THRESHOLD,
            weight: Weight::default(),
        };
        let dominator = |popularity| Dominator {
            popularity: Arc::new(popularity),
            ..Dominator::default()
        };
        let location = file.path().to_str().unwrap().to_owned();
        let with_data = strategy(&settings(Some(location)), &MemoryStorage::new())
            .await
            .unwrap();
        let popularity = Popularity::from_json(json).unwrap().across_versions();
        assert_eq!(with_data.id(), dominator(popularity).id());
        let without = strategy(&settings(None), &MemoryStorage::new())
            .await
            .unwrap();
        assert_eq!(without.id(), Dominator::default().id());
    }

    #[tokio::test]
    async fn a_plan_that_cannot_be_loaded_is_refused_with_its_reasons() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{}").unwrap();
        for (path, reason) in [
            (
                Path::new("/nonexistent/plan"),
                "cannot read a cluster plan from /nonexistent/plan",
            ),
            (
                file.path(),
                "it must be a file that 'nixery lab plan build' wrote",
            ),
        ] {
            let error = strategy(&at(path), &MemoryStorage::new())
                .await
                .unwrap_err();
            let setting = "the cluster plan of NIXERY_LAYER_PLAN (--layer-plan) cannot be loaded";
            assert!(error.to_string().contains(setting), "{error}");
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains(reason), "{source}");
        }
    }
}
