//! The package source.

use nixery_core::PackageSource;

use crate::arguments::Section;
use crate::check::Checker;
use crate::table::{CHANNEL, Group, PKGS_PATH, PKGS_REPO};

/// The channel that is served when no package source is set: the current stable release.
pub const DEFAULT_CHANNEL: &str = "nixos-26.05";

/// At most one source may be set. A relative path starts at the current directory.
impl Section for PackageSource {
    const GROUPS: &'static [Group] = &[Group::Source];

    fn read(checker: &mut Checker<'_>) -> Option<Self> {
        let channel = checker.text(CHANNEL);
        let repository = checker.text(PKGS_REPO);
        let path = checker.path(PKGS_PATH);
        let mut given = vec![CHANNEL, PKGS_REPO, PKGS_PATH];
        given.retain(|setting| checker.is_given(setting));
        if given.len() > 1 {
            let names: Vec<_> = given.iter().map(|setting| checker.name(setting)).collect();
            let names = names.join(" and ");
            checker.push(format!(
                "{names} are set; allowed: exactly one of them, as it selects the package source"
            ));
            return None;
        }
        let (setting, value, source) = if let Some(repository) = repository {
            let source = Self::git(&repository);
            (PKGS_REPO, repository, source)
        } else if let Some(path) = path {
            let shown = path.display().to_string();
            // Without a current directory the path stays relative, and is refused below.
            let absolute = std::path::absolute(&path).unwrap_or(path);
            if !absolute.exists() {
                let allowed = "a folder or file that exists";
                checker.invalid(&checker.name(PKGS_PATH), &shown, allowed);
                return None;
            }
            (PKGS_PATH, shown, Self::path(absolute))
        } else {
            let channel = channel.unwrap_or_else(|| DEFAULT_CHANNEL.to_owned());
            let source = Self::channel(&channel);
            (CHANNEL, channel, source)
        };
        source
            .map_err(|error| {
                let allowed = format_args!("what Nix can fetch ({error})");
                checker.invalid(&checker.name(setting), &value, allowed);
            })
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arguments;
    use rstest::rstest;

    fn arguments(channel: &str, repository: &str, path: &str) -> Arguments<PackageSource> {
        Arguments::default()
            .with(CHANNEL, channel)
            .with(PKGS_REPO, repository)
            .with(PKGS_PATH, path)
    }

    #[rstest]
    #[case::none("", "", "", "nixpkgs")]
    #[case::channel("nixos-unstable", "", "", "nixpkgs")]
    #[case::repository("", "https://example.org/pkgs.git", "", "git")]
    #[case::path("", "", "/", "path")]
    #[case::relative_path("", "", ".", "path")]
    fn one_source_is_taken_and_empty_ones_are_not_there(
        #[case] channel: &str,
        #[case] repository: &str,
        #[case] path: &str,
        #[case] kind: &str,
    ) {
        let source = arguments(channel, repository, path).settings().unwrap();
        assert_eq!(source.kind(), kind);
    }

    #[test]
    fn a_password_in_a_wrong_address_is_not_repeated() {
        for address in [
            "https://user:hunter2@example.org/a b",
            "https://user:/hunter2@example.org/a",
            "://user:hunter2@example.org",
        ] {
            let message = arguments("", address, "").settings().unwrap_err();
            let message = message.to_string();
            assert!(message.contains("NIXERY_PKGS_REPO"), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[rstest]
    #[case::two(
        "nixos-26.05",
        "",
        "/",
        "NIXERY_CHANNEL (--channel) and NIXERY_PKGS_PATH (--pkgs-path) are set; allowed: exactly one"
    )]
    #[case::three("a", "b", "c", "NIXERY_PKGS_REPO")]
    #[case::channel(
        "nixos 26",
        "",
        "",
        "NIXERY_CHANNEL (--channel) is \"nixos 26\"; allowed:"
    )]
    #[case::repository("", "not a url", "", "NIXERY_PKGS_REPO (--pkgs-repo) is \"not a url\"")]
    #[case::path(
        "",
        "",
        "/no/such/folder",
        "NIXERY_PKGS_PATH (--pkgs-path) is \"/no/such/folder\"; allowed: a folder or file that exists"
    )]
    fn a_wrong_source_is_refused_by_name(
        #[case] channel: &str,
        #[case] repository: &str,
        #[case] path: &str,
        #[case] expected: &str,
    ) {
        let message = arguments(channel, repository, path)
            .settings()
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{message}");
    }
}
