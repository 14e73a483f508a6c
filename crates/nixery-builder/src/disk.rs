//! Refuses builds while a disk is almost full, so that what is built already can be served.

use std::path::PathBuf;

use nixery_storage::{Capacity, Space, Storage};

use crate::error::BuildError;

/// A disk is almost full if less than this part of it is left…
const RESERVED_PART: u64 = 50;
/// …and less than these bytes: more than the layers of most images. The use marks, leases and logs
/// of a server that only serves need much less.
const RESERVED_BYTES: u64 = 1 << 30;
/// The same for files. An image has about a hundred.
const RESERVED_FILES: u64 = 10_000;

/// Checks that the store and the spool folder have space for an image.
///
/// Space that cannot be determined does not stop a build: if something is wrong, the build itself
/// finds out, with a better message.
pub(crate) async fn check(storage: &dyn Storage, spool: PathBuf) -> Result<(), BuildError> {
    let store = storage.space().await;
    let spool = tokio::task::spawn_blocking(move || Space::of_folder(&spool)).await;
    let spool = spool.ok().and_then(Result::ok);
    for (place, space) in [
        ("blob store", store.ok().flatten()),
        ("spool folder", spool),
    ] {
        if let Some(missing) = space.as_ref().and_then(missing) {
            tracing::warn!(
                place,
                ?space,
                "the disk is almost full: no images are built"
            );
            return Err(BuildError::DiskFull { place, missing });
        }
    }
    Ok(())
}

/// Returns what is almost used up.
fn missing(space: &Space) -> Option<&'static str> {
    let is_short = |of: Capacity, most: u64| of.available < most.min(of.total / RESERVED_PART);
    if is_short(space.bytes, RESERVED_BYTES) {
        Some("disk space")
    } else if space
        .files
        .is_some_and(|files| is_short(files, RESERVED_FILES))
    {
        Some("inodes")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const GIB: u64 = 1 << 30;

    #[rstest]
    #[case::empty(1000 * GIB, 1000 * GIB, None, None)]
    #[case::a_gibibyte_is_enough(1000 * GIB, GIB, None, None)]
    #[case::less_is_not(1000 * GIB, GIB - 1, None, Some("disk space"))]
    #[case::a_small_disk(10 * GIB, 10 * GIB / 50, None, None)]
    #[case::a_small_disk_is_full(10 * GIB, 10 * GIB / 50 - 1, None, Some("disk space"))]
    #[case::no_inodes(1000 * GIB, 900 * GIB, Some((1_000_000, 9_999)), Some("inodes"))]
    #[case::few_inodes(1000 * GIB, 900 * GIB, Some((1_000_000, 10_000)), None)]
    #[case::unknown(0, 0, None, None)]
    fn what_is_short(
        #[case] total: u64,
        #[case] available: u64,
        #[case] files: Option<(u64, u64)>,
        #[case] expected: Option<&str>,
    ) {
        let space = Space {
            bytes: Capacity { total, available },
            files: files.map(|(total, available)| Capacity { total, available }),
        };
        assert_eq!(missing(&space), expected);
    }
}
