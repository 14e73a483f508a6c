use proptest::prelude::*;
use rstest::rstest;

use super::*;

#[test]
fn every_known_type_reads_back() {
    for media_type in KNOWN {
        let text = media_type.as_str();
        assert_eq!(MediaType::from(text), media_type);
        assert_eq!(MediaType::from(text.to_owned()), media_type);
        assert!(media_type.family().is_some(), "{text}");
        // The text contains the name of the family.
        let family = if text.contains("docker") {
            Family::Docker
        } else {
            Family::Oci
        };
        assert_eq!(media_type.family(), Some(family));
        assert_eq!(
            media_type.is_index(),
            text.contains("index") || text.contains("list")
        );
        assert_eq!(
            media_type.is_manifest(),
            text.contains("manifest.v2") || text.contains("manifest.v1")
        );
    }
}

#[rstest]
#[case(Family::Docker)]
#[case(Family::Oci)]
fn a_family_names_its_own_types(#[case] family: Family) {
    for media_type in [family.manifest(), family.index(), family.config()] {
        assert_eq!(media_type.family(), Some(family));
    }
    for compression in [Compression::Gzip, Compression::Zstd] {
        if let Some(media_type) = compression.layer_media_type(family) {
            assert_eq!(media_type.family(), Some(family));
            let text = media_type.as_str();
            assert!(text.ends_with(compression.as_str()), "{text}");
        }
    }
    assert!(family.manifest().is_manifest());
    assert!(family.index().is_index());
}

#[test]
fn docker_has_no_zstd_layers() {
    assert_eq!(Compression::Zstd.layer_media_type(Family::Docker), None);
}

#[test]
fn compressions_have_names() {
    for compression in [Compression::Gzip, Compression::Zstd] {
        let name = compression.to_string();
        assert_eq!(name.parse(), Ok(compression));
        assert_eq!(
            serde_json::to_string(&compression).ok(),
            Some(format!("\"{name}\""))
        );
    }
    let error = "xz".parse::<Compression>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown compression `xz`. Fix: use `gzip` or `zstd`"
    );
}

proptest! {
    #[test]
    fn an_unknown_type_is_kept(text in "\\PC{0,40}") {
        let media_type = MediaType::from(text.as_str());
        prop_assert_eq!(media_type.as_str(), &text);
        let json = serde_json::to_string(&media_type)?;
        prop_assert_eq!(serde_json::from_str::<MediaType>(&json)?, media_type);
    }
}
