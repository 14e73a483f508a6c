//! The Nix code, built in for servers that are one binary.

use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

/// The file that Nix is given for an image.
pub(crate) const ENTRY: &str = "prepare-image.nix";
/// The file that Nix is given for a whole package set.
pub(crate) const LIST_PACKAGES: &str = "list-packages.nix";

/// The entry last and whole: while it is there, all of it is.
const FILES: [(&str, &str); 3] = [
    ("load-pkgs.nix", include_str!("../nix/load-pkgs.nix")),
    (LIST_PACKAGES, include_str!("../nix/list-packages.nix")),
    (ENTRY, include_str!("../nix/prepare-image.nix")),
];

/// Writes it into a directory.
pub(crate) fn write_embedded(dir: &Path) -> io::Result<()> {
    for (name, text) in FILES {
        let mut file = NamedTempFile::new_in(dir)?;
        file.write_all(text.as_bytes())?;
        file.persist(dir.join(name)).map_err(|error| error.error)?;
    }
    Ok(())
}
