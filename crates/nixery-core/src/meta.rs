//! Meta-packages: leading name components that expand or change a build.
//!
//! The table is the only place that lists them. A component is a meta-package only if all
//! components before it are: in `git/shell`, `shell` is a package of that name.

use crate::arch::Architecture;

/// The effect of a meta-package on a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaEffect {
    /// Adds what an interactive shell needs.
    Shell,
    /// Builds for another architecture.
    Architecture(Architecture),
}

/// A name component with a special meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetaPackage {
    /// The component.
    pub name: &'static str,
    /// Its effect.
    pub effect: MetaEffect,
    /// The packages it adds.
    pub packages: &'static [&'static str],
    /// Its purpose, for people.
    pub description: &'static str,
}

/// Every meta-package.
pub const META_PACKAGES: &[MetaPackage] = &[
    MetaPackage {
        name: "shell",
        effect: MetaEffect::Shell,
        packages: &["bashInteractive", "coreutils", "moreutils", "nano"],
        description: "adds an interactive shell with the usual tools",
    },
    MetaPackage {
        name: "arm64",
        effect: MetaEffect::Architecture(Architecture::Arm64),
        packages: &[],
        description: "builds for 64-bit Arm instead of x86-64",
    },
];

/// Packages of every image: CA certificates, and the names of ports and protocols.
pub const REQUIRED_PACKAGES: &[&str] = &["cacert", "iana-etc"];

impl MetaPackage {
    /// The meta-package that `component` names, if it names one.
    pub fn find(component: &str) -> Option<&'static Self> {
        META_PACKAGES.iter().find(|meta| meta.name == component)
    }
}
