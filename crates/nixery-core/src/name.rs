//! Image names: which packages a repository name asks for.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use crate::arch::Architecture;
use crate::meta::{MetaEffect, MetaPackage, REQUIRED_PACKAGES};

/// Longest image name in bytes; more is not portable (OCI distribution specification, "Pulling
/// manifests": many clients limit host name and name together to 255 characters).
pub const MAX_NAME_LEN: usize = 255;

/// An image name: a `/`-separated list of packages, after any meta-packages.
///
/// Each component follows the grammar of the OCI distribution specification,
/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`. Order and repetition of components do not matter, except
/// that meta-packages stand first.
///
/// Two names are equal if they ask for the same image, however they are spelled. The
/// [canonical](Self::canonical) text is for people: `shell/git` and `git/shell` have the same one,
/// although the second asks for a *package* named `shell`.
///
/// ```
/// use nixery_core::ImageName;
///
/// let name: ImageName = "shell/htop/git".parse()?;
/// assert_eq!(name, "shell/git/htop/git".parse()?);
/// assert_eq!(name.canonical(), "git/htop/shell");
/// assert!(name.packages().contains(&"bashInteractive".to_owned()));
///
/// let error = "git/Htop".parse::<ImageName>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "component 2 of the image name, `Htop`, has the capital letter 'H' at offset 0. Fix: \
///      write it in lower case; packages are found regardless of case"
/// );
/// # Ok::<(), nixery_core::NameError>(())
/// ```
#[derive(Debug, Clone)]
pub struct ImageName {
    // Shared: a name is cloned for every request.
    requested: Arc<str>,
    canonical: Arc<str>,
    packages: Arc<[String]>,
    named_packages: usize,
    meta_packages: usize,
    architecture: Architecture,
    shell: bool,
}

impl ImageName {
    /// Parses an image name.
    ///
    /// # Errors
    /// [`NameError`] names the component and the rule it broke.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME_LEN {
            return Err(NameError::TooLong { bytes: text.len() });
        }
        let mut components: Vec<&str> = text.split('/').collect();
        for (index, component) in components.iter().enumerate() {
            check_component(component).map_err(|rule| NameError::Component {
                position: index + 1,
                component: (*component).to_owned(),
                rule,
            })?;
        }

        let metas: Vec<_> = components
            .iter()
            .map_while(|component| MetaPackage::find(component))
            .collect();
        let mut architecture = Architecture::default();
        let mut shell = false;
        let mut packages = components[metas.len()..].to_vec();
        packages.sort_unstable();
        packages.dedup();
        let named_packages = packages.len();
        let meta_packages = metas.len();
        for meta in metas {
            packages.extend(meta.packages);
            match meta.effect {
                MetaEffect::Shell => shell = true,
                MetaEffect::Architecture(wanted) => architecture = wanted,
            }
        }
        if packages.is_empty() {
            return Err(NameError::NoPackages {
                name: text.to_owned(),
            });
        }
        packages.extend(REQUIRED_PACKAGES);
        packages.sort_unstable();
        packages.dedup();
        components.sort_unstable();
        components.dedup();

        Ok(Self {
            requested: text.into(),
            canonical: components.join("/").into(),
            packages: packages.into_iter().map(str::to_owned).collect(),
            named_packages,
            meta_packages,
            architecture,
            shell,
        })
    }

    /// The name as it was requested.
    pub fn as_str(&self) -> &str {
        &self.requested
    }

    /// The requested components, sorted and each once. Not an identity: see [`ImageName`].
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// Every package of the image, sorted bytewise and each once: those named, those that
    /// meta-packages add, and [`REQUIRED_PACKAGES`].
    pub fn packages(&self) -> &[String] {
        &self.packages
    }

    /// The number of packages that the name itself lists, each counted once. Meta-packages, what
    /// they add and [`REQUIRED_PACKAGES`] do not count.
    pub fn named_packages(&self) -> usize {
        self.named_packages
    }

    /// The first package that the name lists, as it was requested. `None`: it lists meta-packages
    /// only. It is no part of the identity of a name.
    pub fn first_package(&self) -> Option<&str> {
        self.requested.split('/').nth(self.meta_packages)
    }

    /// The architecture to build for.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Whether the name has the `shell` meta-package.
    pub fn shell(&self) -> bool {
        self.shell
    }

    /// The parts of the name that determine the image.
    fn identity(&self) -> (&[String], Architecture, bool) {
        (&self.packages, self.architecture, self.shell)
    }
}

impl PartialEq for ImageName {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for ImageName {}

impl Hash for ImageName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.requested)
    }
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

/// Why a text is not an image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// There is no name.
    #[error("the image name is empty. Fix: name at least one package")]
    Empty,
    /// The name is longer than [`MAX_NAME_LEN`].
    #[error("the image name has {bytes} bytes, more than {MAX_NAME_LEN}. Fix: name fewer packages")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// A component breaks the grammar.
    #[error("component {position} of the image name{} {rule}", quoted(.component))]
    Component {
        /// Which one, counted from 1.
        position: usize,
        /// The component.
        component: String,
        /// The rule it broke.
        rule: ComponentRule,
    },
    /// There are meta-packages only, and none of them adds a package.
    #[error("the image name `{name}` names no package. Fix: add one, for example `{name}/hello`")]
    NoPackages {
        /// The name.
        name: String,
    },
}

fn quoted(component: &str) -> String {
    if component.is_empty() {
        String::new()
    } else {
        format!(", `{}`,", component.escape_debug())
    }
}

/// The rule of the grammar that a component broke. Offsets are in bytes from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ComponentRule {
    /// There is nothing between two slashes, before the first or after the last.
    #[error("is empty. Fix: remove the extra slash")]
    Empty,
    /// A capital letter, `A` to `Z`, which registries do not allow.
    #[error(
        "has the capital letter {found:?} at offset {offset}. Fix: write it in lower case; packages are found regardless of case"
    )]
    Capital {
        /// The letter.
        found: char,
        /// Where it is.
        offset: usize,
    },
    /// A character that no component may have.
    #[error(
        "has the character {found:?} at offset {offset}: only a-z, 0-9, `.`, `_` and `-` may be used"
    )]
    Character {
        /// The character.
        found: char,
        /// Where it is.
        offset: usize,
    },
    /// It starts with a separator.
    #[error("starts with {found:?}: only a-z and 0-9 may come first")]
    LeadingSeparator {
        /// The separator.
        found: char,
    },
    /// It ends with a separator.
    #[error("ends with {found:?}: only a-z and 0-9 may come last")]
    TrailingSeparator {
        /// The separator.
        found: char,
    },
    /// A run of separators that the grammar does not allow.
    #[error(
        "has an invalid run of separators at offset {offset}. Fix: use one `.`, one or two `_`, or any number of `-`"
    )]
    Separators {
        /// Where the run starts.
        offset: usize,
    },
}

fn check_component(component: &str) -> Result<(), ComponentRule> {
    let is_separator = |c: char| matches!(c, '.' | '_' | '-');
    for (offset, found) in component.char_indices() {
        if found.is_ascii_uppercase() {
            return Err(ComponentRule::Capital { found, offset });
        }
        if !(found.is_ascii_lowercase() || found.is_ascii_digit() || is_separator(found)) {
            return Err(ComponentRule::Character { found, offset });
        }
    }
    let first = component.chars().next().ok_or(ComponentRule::Empty)?;
    let last = component.chars().next_back().unwrap_or(first);
    if is_separator(first) {
        return Err(ComponentRule::LeadingSeparator { found: first });
    }
    if is_separator(last) {
        return Err(ComponentRule::TrailingSeparator { found: last });
    }
    let mut offset = 0;
    for run in component.split(|c| !is_separator(c)) {
        let allowed = matches!(run, "" | "." | "_" | "__") || run.bytes().all(|byte| byte == b'-');
        if !allowed {
            return Err(ComponentRule::Separators { offset });
        }
        // The run, and the one-byte character that ended it.
        offset += run.len() + 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
