//! The trait [`Nix`], implemented with the command-line tools.

use std::path::Path;

use async_trait::async_trait;
use nixery_core::manifest::Digest;
use nixery_core::{ReferenceGraph, ResolvedSource, StorePath, StoreRoot, Tag};

use crate::answer::parse_image;
use crate::build_log::BuildLog;
use crate::cli::{NixCli, QUERY_TIMEOUT, strings};
use crate::code::ENTRY;
use crate::evaluation::Access;
use crate::failure::{RealiseFailure, realise_failure};
use crate::log_format::NixLog;
use crate::preflight::preflight;
use crate::{Evaluation, EvaluationRequest, Finding, Nix, NixError, PackageError};

#[async_trait]
impl Nix for NixCli {
    async fn resolve(
        &self,
        source: &ResolvedSource,
        log: &BuildLog,
    ) -> Result<ResolvedSource, NixError> {
        self.mirrors.resolve(source, log).await
    }

    async fn known_refs(
        &self,
        source: &ResolvedSource,
        limit: usize,
    ) -> Result<Vec<Tag>, NixError> {
        self.mirrors.known_refs(source, limit).await
    }

    /// Code sees the variables that were named for Nix, except in restricted mode.
    fn configuration(&self, source: &ResolvedSource) -> Option<Digest> {
        match self.access(source) {
            Access::Restricted => None,
            Access::AsConfigured | Access::Free => {
                self.environment.digest_of(&self.config.inherited_env)
            }
        }
    }

    async fn evaluate(
        &self,
        request: &EvaluationRequest,
        log: &BuildLog,
    ) -> Result<Evaluation, NixError> {
        let (source, packages) = (&request.source, &request.packages);
        let names = ("packages", serde_json::json!(packages));
        let answer = self
            .instantiate(ENTRY, source, request.architecture, names, packages, log)
            .await?;
        parse_image(&answer, packages)
    }

    async fn realise(
        &self,
        evaluation: &Evaluation,
        gc_roots: &Path,
        log: &BuildLog,
    ) -> Result<(), NixError> {
        let mut log = NixLog::new(log);
        if self
            .run_realise(evaluation, gc_roots, &[], &mut log)
            .await?
        {
            return Ok(());
        }
        Err(match realise_failure(&log) {
            RealiseFailure::Derivation { derivation, reason } => PackageError::Failed {
                package: self.package_of(&derivation, evaluation).await,
                log_tail: log.failure_tail(&derivation, &reason),
                derivation,
                reason,
            }
            .into(),
            RealiseFailure::Nix { problem } => NixError::Unavailable {
                problem,
                detail: log.detail(),
            },
        })
    }

    async fn reference_graph(
        &self,
        roots: &[StorePath],
        log: &BuildLog,
    ) -> Result<ReferenceGraph, NixError> {
        let mut args = strings([
            "--extra-experimental-features",
            "nix-command",
            "path-info",
            "--json",
            "--recursive",
            "--log-format",
            "internal-json",
        ]);
        args.extend(roots.iter().map(|root| root.as_str().into()));
        let mut log = NixLog::new(log);
        let finished = self.run("nix", args, QUERY_TIMEOUT, &mut log).await?;
        if !finished.status.success() {
            let (RealiseFailure::Nix { problem }
            | RealiseFailure::Derivation {
                reason: problem, ..
            }) = realise_failure(&log);
            let detail = log.detail();
            return Err(NixError::Unavailable { problem, detail });
        }
        // Tens of megabytes for a large closure.
        let roots = roots.to_vec();
        let parsing = tokio::task::spawn_blocking(move || {
            ReferenceGraph::from_path_info(&finished.stdout, &roots)
        });
        match parsing.await {
            Ok(graph) => graph.map_err(NixError::Graph),
            Err(panicked) => Err(NixError::Output {
                command: "nix path-info",
                problem: panicked.to_string(),
            }),
        }
    }

    async fn preflight(&self) -> Vec<Finding> {
        preflight(self).await
    }

    fn store_root(&self) -> &StoreRoot {
        &self.store_root
    }
}
