//! The names of packages in cluster plans: without hash and version.

use std::borrow::Cow;

use crate::store_path::package_name;

/// Outputs whose name is kept after the package's, sorted. Other parts after a version, such as a
/// revision, a date or `pre`, belong to the version.
///
/// Nix names the paths of a package with several outputs `<name>-<version>-<output>`; these are the
/// outputs that nixpkgs' multiple-outputs hook and its most used packages have.
pub(super) const OUTPUT_SUFFIXES: [&str; 25] = [
    "bin", "checksum", "cli", "data", "debug", "dev", "devdoc", "devman", "dist", "dnsutils",
    "doc", "getent", "host", "info", "lib", "libgcc", "login", "man", "mount", "py", "python",
    "static", "swap", "terminfo", "tools",
];

/// A store path's name without its version, as Nix splits it, an output's suffix kept.
///
/// Outputs of one package are used by different images: `glibc-2.38` by all, `glibc-2.38-bin` by
/// few. A name that starts with what Nix reads as a version is kept whole.
///
/// ```
/// use nixery_core::package_key;
/// assert_eq!(package_key("glibc-2.38"), "glibc");
/// assert_eq!(package_key("glibc-2.38-bin"), "glibc-bin");
/// assert_eq!(package_key("apache2-bin-2.4.62-1"), "apache2-bin");
/// ```
pub fn package_key(name: &str) -> Cow<'_, str> {
    let package = match package_name(name) {
        "" => name,
        package => package,
    };
    let Some(version) = name[package.len()..].strip_prefix('-') else {
        return package.into();
    };
    match version.rsplit_once('-') {
        Some((_, output)) if OUTPUT_SUFFIXES.binary_search(&output).is_ok() => {
            format!("{package}-{output}").into()
        }
        _ => package.into(),
    }
}
