//! Decisions of policies, and the problems of files that are none.

use rstest::rstest;

use super::*;
use crate::TokenScope;

const CHANNEL: &str = "nixpkgs nixos-26.05";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn parse(text: &str) -> Policy {
    Policy::parse(text).expect("the policy is valid")
}

fn decide_from(
    policy: &str,
    identity: &Identity,
    image: &str,
    source: &str,
) -> Result<Allowance, Denial> {
    let (name, tag) = image.split_once(':').unwrap_or((image, "latest"));
    let request = PolicyRequest {
        name: &name.parse().expect("the name is valid"),
        tag: &tag.parse().expect("the tag is valid"),
        source,
    };
    parse(policy).decide(identity, &request)
}

fn decide(policy: &str, identity: &Identity, image: &str) -> Result<Allowance, Denial> {
    decide_from(policy, identity, image, CHANNEL)
}

fn package(name: &str) -> Denial {
    Denial::Package(name.to_owned())
}

/// Returns an identity as `who` writes it, with `+` before each group of a token.
fn identity(text: &str) -> Identity {
    let mut parts = text.split('+');
    match parts.next() {
        Some("anonymous") | None => Identity::anonymous(),
        Some(name) => Identity::user(name).with_groups(parts.map(str::to_owned)),
    }
}

#[rstest]
#[case::nobody("[]", "alice", false)]
#[case::a_user(r#"["alice"]"#, "alice", true)]
#[case::another_user(r#"["alice"]"#, "bob", false)]
#[case::case_counts(r#"["alice"]"#, "Alice", false)]
#[case::every_user(r#"["*"]"#, "alice", true)]
#[case::every_user_is_not_anonymous(r#"["*"]"#, "anonymous", false)]
#[case::anonymous(r#"["anonymous"]"#, "anonymous", true)]
#[case::anonymous_is_not_every_user(r#"["anonymous"]"#, "alice", false)]
#[case::everybody(r#"["anonymous", "*"]"#, "alice", true)]
#[case::a_group_of_the_policy(r#"["group:platform"]"#, "bob", true)]
#[case::a_group_of_a_token(r#"["group:platform"]"#, "eve+platform", true)]
#[case::a_group_of_tokens_alone(r#"["group:staff"]"#, "eve+staff", true)]
#[case::no_such_group(r#"["group:staff"]"#, "bob", false)]
#[case::a_group_is_no_user(r#"["platform"]"#, "bob", false)]
#[case::anonymous_is_in_no_group(r#"["group:platform"]"#, "anonymous", false)]
fn a_rule_is_for_those_it_lists(#[case] who: &str, #[case] user: &str, #[case] allowed: bool) {
    let groups = "[groups]\nplatform = [\"bob\", \"carol\"]\n";
    let policy = format!("{groups}[[allow]]\nwho = {who}\npackages = [\"*\"]\n");
    let user = identity(user);
    assert_eq!(decide(&policy, &user, "git").is_ok(), allowed);
    assert_eq!(parse(&policy).allows_everything(&user), allowed);
    assert_eq!(parse(&policy).allows_anything(&user), allowed);
    if !allowed {
        assert_eq!(decide(&policy, &user, "git"), Err(Denial::Registry));
    }

    let denying = format!("{policy}[[allow]]\nwho = [\"*\", \"anonymous\"]\npackages = [\"*\"]\n");
    let denying = denying.replacen("[[allow]]", "[[deny]]", 1);
    assert_eq!(decide(&denying, &user, "git").is_err(), allowed);
}

#[test]
fn users_with_names_of_the_policy_language_are_matched_by_no_special_entry() {
    let policy = "[[allow]]\nwho = [\"anonymous\", \"group:admins\"]\npackages = [\"*\"]";
    for name in ["anonymous", "*", "group:admins", ""] {
        assert_eq!(
            decide(policy, &Identity::user(name), "git"),
            Err(Denial::Registry),
            "{name}"
        );
    }
}

#[rstest]
#[case::listed(r#"["git"]"#, "git", None)]
#[case::another(r#"["git"]"#, "htop", Some("htop"))]
#[case::each_package_needs_a_rule(r#"["git"]"#, "git/htop", Some("htop"))]
#[case::several(r#"["git", "htop"]"#, "htop/git", None)]
#[case::patterns(r#"["py*.num??"]"#, "python3packages.numpy", None)]
#[case::spelling_of_nixpkgs(r#"["_7zz", "GIT"]"#, "7zz/git", None)]
#[case::a_part_of_a_package(r#"["git"]"#, "git.doc", Some("git.doc"))]
#[case::a_dot_is_no_character_of_a_pattern(r#"["git*"]"#, "git.stdenv", Some("git.stdenv"))]
#[case::a_path_to_a_package(r#"["git"]"#, "pkgs.git", Some("pkgs.git"))]
#[case::everything(r#"["*"]"#, "git.stdenv.cc", None)]
#[case::nothing("[]", "git", Some("git"))]
#[case::shell(r#"["shell", "git"]"#, "shell/git", None)]
#[case::shell_alone(r#"["shell"]"#, "shell", None)]
#[case::no_shell(r#"["git"]"#, "shell/git", Some("shell"))]
#[case::what_shell_adds_is_no_shell(
    r#"["bashInteractive", "coreutils", "moreutils", "nano"]"#,
    "shell",
    Some("shell")
)]
#[case::shell_allows_no_other_name(r#"["shell"]"#, "nano", Some("nano"))]
#[case::arm64_adds_no_package(r#"["git"]"#, "arm64/git", None)]
#[case::arm64_as_a_package(r#"["git"]"#, "git/arm64", Some("arm64"))]
#[case::packages_of_every_image(r#"["git"]"#, "git/cacert", Some("cacert"))]
fn allow_rules_match_what_a_name_lists(
    #[case] packages: &str,
    #[case] image: &str,
    #[case] denied: Option<&str>,
) {
    let policy = format!("[[allow]]\nwho = [\"*\"]\npackages = {packages}");
    let decision = decide(&policy, &Identity::user("alice"), image);
    assert_eq!(decision.err(), denied.map(package));
}

#[rstest]
#[case::named(r#"["inetutils"]"#, "git/inetutils", Some("inetutils"))]
#[case::another(r#"["inetutils"]"#, "git", None)]
#[case::part_of_a_word(r#"["inetutils"]"#, "inetutils2", None)]
#[case::below_another_set(r#"["inetutils"]"#, "pkgs.pkgs.inetutils", Some("pkgs.pkgs.inetutils"))]
#[case::an_output(r#"["inetutils"]"#, "inetutils.out", Some("inetutils.out"))]
#[case::both(r#"["inet*"]"#, "pkgs.inetutils.out", Some("pkgs.inetutils.out"))]
#[case::a_set(
    r#"["python3packages"]"#,
    "python3packages.numpy",
    Some("python3packages.numpy")
)]
#[case::what_a_meta_package_adds(r#"["bashinteractive"]"#, "shell/git", Some("bashInteractive"))]
#[case::a_meta_package(r#"["shell"]"#, "arm64/shell/git", Some("shell"))]
#[case::an_architecture(r#"["arm64"]"#, "arm64/git", Some("arm64"))]
#[case::spelling_of_nixpkgs(r#"["_7ZZ"]"#, "7zz", Some("7zz"))]
#[case::every_image_has_it(r#"["cacert"]"#, "git", Some("cacert"))]
#[case::everything(r#"["*"]"#, "git", Some("cacert"))]
#[case::nothing("[]", "git", None)]
fn deny_rules_match_every_package(
    #[case] packages: &str,
    #[case] image: &str,
    #[case] denied: Option<&str>,
) {
    let policy = format!(
        "[[allow]]\nwho = [\"*\"]\npackages = [\"*\"]\n[[deny]]\nwho = [\"*\"]\npackages = {packages}"
    );
    let decision = decide(&policy, &Identity::user("alice"), image);
    assert_eq!(decision.err(), denied.map(package));
}

#[rstest]
#[case::no_tags("", "git:latest", true)]
#[case::no_tags_and_a_commit("", "git:COMMIT", true)]
#[case::listed(r#"tags = ["main"]"#, "git:main", true)]
#[case::case_counts(r#"tags = ["main"]"#, "git:Main", false)]
#[case::another(r#"tags = ["main"]"#, "git:latest", false)]
#[case::a_pattern(r#"tags = ["release-*", "v?"]"#, "git:v2", true)]
#[case::a_commit(r#"tags = ["main"]"#, "git:COMMIT", false)]
#[case::patterns_match_no_commit(r#"tags = ["0*", "?*"]"#, "git:COMMIT", false)]
#[case::all_tags_are_all_commits(r#"tags = ["*"]"#, "git:COMMIT", true)]
#[case::a_listed_commit(r#"tags = ["COMMIT"]"#, "git:COMMIT", true)]
#[case::commits("tags = [\"main\"]\ncommits = true", "git:COMMIT", true)]
#[case::commits_are_no_other_tags("tags = [\"main\"]\ncommits = true", "git:latest", false)]
#[case::no_commits("tags = [\"*\"]\ncommits = false", "git:COMMIT", false)]
#[case::all_tags_without_commits("tags = [\"*\"]\ncommits = false", "git:latest", true)]
#[case::no_tag("tags = []", "git:latest", false)]
#[case::no_tag_and_a_commit("tags = []", "git:COMMIT", false)]
#[case::a_platform(r#"platforms = ["linux/arm64"]"#, "arm64/git", true)]
#[case::another_platform(r#"platforms = ["linux/arm64"]"#, "git", false)]
#[case::both_platforms(r#"platforms = ["linux/arm64", "linux/amd64"]"#, "git", true)]
#[case::no_platform("platforms = []", "git", false)]
#[case::a_source(r#"sources = ["nixpkgs nixos-26.05"]"#, "git", true)]
#[case::a_pattern_of_sources(r#"sources = ["nixpkgs *"]"#, "git", true)]
#[case::another_source(r#"sources = ["git *"]"#, "git", false)]
#[case::no_source("sources = []", "git", false)]
#[case::all_conditions(
    "sources = [\"nix*\"]\nplatforms = [\"linux/amd64\"]\ntags = [\"main\"]",
    "git:main",
    true
)]
#[case::not_all_conditions(
    "sources = [\"nix*\"]\nplatforms = [\"linux/amd64\"]\ntags = [\"main\"]",
    "arm64/git:main",
    false
)]
fn conditions_of_allow_rules(#[case] conditions: &str, #[case] image: &str, #[case] allowed: bool) {
    let policy = format!("[[allow]]\nwho = [\"*\"]\npackages = [\"git\"]\n{conditions}");
    let [policy, image] = [&policy, image].map(|text| text.replace("COMMIT", COMMIT));
    let decision = decide(&policy, &Identity::user("alice"), &image);
    assert_eq!(decision.is_ok(), allowed, "{decision:?}");
}

#[rstest]
#[case::no_conditions("", "git", Some(Denial::Registry))]
#[case::a_tag(r#"tags = ["dev-*"]"#, "git:dev-1", Some(Denial::Tag("dev-1".into())))]
#[case::another_tag(r#"tags = ["dev-*"]"#, "git:latest", None)]
#[case::a_commit_may_be_of_a_denied_branch(r#"tags = ["dev-*"]"#, "git:COMMIT", Some(Denial::Tag(COMMIT.into())))]
#[case::no_tag("tags = []", "git:COMMIT", None)]
#[case::a_platform(r#"platforms = ["linux/arm64"]"#, "arm64/git", Some(Denial::Platform("linux/arm64".into())))]
#[case::another_platform(r#"platforms = ["linux/arm64"]"#, "git", None)]
#[case::a_source(r#"sources = ["nixpkgs *"]"#, "git", Some(Denial::Source))]
#[case::another_source(r#"sources = ["git *"]"#, "git", None)]
#[case::all_conditions(
    "packages = [\"git\"]\ntags = [\"dev\"]",
    "git:dev",
    Some(package("git"))
)]
#[case::one_of_two_conditions("packages = [\"git\"]\ntags = [\"dev\"]", "git:main", None)]
#[case::the_other_of_two_conditions("packages = [\"git\"]\ntags = [\"dev\"]", "htop:dev", None)]
fn conditions_of_deny_rules(
    #[case] conditions: &str,
    #[case] image: &str,
    #[case] denial: Option<Denial>,
) {
    let policy = format!(
        "[[deny]]\nwho = [\"*\"]\n{conditions}\n[[allow]]\nwho = [\"*\"]\npackages = [\"*\"]"
    );
    let image = image.replace("COMMIT", COMMIT);
    let decision = decide(&policy, &Identity::user("alice"), &image);
    assert_eq!(decision.err(), denial);
}

#[rstest]
#[case::a_tag("git:dev", CHANNEL, Denial::Tag("dev".into()))]
#[case::a_platform("arm64/git:main", CHANNEL, Denial::Platform("linux/arm64".into()))]
#[case::a_source("git:main", "path /srv/packages", Denial::Source)]
#[case::a_package("htop/git:dev", "path /srv/packages", package("htop"))]
#[case::the_rule_that_comes_closest("git:dev", CHANNEL, Denial::Tag("dev".into()))]
fn a_denial_names_what_is_not_allowed(
    #[case] image: &str,
    #[case] source: &str,
    #[case] denial: Denial,
) {
    let policy = r#"
        [[allow]]
        who = ["*"]
        packages = ["git"]
        sources = ["nixpkgs *"]
        platforms = ["linux/amd64"]
        tags = ["main"]
        [[allow]]
        who = ["*"]
        packages = ["curl"]
    "#;
    let decision = decide_from(policy, &Identity::user("alice"), image, source);
    assert_eq!(decision, Err(denial));
}

#[rstest]
#[case::without_limit("git", true, None)]
#[case::not_at_all("htop", false, None)]
#[case::limited("curl", true, Some(5))]
#[case::the_most_generous_rule("jq", true, Some(9))]
#[case::no_limit_is_more_generous("nano", true, None)]
#[case::building_is_more_generous("vim", true, Some(2))]
#[case::the_least_generous_package("git/curl/jq", true, Some(5))]
#[case::each_package_must_be_allowed_to_build("git/htop", false, None)]
fn builds(#[case] image: &str, #[case] may_build: bool, #[case] limit: Option<u32>) {
    let rules = [
        (r#"["git", "nano"]"#, ""),
        (r#"["htop", "vim"]"#, "build = false"),
        (r#"["curl", "jq", "nano"]"#, "builds-per-hour = 5"),
        (r#"["jq"]"#, "builds-per-hour = 9"),
        (r#"["vim"]"#, "builds-per-hour = 0x2"),
    ];
    let rule =
        |(packages, rest)| format!("[[allow]]\nwho = [\"alice\"]\npackages = {packages}\n{rest}\n");
    let policy: String = rules.map(rule).concat();
    let allowance = Allowance {
        may_build,
        builds_per_hour: limit.and_then(NonZeroU32::new),
    };
    assert_eq!(
        decide(&policy, &Identity::user("alice"), image),
        Ok(allowance)
    );
}

#[test]
fn a_token_limits_its_bearer() {
    let policy = "[[allow]]\nwho = [\"*\"]\npackages = [\"git\", \"htop\"]";
    let scope = TokenScope::new(["git".to_owned(), "curl".to_owned()]);
    let alice = Identity::user("alice").with_scope(scope);
    assert!(decide(policy, &alice, "git").is_ok());
    assert_eq!(
        decide(policy, &alice, "htop"),
        Err(Denial::Scope("htop".into()))
    );
    assert_eq!(decide(policy, &alice, "curl"), Err(package("curl")));

    let all = parse("[[allow]]\nwho = [\"*\"]\npackages = [\"*\"]");
    assert!(all.allows_everything(&Identity::user("alice")));
    assert!(!all.allows_everything(&alice));
}

#[rstest]
#[case::all("", true)]
#[case::without_builds("build = false", true)]
#[case::all_tags(r#"tags = ["*"]"#, true)]
#[case::no_commits("tags = [\"*\"]\ncommits = false", false)]
#[case::some_tags("tags = [\"m*\"]\ncommits = true", false)]
#[case::all_sources(r#"sources = ["*"]"#, true)]
#[case::some_sources(r#"sources = ["git *"]"#, false)]
#[case::all_platforms(r#"platforms = ["linux/arm64", "linux/amd64"]"#, true)]
#[case::some_platforms(r#"platforms = ["linux/amd64"]"#, false)]
#[case::with_a_deny_rule("[[deny]]\nwho = [\"alice\"]\ntags = [\"dev\"]", false)]
#[case::with_a_deny_rule_for_others("[[deny]]\nwho = [\"bob\"]", true)]
fn everything_is_allowed_by_a_rule_without_conditions(#[case] rest: &str, #[case] all: bool) {
    let policy = format!("[[allow]]\nwho = [\"alice\"]\npackages = [\"git\", \"*\"]\n{rest}");
    let alice = Identity::user("alice");
    assert_eq!(parse(&policy).allows_everything(&alice), all);
    assert!(parse(&policy).allows_anything(&alice));
    assert!(!parse(&policy).allows_anything(&Identity::user("carol")));
}

#[test]
fn without_rules_nothing_is_allowed() {
    for policy in [
        "",
        "# empty",
        "[groups]\nplatform = [\"alice\"]",
        "allow = []",
    ] {
        let alice = Identity::user("alice");
        assert_eq!(decide(policy, &alice, "git"), Err(Denial::Registry));
        assert!(!parse(policy).allows_anything(&alice));
        assert!(!parse(policy).allows_everything(&Identity::anonymous()));
    }
}

#[test]
fn messages_for_clients() {
    let denials = [
        Denial::Scope("git".into()),
        Denial::Registry,
        package("telnet"),
        Denial::Source,
        Denial::Platform("linux/arm64".into()),
        Denial::Tag("dev".into()),
    ];
    for denial in denials {
        let message = denial.to_string();
        assert!(message.contains(". Fix: "), "{message}");
    }
    assert_eq!(
        package("telnet").to_string(),
        "you may not pull the package `telnet`. Fix: leave it out, or ask the operator of this \
         registry to allow it"
    );
}

#[rstest]
#[case::no_tags("", "", true)]
#[case::some_tag(r#"tags = ["v1"]"#, "", true)]
#[case::no_tag_at_all("tags = []", "", false)]
#[case::commits("tags = []\ncommits = true", "", true)]
#[case::one_tag_is_denied("", r#"tags = ["latest"]"#, true)]
#[case::patterns_are_denied("", r#"tags = ["l*", "v*"]"#, true)]
#[case::every_tag_is_denied("", r#"tags = ["*"]"#, false)]
fn a_name_is_decided_at_the_best_tag(
    #[case] allow: &str,
    #[case] deny: &str,
    #[case] expected: bool,
) {
    let who = "who = [\"alice\"]\npackages = [\"git\"]";
    let mut policy = format!("[[allow]]\n{who}\n{allow}\n");
    if !deny.is_empty() {
        policy += &format!("[[deny]]\n{who}\n{deny}\n");
    }
    let policy = parse(&policy);
    let decide = |name: &str| {
        let name = name.parse().expect("the name is valid");
        policy.decide_name(&Identity::user("alice"), &name, CHANNEL)
    };
    assert_eq!(decide("git").is_ok(), expected);
    decide("git/htop").expect_err("htop is not allowed");
}
