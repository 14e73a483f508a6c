//! What is asked of Nix about a whole package set: what its attributes are, and to build what can be built.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::Path;

use nixery_core::{Architecture, ResolvedSource, StorePath};
use serde::Deserialize;
use serde_json::Value;

use super::cli::{QUERY_TIMEOUT, strings};
use super::code::LIST_PACKAGES;
use super::failure::{Cause, evaluation_error, is_disk_full, realise_cause};
use super::log_format::NixLog;
use super::messages::DISK_FULL_TEXT;
use super::{EvaluatedPackage, Evaluation, Nix, NixCli, NixError, RealisedPackage};
use crate::build_log::BuildLog;

/// The names that lead to an attribute; none lead to the package set itself.
pub(crate) type Attribute = Vec<String>;

/// What an attribute is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listed {
    /// A package, instantiated.
    Package(EvaluatedPackage),
    /// A set that has packages.
    Set(Vec<Attribute>),
    /// It does not evaluate.
    Fails,
    /// A package whose path is known when it is built, as one that is addressed by content, or by hand.
    NoPath,
    /// Nothing that is asked for.
    Other,
}

impl NixCli {
    /// What each attribute is. One whose evaluation cannot be caught fails all of them.
    ///
    /// # Errors
    /// [`NixError::Evaluation`], [`NixError::Source`], [`NixError::TimedOut`], or Nix cannot run.
    pub(crate) async fn list(
        &self,
        source: &ResolvedSource,
        architecture: Architecture,
        attributes: &[Attribute],
        log: &BuildLog,
    ) -> Result<Vec<Listed>, NixError> {
        let request = serde_json::json!({
            "srcType": source.src_type,
            "srcArgs": source.src_args,
            "system": architecture.nix_system(),
            "attributes": attributes,
        });
        let mut log = NixLog::new(log);
        let finished = self.instantiate(LIST_PACKAGES, &request, &mut log).await?;
        if !finished.status.success() {
            return Err(evaluation_error(&log, &[]));
        }
        parse(&finished.stdout, attributes)
    }

    /// Builds or substitutes as many of the packages as can be, and roots them below `gc_roots`; with those that
    /// cannot, or could not in time.
    ///
    /// # Errors
    /// Nix cannot work here.
    pub(crate) async fn realise_each(
        &self,
        packages: Vec<EvaluatedPackage>,
        gc_roots: &Path,
        log: &BuildLog,
    ) -> Result<(Vec<RealisedPackage>, Vec<EvaluatedPackage>), NixError> {
        let mut evaluation = Evaluation { packages };
        if evaluation.packages.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let mut nix_log = NixLog::new(log);
        let mut args = self.realisation(&evaluation, gc_roots);
        args.push("--keep-going".into());
        let timeout = self.config().realise_timeout;
        let finished = self.run("nix-store", args, timeout, &mut nix_log).await;
        let problem = match finished {
            Ok(finished) if finished.status.success() => {
                return Ok((evaluation.into_realised(), Vec::new()));
            }
            // Whatever failed beside it may have failed for that, too.
            Ok(_) | Err(NixError::TimedOut { .. }) if is_disk_full(&nix_log) => {
                Some(DISK_FULL_TEXT.to_owned())
            }
            Ok(_) => match realise_cause(&nix_log) {
                Cause::Derivation { .. } => None,
                Cause::Unavailable { problem } | Cause::Unknown { message: problem } => {
                    Some(problem)
                }
            },
            Err(NixError::TimedOut { .. }) => None,
            Err(error) => return Err(error),
        };
        if let Some(problem) = problem {
            let detail = nix_log.detail();
            return Err(NixError::Unavailable { problem, detail });
        }
        let missing = self.missing(&evaluation, log).await?;
        let there = |package: &EvaluatedPackage| !missing.contains(&package.store_path);
        let (built, failed) = evaluation.packages.into_iter().partition(there);
        evaluation = Evaluation { packages: built };
        if evaluation.packages.is_empty() {
            return Ok((Vec::new(), failed));
        }
        // What failed as a whole has rooted nothing.
        let built = self.realise(&evaluation, gc_roots, log).await?;
        Ok((built, failed))
    }

    /// The packages' outputs that the store has not.
    async fn missing(
        &self,
        evaluation: &Evaluation,
        log: &BuildLog,
    ) -> Result<HashSet<StorePath>, NixError> {
        let odd = |problem: String| NixError::Output {
            command: "nix-store",
            problem,
        };
        let mut args = strings(["--check-validity", "--print-invalid"]);
        let paths = evaluation.packages.iter();
        args.extend(paths.map(|package| OsString::from(package.store_path.as_str())));
        let mut log = NixLog::new(log);
        let finished = self.run("nix-store", args, QUERY_TIMEOUT, &mut log).await?;
        if !finished.status.success() {
            return Err(odd("it does not tell what the store has".to_owned()));
        }
        let lines = String::from_utf8_lossy(&finished.stdout).into_owned();
        lines
            .lines()
            .map(|line| StorePath::parse(line).map_err(|error| odd(error.to_string())))
            .collect()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    package: Option<Package>,
    names: Option<Vec<String>>,
    #[serde(default)]
    fails: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Package {
    drv_path: Value,
    output_name: Value,
    store_path: Value,
}

impl Package {
    /// `None` where there is no such path, which whoever writes a derivation by hand may say anything for.
    fn evaluated(&self, name: String) -> Option<EvaluatedPackage> {
        let derivation = StorePath::parse(self.drv_path.as_str()?).ok()?;
        let store_path = StorePath::parse(self.store_path.as_str()?).ok()?;
        Some(EvaluatedPackage {
            store_path,
            attribute: name.clone(),
            name,
            derivation: derivation.as_str().to_owned(),
            output: self.output_name.as_str()?.to_owned(),
        })
    }
}

/// Reads the answer to a request for `attributes`.
///
/// # Errors
/// It is none to this request.
fn parse(json: &[u8], attributes: &[Attribute]) -> Result<Vec<Listed>, NixError> {
    let odd = |problem: String| NixError::Output {
        command: "nix-instantiate",
        problem,
    };
    let answers: Vec<Answer> =
        serde_json::from_slice(json).map_err(|error| odd(error.to_string()))?;
    if answers.len() != attributes.len() {
        return Err(odd(
            "it answers for other attributes than were asked for".to_owned()
        ));
    }
    let listed = |(answer, attribute): (Answer, &Attribute)| match answer {
        Answer { fails: true, .. } => Listed::Fails,
        Answer {
            package: Some(package),
            ..
        } => match package.evaluated(attribute.join(".")) {
            Some(package) => Listed::Package(package),
            None => Listed::NoPath,
        },
        Answer {
            names: Some(names), ..
        } => {
            let below = |name| [attribute.as_slice(), &[name]].concat();
            Listed::Set(names.into_iter().map(below).collect())
        }
        _ => Listed::Other,
    };
    Ok(answers.into_iter().zip(attributes).map(listed).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "4f3wk3sqrn87vpykdryba82hnj7gbr1y";

    #[test]
    fn each_attribute_has_its_answer() {
        let package = format!(
            r#"{{"package":{{"drvPath":"/nix/store/{HASH}-git.drv","outputName":"out","storePath":"/nix/store/{HASH}-git"}}}}"#
        );
        let json = format!(r#"[{package},{{"names":["b.c","d"]}},{{"fails":true}},{{}}]"#);
        let attributes = [vec!["a", "git"], vec!["x"], vec!["y"], vec!["z"]];
        let attributes: Vec<Attribute> = attributes
            .map(|names| names.into_iter().map(str::to_owned).collect())
            .into();
        let listed = parse(json.as_bytes(), &attributes).expect("an answer");
        assert!(
            matches!(&listed[0], Listed::Package(package) if package.name == "a.git" && package.output == "out")
        );
        let below = |name: &str| vec!["x".to_owned(), name.to_owned()];
        assert_eq!(
            listed[1..],
            [
                Listed::Set(vec![below("b.c"), below("d")]),
                Listed::Fails,
                Listed::Other
            ]
        );
        let fewer = parse(json.as_bytes(), &attributes[1..]);
        assert!(matches!(fewer, Err(NixError::Output { .. })), "{fewer:?}");
        for (path, none) in [
            // By content, in Nix 2.8 and newer: a placeholder.
            (
                format!("/nix/store/{HASH}-git\""),
                "/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9\"",
            ),
            (format!("/nix/store/{HASH}-git.drv\""), "git.drv\""),
            (format!("\"/nix/store/{HASH}-git.drv\""), "null"),
            ("\"out\"".to_owned(), "1"),
        ] {
            assert!(json.contains(&path), "{path}");
            let json = json.replace(&path, none);
            let listed = parse(json.as_bytes(), &attributes).expect("an answer");
            assert_eq!(listed[0], Listed::NoPath, "{json}");
            assert_eq!(listed[3], Listed::Other, "and the others are as they were");
        }
    }
}
