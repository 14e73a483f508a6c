//! Properties of policies of any rules.

use std::fmt::Write;

use nixery_access::{Allowance, Denial, Identity, Policy, PolicyRequest, TokenScope};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

#[path = "properties/policy.rs"]
mod properties;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const USERS: [&str; 3] = ["alice", "bob", "carol"];
const WHO: [&str; 5] = ["alice", "bob", "group:dev", "*", "anonymous"];
const PACKAGES: [&str; 7] = ["git", "htop", "shell", "py.*", "g*", "*", "coreutils"];
const SOURCES: [&str; 3] = ["nixpkgs *", "git *", "*"];
const TAGS: [&str; 5] = ["main", "m*", "v?", "*", COMMIT];
const PLATFORMS: [&str; 2] = ["linux/amd64", "linux/arm64"];
const COMPONENTS: [&str; 7] = [
    "git", "htop", "py.x", "py.x.y", "shell", "git.out", "pkgs.git",
];

/// A rule, whose lists can be written in either order.
#[derive(Debug, Clone)]
struct Rule {
    allow: bool,
    lists: Vec<(&'static str, Vec<&'static str>)>,
    rest: &'static str,
}

impl Rule {
    fn write(&self, reverse: bool, text: &mut String) {
        let section = if self.allow { "allow" } else { "deny" };
        writeln!(text, "[[{section}]]").expect("a text can be written to");
        for (key, items) in &self.lists {
            let mut items = items.clone();
            if reverse {
                items.reverse();
            }
            writeln!(text, "{key} = {items:?}").expect("a text can be written to");
        }
        writeln!(text, "{}", self.rest).expect("a text can be written to");
    }
}

/// Returns the policy of rules, with the rules and their lists in reverse order if asked for.
fn policy(rules: &[Rule], reverse: bool) -> Policy {
    let mut text = String::from("[groups]\ndev = [\"bob\"]\n");
    if reverse {
        rules
            .iter()
            .rev()
            .for_each(|rule| rule.write(true, &mut text));
    } else {
        rules.iter().for_each(|rule| rule.write(false, &mut text));
    }
    Policy::parse(&text).expect("the rules are valid")
}

fn list<const N: usize>(items: [&'static str; N]) -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(items.to_vec(), 0..=N)
}

fn rules_of(allow: bool) -> impl Strategy<Value = Rule> {
    let optional = (
        prop::option::of(list(SOURCES)),
        prop::option::of(list(TAGS)),
        prop::option::of(list(PLATFORMS)),
    );
    let rest = select(vec![
        "",
        "build = false",
        "builds-per-hour = 3",
        "builds-per-hour = 9",
    ]);
    let commits = select(vec!["", "commits = true", "commits = false"]);
    (list(WHO), list(PACKAGES), optional, rest, commits).prop_map(
        move |(who, packages, (sources, tags, platforms), rest, commits)| {
            let mut lists = vec![("who", who), ("packages", packages)];
            // `commits` is an error without `tags`.
            let commits = tags.is_some().then_some(commits);
            lists.extend(sources.map(|items| ("sources", items)));
            lists.extend(tags.map(|items| ("tags", items)));
            lists.extend(platforms.map(|items| ("platforms", items)));
            let rest = match (allow, commits) {
                (false, _) => "",
                (true, Some(commits)) if !commits.is_empty() => commits,
                _ => rest,
            };
            Rule { allow, lists, rest }
        },
    )
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let rule = any::<bool>().prop_flat_map(rules_of);
    prop::collection::vec(rule, 0..6)
}

fn identities() -> impl Strategy<Value = Identity> {
    let users = prop::option::of(select(USERS.to_vec()));
    (users, any::<bool>()).prop_map(|(user, in_group)| {
        let identity = user.map_or_else(Identity::anonymous, Identity::user);
        identity.with_groups(in_group.then(|| "dev".to_owned()))
    })
}

/// An image, a tag and a package source.
#[derive(Debug, Clone)]
struct Request(String, &'static str, &'static str);

impl Request {
    fn decide(&self, policy: &Policy, identity: &Identity) -> Result<Allowance, Denial> {
        let Self(name, tag, source) = self;
        let request = PolicyRequest {
            name: &name.parse().expect("the name is valid"),
            tag: &tag.parse().expect("the tag is valid"),
            source,
        };
        policy.decide(identity, &request)
    }
}

fn requests() -> impl Strategy<Value = Request> {
    let components = subsequence(COMPONENTS.to_vec(), 1..4).prop_shuffle();
    let tag = select(vec!["main", "v1", "other", COMMIT]);
    let source = select(vec![
        "nixpkgs nixos-26.05",
        "git https://example.org",
        "path /x",
    ]);
    (components, any::<bool>(), tag, source).prop_map(|(components, arm, tag, source)| {
        let prefix = if arm { "arm64/" } else { "" };
        Request(format!("{prefix}{}", components.join("/")), tag, source)
    })
}

/// Whether an allowance has every right of another.
fn includes(one: Allowance, other: Allowance) -> bool {
    let limit = |allowance: Allowance| allowance.builds_per_hour.map_or(u32::MAX, u32::from);
    !other.may_build || (one.may_build && limit(one) >= limit(other))
}

/// Returns the examples of `docs/access.md`.
fn examples() -> Vec<Policy> {
    let page = include_str!("../../../docs/access.md");
    let blocks = page.split("```toml\n").skip(1);
    blocks
        .filter_map(|block| block.split_once("```"))
        .map(|(text, _)| Policy::parse(text).expect("an example is valid"))
        .collect()
}

#[test]
fn examples_of_the_documentation() {
    let [first, team, ci, denied] = &examples()[..] else {
        unreachable!("the page has four examples");
    };
    let [alice, anyone] = [Identity::user("alice"), Identity::anonymous()];
    let decide = |policy, identity: &Identity, image: &str, tag| {
        let decision = Request(image.to_owned(), tag, "nixpkgs x").decide(policy, identity);
        let allowance = decision.ok()?;
        let limit = allowance.builds_per_hour.map_or(u32::MAX, u32::from);
        Some(if allowance.may_build { limit } else { 0 })
    };
    let unlimited = Some(u32::MAX);

    assert_eq!(decide(first, &alice, "git", "latest"), unlimited);
    assert_eq!(decide(first, &alice, "pkgs.inetutils", "latest"), None);
    assert_eq!(
        decide(first, &Identity::user("carol"), "git", "latest"),
        None
    );

    assert_eq!(decide(team, &alice, "htop", COMMIT), Some(20));
    assert_eq!(decide(team, &anyone, "shell/git", "latest"), Some(0));
    assert_eq!(
        decide(team, &Identity::user("carol"), "curl", "latest"),
        Some(0)
    );
    assert_eq!(decide(team, &anyone, "htop", "latest"), None);

    let builder = Identity::user("ci");
    assert_eq!(decide(ci, &builder, "git", "release-1"), unlimited);
    assert_eq!(decide(ci, &builder, "git", COMMIT), unlimited);
    assert_eq!(decide(ci, &builder, "git", "dev"), Some(0));
    assert_eq!(decide(ci, &alice, "git", "main"), Some(0));
    assert_eq!(decide(ci, &anyone, "git", "main"), None);

    assert_eq!(decide(denied, &alice, "git", "latest"), unlimited);
    assert_eq!(decide(denied, &alice, "git/inetutils.out", "latest"), None);
    assert_eq!(decide(denied, &alice, "busybox-telnetd", "latest"), None);
}

proptest! {
    #[test]
    fn any_text_is_a_policy_or_problems_with_lines(
        text in "([a-z\\[\\]{}\"'=*.:#, \\n-]|\\PC|\\[\\[allow\\]\\]|who = |\\n){0,60}",
    ) {
        properties::check(text.as_bytes());
    }

    #[test]
    fn order_has_no_effect(rules in rules(), identity in identities(), request in requests()) {
        let decision = request.decide(&policy(&rules, false), &identity);
        prop_assert_eq!(request.decide(&policy(&rules, true), &identity), decision);
    }

    #[test]
    fn nothing_is_allowed_without_allow_rules(
        rules in prop::collection::vec(rules_of(false), 0..4),
        identity in identities(),
        request in requests(),
    ) {
        request.decide(&policy(&rules, false), &identity).expect_err("no rule allows it");
    }

    #[test]
    fn an_allow_rule_takes_no_right_away(
        rules in rules(),
        rule in rules_of(true),
        identity in identities(),
        request in requests(),
    ) {
        let mut more = rules.clone();
        more.push(rule);
        let [rules, more] = [rules, more].map(|rules| policy(&rules, false));
        if let Ok(before) = request.decide(&rules, &identity) {
            let after = request.decide(&more, &identity).expect("it is still allowed");
            prop_assert!(includes(after, before));
        }
        prop_assert!(!rules.allows_everything(&identity) || more.allows_everything(&identity));
    }

    #[test]
    fn a_deny_rule_gives_no_right(
        rules in rules(),
        rule in rules_of(false),
        identity in identities(),
        request in requests(),
    ) {
        let mut more = rules.clone();
        more.push(rule);
        let [rules, more] = [rules, more].map(|rules| policy(&rules, false));
        if let Ok(after) = request.decide(&more, &identity) {
            prop_assert_eq!(request.decide(&rules, &identity), Ok(after));
        }
        prop_assert!(rules.allows_everything(&identity) || !more.allows_everything(&identity));
    }

    #[test]
    fn deny_wins(mut rules in rules(), position: usize, request in requests()) {
        let deny = Rule { allow: false, lists: vec![("who", vec!["alice"])], rest: "" };
        rules.insert(position % (rules.len() + 1), deny);
        let denied = request.decide(&policy(&rules, false), &Identity::user("alice"));
        denied.expect_err("every image is denied");
    }

    #[test]
    fn denied_packages_are_in_no_image(
        mut rules in rules(),
        position: usize,
        identity in identities(),
        request in requests(),
    ) {
        let who = vec!["*", "anonymous"];
        let lists = vec![("who", who), ("packages", vec!["git"])];
        rules.insert(position % (rules.len() + 1), Rule { allow: false, lists, rest: "" });
        if request.0.split(['/', '.']).any(|part| part == "git") {
            let denied = request.decide(&policy(&rules, false), &identity);
            denied.expect_err("the package is denied");
        }
    }

    #[test]
    fn everything_includes_every_request(
        rules in rules(),
        identity in identities(),
        request in requests(),
    ) {
        let policy = policy(&rules, false);
        let decision = request.decide(&policy, &identity);
        prop_assert!(!policy.allows_everything(&identity) || decision.is_ok());
        prop_assert!(policy.allows_anything(&identity) || decision.is_err());
    }

    #[test]
    fn a_name_is_allowed_if_one_of_its_images_is(
        rules in rules(),
        identity in identities(),
        request in requests(),
    ) {
        let policy = policy(&rules, false);
        let name = request.0.parse().expect("the name is valid");
        if request.decide(&policy, &identity).is_ok() {
            prop_assert_eq!(policy.decide_name(&identity, &name, request.2), Ok(()));
        }
    }

    #[test]
    fn those_in_no_rule_get_nothing(rules in rules(), request in requests()) {
        let is_for = |who: &str, rule: &Rule| {
            rule.allow && rule.lists.iter().any(|(key, items)| *key == "who" && items.contains(&who))
        };
        let policy = policy(&rules, false);
        if !rules.iter().any(|rule| is_for("anonymous", rule)) {
            let decision = request.decide(&policy, &Identity::anonymous());
            decision.expect_err("no rule is for requests without a login");
        }
        if !rules.iter().any(|rule| is_for("*", rule)) {
            let decision = request.decide(&policy, &Identity::user("carol"));
            decision.expect_err("no rule is for the user");
        }
    }

    #[test]
    fn a_scope_gives_no_right(
        rules in rules(),
        identity in identities(),
        request in requests(),
        in_scope: bool,
    ) {
        let policy = policy(&rules, false);
        let scoped = identity.clone().with_scope(TokenScope::new(in_scope.then(|| request.0.clone())));
        let decision = request.decide(&policy, &scoped);
        let by_policy = request.decide(&policy, &identity);
        if in_scope || by_policy.is_err() {
            prop_assert_eq!(decision, by_policy);
        } else {
            prop_assert_eq!(decision, Err(Denial::Scope(request.0.clone())));
        }
    }
}
