//! Picks the manifest family that a client gets, by its `Accept` header.

use http::HeaderMap;
use http::header::ACCEPT;
use nixery_manifest::{Family, MediaType};

/// The manifest families that a client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Preference {
    /// The family to send when the image has both.
    pub(crate) first: Family,
    /// Whether an OCI manifest may be sent where there is no Docker manifest (zstd layers).
    pub(crate) oci: bool,
}

/// Reads every `Accept` header of a manifest request.
///
/// A family that the client names wins over one that it only covers with `*/*`. Of two with equal
/// quality OCI wins, so that all current clients get the same digest. A client that names neither
/// gets the Docker manifest, which every client older than OCI reads, and which the original
/// serves.
#[must_use]
pub(crate) fn preference(headers: &HeaderMap) -> Preference {
    let (mut oci, mut docker, mut any) = (None, None, None);
    let ranges = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    for range in ranges {
        let (media_type, quality) = split(range);
        let weight = match media_type.as_str() {
            name if name == MediaType::OciManifest.as_str() => &mut oci,
            name if name == MediaType::DockerManifest.as_str() => &mut docker,
            "*/*" | "application/*" => &mut any,
            _ => continue,
        };
        *weight = (*weight).max(Some(quality));
    }
    // A family with a quality of zero is refused, even next to `*/*`.
    let named = |weight: Option<u16>| weight.unwrap_or(0);
    let first = match (named(oci), named(docker)) {
        (0, 0) if docker == Some(0) && oci.is_none() && named(any) > 0 => Family::Oci,
        (0, 0) => Family::Docker,
        (oci, docker) if oci >= docker => Family::Oci,
        _ => Family::Docker,
    };
    let nothing_named = oci.is_none() && docker.is_none() && any.is_none();
    Preference {
        first,
        oci: named(oci) > 0 || (oci.is_none() && named(any) > 0) || nothing_named,
    }
}

/// A media range without its parameters, in lower case, and its quality in thousandths.
fn split(range: &str) -> (String, u16) {
    let mut parts = range.split(';');
    let media_type = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
    let quality = parts
        .filter_map(|parameter| parameter.trim().split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
        .and_then(|(_, value)| value.trim().parse::<f32>().ok())
        .filter(|quality| quality.is_finite())
        .map_or(1000, |quality| {
            // In range after the clamp; RFC 9110 gives a quality three decimals.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let thousandths = (quality.clamp(0.0, 1.0) * 1000.0) as u16;
            thousandths
        });
    (media_type, quality)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use rstest::rstest;

    use super::*;

    const CONTAINERD: &str = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";
    const SKOPEO: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.v1+prettyjws, application/vnd.docker.distribution.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.index.v1+json";
    const CRANE: &str = "application/vnd.docker.distribution.manifest.v1+json,application/vnd.docker.distribution.manifest.v1+prettyjws,application/vnd.docker.distribution.manifest.v2+json,application/vnd.oci.image.manifest.v1+json,application/vnd.docker.distribution.manifest.list.v2+json,application/vnd.oci.image.index.v1+json";
    const OLD_DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v1+prettyjws, application/json";

    #[rstest]
    #[case::containerd(CONTAINERD, Family::Oci, true)]
    #[case::skopeo_and_podman(SKOPEO, Family::Oci, true)]
    #[case::crane(CRANE, Family::Oci, true)]
    #[case::docker_before_oci(OLD_DOCKER, Family::Docker, false)]
    #[case::anything("*/*", Family::Docker, true)]
    #[case::browser("text/html, application/xhtml+xml, */*;q=0.8", Family::Docker, true)]
    #[case::json("application/json", Family::Docker, true)]
    #[case::oci_only("application/vnd.oci.image.manifest.v1+json", Family::Oci, true)]
    #[case::parameters(
        "APPLICATION/vnd.oci.image.manifest.v1+json; charset=utf-8",
        Family::Oci,
        true
    )]
    #[case::docker_preferred(
        "application/vnd.oci.image.manifest.v1+json;q=0.5, application/vnd.docker.distribution.manifest.v2+json",
        Family::Docker,
        true
    )]
    #[case::oci_refused(
        "application/vnd.oci.image.manifest.v1+json;q=0, */*",
        Family::Docker,
        false
    )]
    #[case::docker_refused(
        "application/vnd.docker.distribution.manifest.v2+json;q=0, */*",
        Family::Oci,
        true
    )]
    #[case::broken_quality("application/vnd.oci.image.manifest.v1+json;q=NaN", Family::Oci, true)]
    fn picks_the_family_a_client_reads(
        #[case] accept: &str,
        #[case] first: Family,
        #[case] oci: bool,
    ) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
        assert_eq!(preference(&headers), Preference { first, oci });
    }

    #[test]
    fn without_a_header_everything_is_accepted_and_docker_comes_first() {
        let expected = Preference {
            first: Family::Docker,
            oci: true,
        };
        assert_eq!(preference(&HeaderMap::new()), expected);
    }

    #[test]
    fn several_headers_count_as_one() {
        let mut headers = HeaderMap::new();
        for part in SKOPEO.split(", ") {
            headers.append(ACCEPT, HeaderValue::from_str(part).unwrap());
        }
        assert_eq!(preference(&headers).first, Family::Oci);
    }
}
