//! The trait [`Nix`], implemented with the command-line tools.

use std::ffi::OsString;
use std::path::Path;

use async_trait::async_trait;
use nixery_core::StoreRoot;
use nixery_core::{ReferenceGraph, StorePath};

use super::answer::parse_answer;
use super::cli::{NixCli, QUERY_TIMEOUT, strings};
use super::code::ENTRY;
use super::failure::{Cause, evaluation_error, realise_cause};
use super::log_format::NixLog;
use super::{Evaluation, EvaluationRequest, Finding, Nix, NixError, RealisedPackage, preflight};
use crate::build_log::BuildLog;

#[async_trait]
impl Nix for NixCli {
    async fn evaluate(
        &self,
        request: &EvaluationRequest,
        log: &BuildLog,
    ) -> Result<Evaluation, NixError> {
        let json = serde_json::json!({
            "srcType": request.source.src_type,
            "srcArgs": request.source.src_args,
            "system": request.architecture.nix_system(),
            "packages": request.packages,
        });
        let mut log = NixLog::new(log);
        let finished = self.instantiate(ENTRY, &json, &mut log).await?;
        if !finished.status.success() {
            return Err(evaluation_error(&log, &request.packages));
        }
        parse_answer(&finished.stdout, &request.packages)
    }

    async fn realise(
        &self,
        evaluation: &Evaluation,
        gc_roots: &Path,
        log: &BuildLog,
    ) -> Result<Vec<RealisedPackage>, NixError> {
        let args = self.realisation(evaluation, gc_roots);
        let mut log = NixLog::new(log);
        let finished = self
            .run("nix-store", args, self.config().realise_timeout, &mut log)
            .await?;
        if finished.status.success() {
            return Ok(evaluation.clone().into_realised());
        }
        Err(match realise_cause(&log) {
            Cause::Derivation { derivation, reason } => NixError::Failed {
                package: self.package_of(&derivation, evaluation).await,
                log_tail: log.failure_tail(&derivation, &reason),
                derivation,
                reason,
            },
            Cause::Unavailable { problem } => NixError::Unavailable {
                problem,
                detail: log.detail(),
            },
            Cause::Unknown { message } => NixError::Unavailable {
                problem: message,
                detail: log.detail(),
            },
        })
    }

    async fn reference_graph(
        &self,
        roots: &[StorePath],
        log: &BuildLog,
    ) -> Result<ReferenceGraph, NixError> {
        let mut args = strings(["--extra-experimental-features", "nix-command"]);
        args.extend(strings([
            "path-info",
            "--json",
            "--recursive",
            "--log-format",
            "internal-json",
        ]));
        args.extend(roots.iter().map(|root| OsString::from(root.as_str())));

        let mut log = NixLog::new(log);
        let finished = self.run("nix", args, QUERY_TIMEOUT, &mut log).await?;
        if !finished.status.success() {
            let problem = match realise_cause(&log) {
                Cause::Unavailable { problem } | Cause::Unknown { message: problem } => problem,
                Cause::Derivation { reason, .. } => reason,
            };
            return Err(NixError::Unavailable {
                problem,
                detail: log.detail(),
            });
        }
        // Tens of megabytes where the closure is large.
        let roots = roots.to_vec();
        let parsing = tokio::task::spawn_blocking(move || {
            ReferenceGraph::from_path_info(&finished.stdout, &roots)
        });
        match parsing.await {
            Ok(graph) => graph.map_err(NixError::Graph),
            Err(died) => Err(NixError::Output {
                command: "nix path-info",
                problem: died.to_string(),
            }),
        }
    }

    async fn preflight(&self) -> Vec<Finding> {
        preflight::preflight(self).await
    }

    fn store_root(&self) -> &StoreRoot {
        self.store()
    }
}
