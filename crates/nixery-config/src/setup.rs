//! Opens the blob store, Nix and the builder that settings describe.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nixery_builder::{Builder, BuilderConfig, LoadError, load_cluster_plan, load_popularity};
use nixery_core::{
    ClusterPlan, Clustered, Dominator, LayerStrategy, PackageSource, Popularity, Size,
};
#[cfg(feature = "lab")]
use nixery_lab::learned::{self, LearnError};
use nixery_nix::{Finding, Nix, NixCli, NixCliConfig, NixCliError, SpoolError};
use nixery_state::record::RecordSecret;
#[cfg(any(feature = "s3", feature = "gcs"))]
use nixery_storage::RemoteStorage;
use nixery_storage::{FilesystemStorage, Storage, StorageError};

use crate::table::{LAYER_PLAN, POPULARITY_URL, RECORD_KEY};
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
        "the popularity data of {POPULARITY_URL} cannot be loaded. Fix: correct the setting, or unset it to use no such data"
    )]
    Popularity(#[source] Box<LoadError>),
    /// The cluster plan cannot be loaded.
    #[error(
        "the cluster plan of {LAYER_PLAN} cannot be loaded. Fix: correct the setting, or unset it to use no plan"
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
    /// The secret that authenticates records cannot be used.
    #[error(
        "the secret of {RECORD_KEY} cannot be read from {}. Fix: correct the setting, or make the file readable for this user", path.display()
    )]
    RecordKey {
        /// The file.
        path: PathBuf,
        /// The problem.
        #[source]
        source: io::Error,
    },
    /// The secret that authenticates records is too short.
    #[error(
        "the secret of {RECORD_KEY} in {} has {bytes} bytes. Fix: write at least {} random bytes, such as `openssl rand -hex 32`, into the file", path.display(), RecordSecret::MIN_BYTES
    )]
    ShortRecordKey {
        /// The file.
        path: PathBuf,
        /// Bytes in the file, without white space at the end.
        bytes: usize,
    },
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

/// Reads the secret that authenticates the records of the store, if there is one. White space at
/// the end of the file does not count.
///
/// # Errors
/// [`SetupError::RecordKey`], [`SetupError::ShortRecordKey`].
pub fn record_secret(settings: &StorageSettings) -> Result<Option<RecordSecret>, SetupError> {
    let Some(path) = settings.record_key.clone() else {
        return Ok(None);
    };
    let secret = match std::fs::read(&path) {
        Ok(secret) => secret,
        Err(source) => return Err(SetupError::RecordKey { path, source }),
    };
    let secret = secret.trim_ascii_end();
    match RecordSecret::new(secret) {
        None => Err(SetupError::ShortRecordKey {
            path,
            bytes: secret.len(),
        }),
        secret => Ok(secret),
    }
}

/// Returns Nix by its command-line tools. The built-in Nix files are written to `spool`, and the
/// mirrors of git repositories are kept in `mirrors`, by default in a folder of `spool`.
///
/// # Errors
/// [`SetupError::NixCli`].
pub fn nix(
    settings: &NixSettings,
    spool: &Path,
    mirrors: Option<PathBuf>,
) -> Result<NixCli, SetupError> {
    let mut config = NixCliConfig::new(spool);
    config.mirror_dir = mirrors;
    config.nix_dir.clone_from(&settings.nix_dir);
    config.refs = settings.refs.clone();
    config.any_commit = settings.any_commit;
    config.needs_git = settings.needs_git;
    config.restrict_eval = settings.restrict_eval;
    config.evaluate_timeout = settings.evaluate_timeout;
    config.evaluate_memory = settings.evaluate_memory;
    config.realise_timeout = settings.realise_timeout;
    config.wrapper.clone_from(&settings.wrapper);
    config.inherited_env.clone_from(&settings.inherited_env);
    config.max_jobs = settings.max_jobs;
    config.store.clone_from(&settings.store);
    Ok(NixCli::new(config)?)
}

/// Returns a folder for mirrors in the user's cache, for a command that has no lasting spool.
#[must_use]
pub fn user_mirrors() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    let cache = cache.filter(|cache| cache.is_absolute())?;
    Some(cache.join("nixery/git"))
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
        "using this cluster plan"
    );
}

/// Returns the builder that settings describe, with this Nix and the blob store of
/// `storage_settings`. `gc_grace` is the grace of the store's garbage collection.
///
/// # Errors
/// The strategy's data, the spool folder or the secret of the records cannot be used.
pub async fn builder(
    source: PackageSource,
    nix_settings: &NixSettings,
    layering: &LayeringSettings,
    storage_settings: &StorageSettings,
    nix: Arc<dyn Nix>,
    storage: Arc<dyn Storage>,
    gc_grace: Duration,
) -> Result<Builder, SetupError> {
    let mut config = BuilderConfig::new(source, &storage_settings.spool);
    config.gc_grace = gc_grace;
    config.record_secret = record_secret(storage_settings)?;
    if let Some(interval) = nix_settings.eval_interval {
        config.eval_interval = interval;
    }
    config.channels = nix_settings.channels.clone();
    config.versions_of_git = nix_settings.versions_of_git;
    config.budget = layering.budget;
    config.strategy = strategy(&layering.strategy, &*storage).await?;
    config.compression = layering.compression;
    config.pack_threads = layering.pack_threads;
    config.max_builds = nix_settings.max_builds;
    config.max_evaluations = nix_settings.max_evaluations;
    config.max_waiting = nix_settings.max_waiting;
    config.max_waiting_per_client = nix_settings.max_waiting_per_client;
    config.max_packages = nix_settings.max_packages;
    config.max_closure_size = nix_settings.max_closure_size;
    config.max_image_size = nix_settings.max_image_size;
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
