//! The input of a plan: packages that refer to each other, and lists of packages in images.

use serde::Deserialize;

use super::BuildPlanError;

/// A package set, and samples of what images contain.
///
/// As JSON: `{"packages": [[name, NAR size, [references as indices]], …], "samples": [[roots as
/// indices], …]}`; further fields are ignored. A name may occur several times, as versions and
/// variants do. It then has the samples and references of all of them, and the largest size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct PlanSample {
    /// All packages.
    pub packages: Vec<SamplePackage>,
    /// Lists of root packages, as indices; a sample is their closure.
    pub samples: Vec<Vec<u32>>,
}

/// A package of a [`PlanSample`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SamplePackage {
    /// Its key: see [`package_key`](nixery_core::package_key).
    pub name: String,
    /// Bytes of its NAR.
    pub nar_size: u64,
    /// Its references, as indices. Cycles are accepted.
    pub references: Vec<u32>,
}

impl PlanSample {
    /// Reads the JSON form; its indices are validated when a plan is built.
    ///
    /// # Errors
    /// [`BuildPlanError::Malformed`]: the JSON has another form.
    pub fn from_json(json: &[u8]) -> Result<Self, BuildPlanError> {
        serde_json::from_slice(json).map_err(|error| BuildPlanError::Malformed(error.into()))
    }
}
