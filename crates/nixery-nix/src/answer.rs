//! The answers of the Nix code in `nix/`.

use nixery_core::StorePath;
use serde::Deserialize;
use serde_json::Value;

use crate::{EvaluatedPackage, Evaluation, NixError, PackageError};

/// The answer of `prepare-image.nix`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ImageAnswer {
    found: Vec<FoundPackage>,
    not_found: Vec<String>,
    not_derivation: Vec<NotDerivation>,
}

#[derive(Deserialize)]
struct FoundPackage {
    name: String,
    attribute: String,
    #[serde(flatten)]
    instantiated: Instantiated,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Instantiated {
    drv_path: StorePath,
    output_name: String,
    store_path: StorePath,
    /// Empty if the package has none.
    #[serde(default)]
    version: String,
}

/// Longest version that is kept: no longer one can be a tag.
const MAX_VERSION: usize = nixery_core::MAX_TAG_LEN;

/// Returns the version of a package, if it has one that can be shown.
fn valid_version(version: String) -> Option<String> {
    let is_plain = version.chars().all(|c| c.is_ascii_graphic() && c != '`');
    (!version.is_empty() && version.len() <= MAX_VERSION && is_plain).then_some(version)
}

#[derive(Deserialize)]
struct NotDerivation {
    name: String,
    #[serde(rename = "type")]
    found: String,
}

impl Instantiated {
    fn evaluated(self, name: String, attribute: String) -> EvaluatedPackage {
        EvaluatedPackage {
            name,
            attribute,
            derivation: self.drv_path.as_str().to_owned(),
            output: self.output_name,
            store_path: self.store_path,
            version: valid_version(self.version),
        }
    }
}

/// Parses the answer to a request for `packages`.
///
/// # Errors
/// Packages are missing or no derivations, or the answer is not one to this request.
pub(crate) fn parse_image(json: &[u8], packages: &[String]) -> Result<Evaluation, NixError> {
    let mut answer: ImageAnswer = serde_json::from_slice(json).map_err(unexpected)?;
    if !answer.not_found.is_empty() {
        answer.not_found.sort();
        let packages = answer.not_found;
        return Err(PackageError::NotFound { packages }.into());
    }
    if let Some(NotDerivation { name, found }) = answer.not_derivation.into_iter().next() {
        let package = name;
        return Err(PackageError::NotDerivation { package, found }.into());
    }
    if !answer.found.iter().map(|found| &found.name).eq(packages) {
        return Err(unexpected("its packages are not those of the request"));
    }
    let evaluated = |found: FoundPackage| found.instantiated.evaluated(found.name, found.attribute);
    Ok(Evaluation {
        packages: answer.found.into_iter().map(evaluated).collect(),
    })
}

/// The names that lead to an attribute; none lead to the package set itself.
pub(crate) type AttributePath = Vec<String>;

/// What an attribute is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AttributeValue {
    /// A package, instantiated.
    Package(EvaluatedPackage),
    /// A set with packages in it.
    Set(Vec<AttributePath>),
    /// It does not evaluate.
    Fails,
    /// A package without a store path before it is built: it is content-addressed, or its
    /// derivation was written by hand and has an arbitrary path.
    NoPath,
    /// Something else, which is of no use here.
    Other,
}

/// The answer of `list-packages.nix` for one attribute.
#[derive(Deserialize)]
struct AttributeAnswer {
    package: Option<Value>,
    names: Option<Vec<String>>,
    #[serde(default)]
    fails: bool,
}

/// Parses the answer to a request for `attributes`.
///
/// # Errors
/// The answer is not one to this request.
pub(crate) fn parse_attributes(
    json: &[u8],
    attributes: &[AttributePath],
) -> Result<Vec<AttributeValue>, NixError> {
    let answers: Vec<AttributeAnswer> = serde_json::from_slice(json).map_err(unexpected)?;
    if answers.len() != attributes.len() {
        return Err(unexpected("its attributes are not those of the request"));
    }
    let value = |(answer, attribute): (AttributeAnswer, &AttributePath)| {
        if answer.fails {
            return AttributeValue::Fails;
        }
        if let Some(package) = answer.package {
            let name = attribute.join(".");
            return match serde_json::from_value::<Instantiated>(package) {
                Ok(package) => AttributeValue::Package(package.evaluated(name.clone(), name)),
                Err(_) => AttributeValue::NoPath,
            };
        }
        match answer.names {
            Some(names) => {
                let below = |name| [attribute.as_slice(), &[name]].concat();
                AttributeValue::Set(names.into_iter().map(below).collect())
            }
            None => AttributeValue::Other,
        }
    };
    Ok(answers.into_iter().zip(attributes).map(value).collect())
}

fn unexpected(problem: impl ToString) -> NixError {
    NixError::Output {
        command: "nix-instantiate",
        problem: problem.to_string(),
    }
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
        parse_image(json.as_bytes(), &["git".to_owned()])
    }

    #[test]
    fn found_packages_are_returned() {
        let evaluation = answer(FOUND, "", "").expect("found");
        assert_eq!(evaluation.packages[0].attribute, "Git");
    }

    #[rstest]
    #[case::none("", None)]
    #[case::empty(r#","version":"""#, None)]
    #[case::plain(r#","version":"2.39.5""#, Some("2.39.5"))]
    #[case::not_plain(r#","version":"2\u001b[31m""#, None)]
    #[case::space(r#","version":"2 or 3""#, None)]
    #[case::long(&format!(r#","version":"{}""#, "1".repeat(129)), None)]
    fn versions_are_returned_if_they_can_be_shown(
        #[case] field: &str,
        #[case] version: Option<&str>,
    ) {
        let found = FOUND.replace("}", &format!("{field}}}"));
        let evaluation = answer(&found, "", "").expect("found");
        assert_eq!(evaluation.packages[0].version.as_deref(), version);
    }

    #[test]
    fn missing_packages_are_all_named_in_order() {
        match answer("", r#""b","a""#, "") {
            Err(NixError::Package(PackageError::NotFound { packages })) => {
                assert_eq!(packages, ["a", "b"])
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_value_that_is_not_a_derivation_is_named() {
        match answer("", "", r#"{"name":"lib","type":"a set"}"#) {
            Err(NixError::Package(PackageError::NotDerivation { package, found })) => {
                assert_eq!((package.as_str(), found.as_str()), ("lib", "a set"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[rstest]
    #[case::nothing("", "", "")]
    #[case::twice(&format!("{FOUND},{FOUND}"), "", "")]
    #[case::bad_path(&FOUND.replace("/nix/store/4", "/etc/4"), "", "")]
    fn unexpected_answers(
        #[case] found: &str,
        #[case] not_found: &str,
        #[case] not_derivation: &str,
    ) {
        let answer = answer(
            &found.replace("/etc/4f3w", "/etc/"),
            not_found,
            not_derivation,
        );
        assert!(matches!(answer, Err(NixError::Output { .. })), "{answer:?}");
    }

    const HASH: &str = "4f3wk3sqrn87vpykdryba82hnj7gbr1y";

    #[test]
    fn each_attribute_has_its_answer() {
        let package = format!(
            r#"{{"package":{{"drvPath":"/nix/store/{HASH}-git.drv","outputName":"out","storePath":"/nix/store/{HASH}-git"}}}}"#
        );
        let json = format!(r#"[{package},{{"names":["b.c","d"]}},{{"fails":true}},{{}}]"#);
        let attributes = [vec!["a", "git"], vec!["x"], vec!["y"], vec!["z"]];
        let attributes: Vec<AttributePath> = attributes
            .map(|names| names.into_iter().map(str::to_owned).collect())
            .into();
        let values = parse_attributes(json.as_bytes(), &attributes).expect("an answer");
        assert!(
            matches!(&values[0], AttributeValue::Package(package) if package.name == "a.git" && package.output == "out")
        );
        let below = |name: &str| vec!["x".to_owned(), name.to_owned()];
        assert_eq!(
            values[1..],
            [
                AttributeValue::Set(vec![below("b.c"), below("d")]),
                AttributeValue::Fails,
                AttributeValue::Other
            ]
        );
        let fewer = parse_attributes(json.as_bytes(), &attributes[1..]);
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
            let values = parse_attributes(json.as_bytes(), &attributes).expect("an answer");
            assert_eq!(values[0], AttributeValue::NoPath, "{json}");
            assert_eq!(
                values[3],
                AttributeValue::Other,
                "and the others are as they were"
            );
        }
    }
}
