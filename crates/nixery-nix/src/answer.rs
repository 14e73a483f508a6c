//! The answer of `prepare-image.nix`.

use nixery_core::StorePath;
use serde::Deserialize;

use super::{EvaluatedPackage, Evaluation, NixError};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    found: Vec<Found>,
    not_found: Vec<String>,
    not_derivation: Vec<NotDerivation>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    name: String,
    attribute: String,
    drv_path: String,
    output_name: String,
    store_path: String,
}

#[derive(Debug, Deserialize)]
struct NotDerivation {
    name: String,
    #[serde(rename = "type")]
    kind: String,
}

/// Reads the answer to a request for `packages`.
///
/// # Errors
/// Packages are missing or no derivations, or the answer is not one to this request.
pub(super) fn parse_answer(json: &[u8], packages: &[String]) -> Result<Evaluation, NixError> {
    let odd = |problem: String| NixError::Output {
        command: "nix-instantiate",
        problem,
    };
    let mut answer: Answer =
        serde_json::from_slice(json).map_err(|error| odd(error.to_string()))?;
    if !answer.not_found.is_empty() {
        answer.not_found.sort();
        return Err(NixError::NotFound {
            packages: answer.not_found,
        });
    }
    if let Some(NotDerivation { name, kind }) = answer.not_derivation.into_iter().next() {
        return Err(NixError::NotDerivation {
            package: name,
            found: kind,
        });
    }
    if !answer.found.iter().map(|found| &found.name).eq(packages) {
        return Err(odd(
            "it answers for other packages than were asked for".to_owned()
        ));
    }
    let package = |found: Found| {
        let path = |text: &str| StorePath::parse(text).map_err(|error| odd(error.to_string()));
        path(&found.drv_path)?;
        Ok(EvaluatedPackage {
            store_path: path(&found.store_path)?,
            name: found.name,
            attribute: found.attribute,
            derivation: found.drv_path,
            output: found.output_name,
        })
    };
    let packages = answer
        .found
        .into_iter()
        .map(package)
        .collect::<Result<_, _>>()?;
    Ok(Evaluation { packages })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const FOUND: &str = r#"{"name":"git","attribute":"Git","drvPath":"/nix/store/4f3wk3sqrn87vpykdryba82hnj7gbr1y-git.drv","outputName":"out","storePath":"/nix/store/4f3wk3sqrn87vpykdryba82hnj7gbr1y-git"}"#;

    fn answer(found: &str, not_found: &str, not_derivation: &str) -> Result<Evaluation, NixError> {
        let json = format!(
            r#"{{"found":[{found}],"notFound":[{not_found}],"notDerivation":[{not_derivation}]}}"#
        );
        parse_answer(json.as_bytes(), &["git".to_owned()])
    }

    #[test]
    fn found() {
        let evaluation = answer(FOUND, "", "").expect("found");
        assert_eq!(evaluation.packages[0].attribute, "Git");
    }

    #[test]
    fn missing_packages_are_all_named_in_order() {
        match answer("", r#""b","a""#, "") {
            Err(NixError::NotFound { packages }) => assert_eq!(packages, ["a", "b"]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_derivation_is_named() {
        match answer("", "", r#"{"name":"lib","type":"a set"}"#) {
            Err(NixError::NotDerivation { package, found }) => {
                assert_eq!((package.as_str(), found.as_str()), ("lib", "a set"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[rstest]
    #[case::nothing("", "", "")]
    #[case::twice(&format!("{FOUND},{FOUND}"), "", "")]
    #[case::bad_path(&FOUND.replace("/nix/store/4", "/etc/4"), "", "")]
    fn odd_answers(#[case] found: &str, #[case] not_found: &str, #[case] not_derivation: &str) {
        let odd = answer(
            &found.replace("/etc/4f3w", "/etc/"),
            not_found,
            not_derivation,
        );
        assert!(matches!(odd, Err(NixError::Output { .. })), "{odd:?}");
    }
}
