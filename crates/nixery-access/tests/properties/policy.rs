//! Properties of any text as a policy.

use nixery_access::{Allowance, Denial, Identity, Policy, PolicyRequest};

const IMAGES: [&str; 6] = [
    "git",
    "shell/git/htop",
    "arm64/git",
    "python3packages.numpy",
    "pkgs.inetutils.out",
    "7zz/curl",
];
const TAGS: [&str; 3] = ["latest", "main", "0123456789abcdef0123456789abcdef01234567"];
const SOURCES: [&str; 3] = [
    "nixpkgs nixos-26.05",
    "git https://example.org/packages.git",
    "path /srv/packages",
];

/// Panics if a property does not hold.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let policy = match Policy::parse(text) {
        Ok(policy) => policy,
        Err(errors) => {
            assert!(!errors.0.is_empty());
            let lines = 1..=text.lines().count().max(1);
            for error in errors.0 {
                assert!(lines.contains(&error.line), "{error:?}");
                assert!(!error.message.contains(char::is_control), "{error:?}");
                assert!(error.message.len() < 1_000, "{error:?}");
            }
            return;
        }
    };
    let decisions = decide_all(&policy);
    if let Some(reversed) = with_sections_reversed(text) {
        let policy = Policy::parse(&reversed).expect("the order of sections has no effect");
        assert_eq!(decide_all(&policy), decisions, "{reversed}");
    }
}

/// Returns the decisions on a few images for a few users.
fn decide_all(policy: &Policy) -> Vec<Result<Allowance, Denial>> {
    let groups = ["platform".to_owned()];
    let identities = [
        Identity::anonymous(),
        Identity::user("alice"),
        Identity::user("ci"),
        Identity::user("eve").with_groups(groups),
    ];
    let mut decisions = Vec::new();
    for identity in &identities {
        for image in IMAGES {
            for tag in TAGS {
                for source in SOURCES {
                    let request = PolicyRequest {
                        name: &image.parse().expect("the name is valid"),
                        tag: &tag.parse().expect("the tag is valid"),
                        source,
                    };
                    let decision = policy.decide(identity, &request);
                    if policy.allows_everything(identity) {
                        assert!(decision.is_ok(), "{identity:?} {request:?} {decision:?}");
                    }
                    if !policy.allows_anything(identity) {
                        assert!(decision.is_err(), "{identity:?} {request:?} {decision:?}");
                    }
                    decisions.push(decision);
                }
            }
        }
    }
    decisions
}

/// Returns the file with the sections in reverse order. In a valid policy every line that begins
/// with a bracket begins a section, if no text spans lines.
fn with_sections_reversed(text: &str) -> Option<String> {
    if text.contains("\"\"\"") || text.contains("'''") {
        return None;
    }
    let mut sections = vec![String::new()];
    for line in text.lines() {
        if line.trim_start().starts_with('[') {
            sections.push(String::new());
        }
        let section = sections.last_mut()?;
        section.push_str(line);
        section.push('\n');
    }
    // Keys before the first section belong to none.
    sections[1..].reverse();
    Some(sections.concat())
}
