//! The input of a plan: packages that refer to each other, and lists of packages in images.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{BuildPlanError, MAX_SAMPLES};

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

/// A sample with valid indices, with its names numbered in bytewise order.
pub(super) struct CheckedSample<'a> {
    pub(super) packages: &'a [SamplePackage],
    /// All names, sorted, each once.
    pub(super) names: Vec<&'a str>,
    /// Per package the number of its name.
    pub(super) name_of: Vec<u32>,
    /// Per name the NAR size of its largest package.
    pub(super) nar_sizes: Vec<u64>,
}

impl<'a> CheckedSample<'a> {
    pub(super) fn new(sample: &'a PlanSample) -> Result<Self, BuildPlanError> {
        let packages = &sample.packages;
        let count = sample.samples.len();
        if count == 0 || count > usize::from(MAX_SAMPLES) {
            return Err(BuildPlanError::Samples { count });
        }
        let end = u32::try_from(packages.len()).map_err(|_| BuildPlanError::TooManyPackages {
            count: packages.len(),
        })?;
        let check = |indices: &[u32], owner: &dyn Fn() -> String| match indices
            .iter()
            .find(|&&index| index >= end)
        {
            Some(&index) => Err(BuildPlanError::Index {
                owner: owner(),
                index,
                end,
            }),
            None => Ok(()),
        };
        for package in packages {
            check(&package.references, &|| {
                format!("package {:?}", package.name)
            })?;
        }
        for (number, roots) in sample.samples.iter().enumerate() {
            check(roots, &|| format!("sample {number}"))?;
        }
        let mut nar_sizes = BTreeMap::new();
        for package in packages {
            let nar_size = nar_sizes.entry(&*package.name).or_default();
            *nar_size = package.nar_size.max(*nar_size);
        }
        let (names, nar_sizes): (Vec<&str>, Vec<u64>) = nar_sizes.into_iter().unzip();
        let name_of = packages.iter().map(|package| {
            let name = names.partition_point(|&name| name < &*package.name);
            name as u32
        });
        let name_of = name_of.collect();
        Ok(Self {
            packages,
            names,
            name_of,
            nar_sizes,
        })
    }
}
