//! Where an image is written to, in the notation of skopeo.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use nixery_builder::ImageRequest;
use nixery_builder::export::check_oci_layout;

/// Where an image is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Nowhere but the blob store.
    Store,
    /// An OCI layout.
    Oci {
        directory: PathBuf,
        /// The image's name in the layout; the image's tag by default.
        tag: Option<String>,
    },
    /// A docker archive.
    DockerArchive {
        file: PathBuf,
        /// The name it gets when it is loaded; name and tag as asked for by default.
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
            Some((path, name)) => (path, Some(name.to_owned())),
            None => (rest, None),
        };
        if path.is_empty() {
            return Err(format!("the path is missing: {EXPECTED}"));
        }
        match kind {
            "oci" => {
                if name
                    .as_deref()
                    .is_some_and(|tag| nixery_core::Tag::parse(tag).is_err())
                {
                    return Err("what follows the directory is no tag".into());
                }
                Ok(Self::Oci {
                    directory: path.into(),
                    tag: name,
                })
            }
            "docker-archive" => Ok(Self::DockerArchive {
                file: path.into(),
                reference: name.map(|name| reference(&name)).transpose()?,
            }),
            _ => Err(EXPECTED.into()),
        }
    }

    /// A docker archive in the current directory: docker and podman load it as it is.
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

    /// Finds out before a long build what would stop the writing after it.
    pub(crate) fn check(&self) -> Result<()> {
        let file = match self {
            Self::Store => return Ok(()),
            Self::Oci { directory, .. } => return Ok(check_oci_layout(directory)?),
            Self::DockerArchive { file, .. } => file,
        };
        let parent = file
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        if file.is_dir() {
            bail!("{} is a directory: name a file to write", file.display());
        }
        if !parent.is_dir() {
            bail!("there is no directory {} to write to", parent.display());
        }
        Ok(())
    }

    /// What to do with it next.
    pub(crate) fn hint(&self, request: &ImageRequest) -> String {
        match self {
            Self::Store => "the registry now serves it without building".to_owned(),
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

/// A name with a tag, as `docker load` accepts them.
fn reference(text: &str) -> Result<String, String> {
    let last = text.rsplit('/').next().unwrap_or(text);
    let (name, tag) = match last.rsplit_once(':') {
        Some((_, tag)) => (&text[..text.len() - tag.len() - 1], tag),
        None => (text, "latest"),
    };
    let name_fits = !name.is_empty()
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/:".contains(&byte)
        });
    if !name_fits || nixery_core::Tag::parse(tag).is_err() {
        return Err(format!("{text:?} is no image name with a tag"));
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
    fn destinations_are_skopeos(#[case] text: &str, #[case] expected: Destination) {
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
    fn the_default_is_named_for_the_image(
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
