//! Properties of manifests, indexes and image configs for any bytes.

use nixery_manifest::{ImageConfig, Index, Manifest};

/// Panics if a property does not hold.
pub(crate) fn check(data: &[u8]) {
    let manifest = Manifest::from_slice(data).ok();
    let index = Index::from_slice(data).ok();
    assert!(
        manifest.is_none() || index.is_none(),
        "one document must not mean two things"
    );
    if let Some(manifest) = manifest {
        assert!(manifest.media_type.is_manifest());
        let bytes = manifest.to_bytes();
        let read = Manifest::from_slice(&bytes).expect("what is written reads back");
        assert_eq!(read, manifest);
        assert_eq!(read.to_bytes(), bytes);
    }
    if let Some(index) = index {
        assert!(index.media_type.is_index());
        let bytes = index.to_bytes();
        let read = Index::from_slice(&bytes).expect("what is written reads back");
        assert_eq!(read, index);
        assert_eq!(read.to_bytes(), bytes);
    }
    if let Ok(config) = ImageConfig::from_slice(data) {
        let bytes = config.to_bytes();
        let read = ImageConfig::from_slice(&bytes).expect("what is written reads back");
        assert_eq!(read, config);
        assert_eq!(read.to_bytes(), bytes);
    }
}
