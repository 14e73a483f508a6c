//! The Nix code, which is built into the program.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

/// The file that Nix evaluates for an image.
pub(crate) const ENTRY: &str = "prepare-image.nix";
/// The file that Nix evaluates to fetch a package set.
pub(crate) const FETCH_SOURCE: &str = "fetch-source.nix";
/// The file that Nix evaluates for a whole package set.
pub(crate) const LIST_PACKAGES: &str = "list-packages.nix";

/// The folder for these files in the instance directory: restricted code can read all of it.
pub(crate) const FOLDER: &str = "code";

/// The entry is the last: while it exists, all files do.
const FILES: [(&str, &str); 4] = [
    (FETCH_SOURCE, include_str!("../nix/fetch-source.nix")),
    ("load-pkgs.nix", include_str!("../nix/load-pkgs.nix")),
    (LIST_PACKAGES, include_str!("../nix/list-packages.nix")),
    (ENTRY, include_str!("../nix/prepare-image.nix")),
];

/// Writes all files into their folder in a directory, each atomically.
pub(crate) fn write_embedded(dir: &Path) -> io::Result<()> {
    let dir = &dir.join(FOLDER);
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for (name, text) in FILES {
        let mut file = NamedTempFile::new_in(dir)?;
        file.write_all(text.as_bytes())?;
        file.persist(dir.join(name)).map_err(|error| error.error)?;
    }
    Ok(())
}
