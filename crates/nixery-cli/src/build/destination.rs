//! The destination of an image, in the notation of skopeo.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, bail};
use nixery_builder::ImageRequest;
use nixery_builder::export::check_oci_layout;

use crate::output::folder_of;

/// The destination of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Only the blob store.
    Store,
    /// An OCI layout.
    Oci {
        directory: PathBuf,
        /// The image's name in the layout; the requested tag by default.
        tag: Option<String>,
    },
    /// A docker archive.
    DockerArchive {
        file: PathBuf,
        /// The name of the image when it is loaded; the requested name and tag by default.
        reference: Option<String>,
    },
}

const EXPECTED: &str = "expected docker-archive:FILE[:NAME:TAG], oci:DIR[:TAG] or store";

impl Destination {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text == "store" {
            return Ok(Self::Store);
        }
        let (kind, rest) = text.split_once(':').ok_or(EXPECTED)?;
        let (path, name) = match rest.split_once(':') {
            Some((path, name)) => (path, Some(name)),
            None => (rest, None),
        };
        if path.is_empty() {
            return Err(format!("the path is missing: {EXPECTED}"));
        }
        match kind {
            "oci" if name.is_none_or(is_tag) => Ok(Self::Oci {
                directory: path.into(),
                tag: name.map(str::to_owned),
            }),
            "oci" => Err("the tag is invalid: expected oci:DIR[:TAG]".into()),
            "docker-archive" => Ok(Self::DockerArchive {
                file: path.into(),
                reference: name.map(parse_reference).transpose()?,
            }),
            _ => Err(EXPECTED.into()),
        }
    }

    /// Returns a docker archive in the current directory.
    pub(crate) fn default_for(request: &ImageRequest) -> Self {
        let mut name = request.name.as_str().replace('/', "-");
        if !request.tag.is_latest() {
            name.push('-');
            name.push_str(request.tag.as_str());
        }
        Self::DockerArchive {
            file: format!("{name}.tar").into(),
            reference: None,
        }
    }

    /// Checks before a long build that the image can be written after it.
    ///
    /// # Errors
    /// A file is in the way, or the folder is missing.
    pub(crate) fn check(&self) -> Result<()> {
        let file = match self {
            Self::Store => return Ok(()),
            Self::Oci { directory, .. } => return Ok(check_oci_layout(directory)?),
            Self::DockerArchive { file, .. } => file,
        };
        let parent = folder_of(file);
        if file.is_dir() {
            bail!(
                "cannot write {}: it is a directory. Fix: name a file",
                file.display()
            );
        }
        if !parent.is_dir() {
            bail!(
                "cannot write {}: there is no directory {}. Fix: create it",
                file.display(),
                parent.display()
            );
        }
        Ok(())
    }

    /// Suggests what to do with the image.
    pub(crate) fn hint(&self, request: &ImageRequest) -> String {
        match self {
            Self::Store => "the registry serves the image without building it".to_owned(),
            Self::Oci { directory, tag } => {
                let tag = tag.as_deref().unwrap_or(request.tag.as_str());
                format!(
                    "skopeo copy oci:{}:{tag} containers-storage:{}:{}",
                    directory.display(),
                    request.name.as_str(),
                    request.tag
                )
            }
            Self::DockerArchive { file, .. } => {
                format!("podman load -i {0}, or docker load -i {0}", file.display())
            }
        }
    }
}

fn is_tag(text: &str) -> bool {
    nixery_core::Tag::parse(text).is_ok()
}

/// Parses a name with a tag as `docker load` accepts them.
fn parse_reference(text: &str) -> Result<String, String> {
    let last = text.rsplit('/').next().unwrap_or(text);
    let (name, tag) = match last.rsplit_once(':') {
        Some((_, tag)) => (&text[..text.len() - tag.len() - 1], tag),
        None => (text, "latest"),
    };
    let name_fits = !name.is_empty()
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/:".contains(&byte)
        });
    if !name_fits || !is_tag(tag) {
        return Err(format!("{text:?} is not an image name with a tag"));
    }
    Ok(format!("{name}:{tag}"))
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store => f.write_str("store"),
            Self::Oci { directory, .. } => write!(f, "oci:{}", directory.display()),
            Self::DockerArchive { file, .. } => write!(f, "docker-archive:{}", file.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use nixery_core::{ImageName, Tag};
    use rstest::rstest;

    use super::*;

    fn archive(file: &str, reference: Option<&str>) -> Destination {
        Destination::DockerArchive {
            file: file.into(),
            reference: reference.map(Into::into),
        }
    }

    fn oci(directory: &str, tag: Option<&str>) -> Destination {
        Destination::Oci {
            directory: directory.into(),
            tag: tag.map(Into::into),
        }
    }

    #[rstest]
    #[case("store", Destination::Store)]
    #[case("oci:a/b", oci("a/b", None))]
    #[case("oci:a:v1", oci("a", Some("v1")))]
    #[case("docker-archive:a.tar", archive("a.tar", None))]
    #[case("docker-archive:a.tar:git", archive("a.tar", Some("git:latest")))]
    #[case(
        "docker-archive:a.tar:git/htop:1",
        archive("a.tar", Some("git/htop:1"))
    )]
    #[case(
        "docker-archive:/a.tar:h:80/git:1",
        archive("/a.tar", Some("h:80/git:1"))
    )]
    #[case(
        "docker-archive:a.tar:h:80/git",
        archive("a.tar", Some("h:80/git:latest"))
    )]
    fn destinations_are_in_the_notation_of_skopeo(
        #[case] text: &str,
        #[case] expected: Destination,
    ) {
        assert_eq!(Destination::parse(text), Ok(expected));
    }

    #[rstest]
    #[case("")]
    #[case("a.tar")]
    #[case("oci:")]
    #[case("oci::v1")]
    #[case("oci:a:not/a/tag")]
    #[case("docker-archive:")]
    #[case("docker-archive:a.tar:Git:1")]
    #[case("docker-archive:a.tar:git:")]
    #[case("docker://host/image")]
    fn other_destinations_are_refused(#[case] text: &str) {
        assert!(Destination::parse(text).is_err());
    }

    #[rstest]
    #[case("shell/git/htop", "latest", "shell-git-htop.tar")]
    #[case("git", "nixos-26.05", "git-nixos-26.05.tar")]
    fn the_default_has_the_name_of_the_image(
        #[case] name: &str,
        #[case] tag: &str,
        #[case] file: &str,
    ) {
        let request = ImageRequest {
            name: ImageName::parse(name).expect("a name"),
            tag: Tag::parse(tag).expect("a tag"),
        };
        assert_eq!(Destination::default_for(&request), archive(file, None));
    }
}
