//! Opens the blob store, Nix and the builder that settings describe.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nixery_builder::{Builder, BuilderConfig, LoadError, load_cluster_plan, load_popularity};
use nixery_core::{
    ClusterPlan, Clustered, Dominator, LayerStrategy, PackageSource, Popularity, Size,
};
#[cfg(feature = "lab")]
use nixery_lab::learned::{self, LearnError};
use nixery_nix::{Finding, Nix, NixCli, NixCliConfig, NixCliError, SpoolError};
#[cfg(any(feature = "s3", feature = "gcs"))]
use nixery_storage::RemoteStorage;
use nixery_storage::{FilesystemStorage, Storage, StorageError};

use crate::table::{LAYER_PLAN, POPULARITY_URL};
use crate::{LayeringSettings, NixSettings, StorageBackend, StorageSettings, StrategySettings};

/// The store, Nix or the builder cannot be used. Each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The blob store cannot be used.
    #[error("the blob store cannot be used. Fix: {hint}")]
    Storage {
        /// What to do.
        hint: &'static str,
        /// The problem.
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
    #[error("the learned cluster plan cannot be read")]
    Learned(#[source] Box<LearnError>),
    /// The Nix command-line tools cannot be prepared.
    #[error(transparent)]
    NixCli(#[from] NixCliError),
    /// The builder cannot be prepared.
    #[error(transparent)]
    Builder(#[from] SpoolError),
    /// Nix does not work here, with the problems and their remedies.
    #[error("Nix cannot build images here:\n{}", .0.iter().map(describe_finding).collect::<Vec<_>>().join("\n"))]
    Nix(Vec<Finding>),
}

/// Formats a finding of the preflight as one line.
#[must_use]
pub fn describe_finding(finding: &Finding) -> String {
    let problem = finding.problem.trim_end_matches('.');
    format!("{problem}. Fix: {}", finding.remedy)
}

fn open_storage(backend: &StorageBackend, create: bool) -> Result<Arc<dyn Storage>, StorageError> {
    Ok(match backend {
        StorageBackend::Filesystem(path) if create => Arc::new(FilesystemStorage::open(path)?),
        StorageBackend::Filesystem(path) => Arc::new(FilesystemStorage::open_existing(path)?),
        #[cfg(feature = "s3")]
        StorageBackend::S3(config) => Arc::new(RemoteStorage::open_s3(config.clone())?),
        #[cfg(feature = "gcs")]
        StorageBackend::Gcs(config) => Arc::new(RemoteStorage::open_gcs(config.clone())?),
    })
}

/// Opens a blob store that exists, without writing to it.
///
/// # Errors
/// There is no such store, or it cannot be used.
pub fn existing_storage(settings: &StorageSettings) -> Result<Arc<dyn Storage>, StorageError> {
    open_storage(&settings.backend, false)
}

/// Opens the blob store and checks that it works. On the filesystem it is created if needed.
///
/// # Errors
/// [`SetupError::Storage`].
pub async fn working_storage(settings: &StorageSettings) -> Result<Arc<dyn Storage>, SetupError> {
    let working = async {
        let storage = open_storage(&settings.backend, true)?;
        storage.check().await.map(|()| storage)
    };
    working.await.map_err(|source| SetupError::Storage {
        hint: settings.backend.hint(),
        source: Box::new(source),
    })
}

/// Returns Nix by its command-line tools. The built-in Nix files are written to `spool`.
///
/// # Errors
/// [`SetupError::NixCli`].
pub fn nix(settings: &NixSettings, spool: &Path) -> Result<NixCli, SetupError> {
    let mut config = NixCliConfig::new(spool);
    config.nix_dir.clone_from(&settings.nix_dir);
    config.evaluate_timeout = settings.evaluate_timeout;
    config.realise_timeout = settings.realise_timeout;
    config.max_jobs = settings.max_jobs;
    config.store.clone_from(&settings.store);
    Ok(NixCli::new(config)?)
}

/// Checks whether Nix works, and returns findings that do not prevent builds.
///
/// # Errors
/// [`SetupError::Nix`] with all findings, if no build can succeed.
pub async fn preflight(nix: &dyn Nix) -> Result<Vec<Finding>, SetupError> {
    let findings = nix.preflight().await;
    if findings.iter().any(|finding| finding.fatal) {
        return Err(SetupError::Nix(findings));
    }
    Ok(findings)
}

/// Returns the layer strategy with its data. It is [`Size`] for a learned plan if the store has no
/// usable plan yet.
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
        // The settings refuse this value.
        #[cfg(not(feature = "lab"))]
        StrategySettings::Learned { .. } => Arc::new(Size),
        #[cfg(feature = "lab")]
        StrategySettings::Learned { .. } => {
            let learned = learned::load(storage).await;
            match learned.map_err(|error| SetupError::Learned(Box::new(error)))? {
                Some(learned) => clustered(learned.plan),
                None => {
                    tracing::info!(
                        "the store has no usable learned cluster plan yet: packages are grouped by size"
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
                // The data describes one revision, and versions change in later ones.
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

/// Logs which cluster plan is used from now on.
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

/// Returns the builder that settings describe, with this Nix and blob store. `gc_grace` is the
/// grace of the store's garbage collection.
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
    let mut config = BuilderConfig::new(source, spool);
    config.gc_grace = gc_grace;
    if let Some(interval) = nix_settings.eval_interval {
        config.eval_interval = interval;
    }
    config.budget = layering.budget;
    config.strategy = strategy(&layering.strategy, &*storage).await?;
    config.compression = layering.compression;
    config.pack_threads = layering.pack_threads;
    config.max_builds = nix_settings.max_builds;
    config.max_evaluations = nix_settings.max_evaluations;
    config.max_waiting = nix_settings.max_waiting;
    config.max_waiting_per_client = nix_settings.max_waiting_per_client;
    config.failure_ttl = nix_settings.failure_ttl;
    config.lease_ttl = nix_settings.lease_ttl;
    config.history = nix_settings.history;
    Ok(Builder::new(config, nix, storage).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nixery_core::{DEFAULT_THRESHOLD, PlannedPackage, Weight};
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

    /// The ID is part of cache keys: another plan gives other images.
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
    async fn without_a_learned_plan_the_strategy_is_size() {
        let learned = StrategySettings::Learned { hour: 3 };
        let strategy = strategy(&learned, &MemoryStorage::new()).await.unwrap();
        assert_eq!(strategy.id(), Size.id());
    }

    /// The way popularity is looked up is part of the ID, too.
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
                "it must be a file that `nixery lab plan build` wrote",
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
