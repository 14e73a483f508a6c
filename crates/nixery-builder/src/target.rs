//! What a build is identified by.

use nixery_core::{ImageName, ResolvedSource};

/// What is built once at a time. Not the tag: only a git source looks at it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    /// Equal where the same packages are asked for, in whatever order.
    pub(crate) name: ImageName,
    pub(crate) source: ResolvedSource,
}
