//! The Nix code, which is built into the program.

use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

/// The file that Nix evaluates for an image.
pub(crate) const ENTRY: &str = "prepare-image.nix";
/// The file that Nix evaluates for a whole package set.
pub(crate) const LIST_PACKAGES: &str = "list-packages.nix";

/// The entry is the last: while it exists, all files do.
const FILES: [(&str, &str); 3] = [
    ("load-pkgs.nix", include_str!("../nix/load-pkgs.nix")),
    (LIST_PACKAGES, include_str!("../nix/list-packages.nix")),
    (ENTRY, include_str!("../nix/prepare-image.nix")),
];

/// Writes all files into a directory, each atomically.
pub(crate) fn write_embedded(dir: &Path) -> io::Result<()> {
    for (name, text) in FILES {
        let mut file = NamedTempFile::new_in(dir)?;
        file.write_all(text.as_bytes())?;
        file.persist(dir.join(name)).map_err(|error| error.error)?;
    }
    Ok(())
}
