//! The problems of policy files.

use rstest::rstest;

use super::*;

fn errors(text: &str) -> FileErrors {
    parse(text).expect_err("the policy has problems")
}

/// A rule without a problem, of four lines.
const RULE: &str = "[[allow]]\nwho = [\"ci\"]\npackages = [\"git\"]\n\n";

#[rstest]
#[case::no_value("who", "not TOML")]
#[case::no_quotes("tags = [main]", "texts stand in quotes")]
#[case::twice("who = []", "not TOML: duplicate key")]
#[case::unknown(
    "colour = 1",
    "`colour` is not a key here. Fix: use one of `who`, `packages`"
)]
#[case::similar("platform = []", "rename it to `platforms`")]
#[case::underscores("builds_per_hour = 1", "rename it to `builds-per-hour`")]
#[case::no_list("tags = \"main\"", "`tags` is not a list. Fix: write `tags = [\"…\"]`")]
#[case::no_text("tags = [1]", "an item of `tags` is not a text")]
#[case::branch_with_a_slash("tags = [\"feature/x\"]", "`feature/x` matches no tag")]
#[case::empty_tag("tags = [\"\"]", "`` matches no tag")]
#[case::platform(
    "platforms = [\"linux/riscv64\"]",
    "no images for the platform `linux/riscv64`"
)]
#[case::architecture("platforms = [\"arm64\"]", "use `linux/amd64` or `linux/arm64`")]
#[case::channel(
    "sources = [\"nixos-26.05\"]",
    "`nixos-26.05` matches no package source"
)]
#[case::url("sources = [\"https://example.org/*\"]", "begin it with `nixpkgs `")]
#[case::kind_alone("sources = [\"git\"]", "`git` matches no package source")]
#[case::not_boolean("build = \"no\"", "`build` is neither true nor false")]
#[case::no_builds("builds-per-hour = 0", "write `build = false`")]
#[case::negative("builds-per-hour = -1", "not a number from 1 to 4294967295")]
#[case::too_many_builds("builds-per-hour = 4294967296", "not a number from 1")]
#[case::fraction("builds-per-hour = 1.5", "not a number from 1")]
#[case::limit_of_nothing("build = false\nbuilds-per-hour = 1", "no effect with `build = false`")]
#[case::commits_alone("commits = true", "`commits` has no effect without `tags`")]
fn problems_of_a_rule(#[case] line: &str, #[case] message: &str) {
    let text = format!("{RULE}[[allow]]\nwho = [\"ci\"]\npackages = [\"git\"]\n{line}\n");
    let errors = errors(&text);
    assert!(errors.to_string().contains(message), "{errors}");
    let last = text.lines().count();
    assert!(errors.0.iter().all(|error| error.line == last), "{errors}");
}

#[rstest]
#[case::pattern_of_users("who = [\"ci-*\"]", "`ci-*` is a pattern")]
#[case::empty_user("who = [\"\"]", "the name of a user is empty")]
#[case::space("who = [\" ci\"]", "` ci` is not the name of a user")]
#[case::control_character("who = [\"a\\u0007\"]", "`a\\u{7}` is not the name of a user")]
#[case::group_without_a_name("who = [\"group:\"]", "write `group:NAME`")]
#[case::two_packages("packages = [\"git/htop\"]", "`git/htop` matches no package")]
#[case::empty_package("packages = [\"\"]", "`` matches no package")]
#[case::empty_part("packages = [\"python3packages.\"]", "matches no package")]
#[case::builds("build = true", "`build` is not a key here. Fix: remove it")]
fn problems_of_a_deny_rule(#[case] line: &str, #[case] message: &str) {
    let mut text = format!("{RULE}[[deny]]\n{line}\n");
    if !line.starts_with("who") {
        text = text.replace("[[deny]]", "[[deny]]\nwho = [\"*\"]");
    }
    let errors = errors(&text);
    assert!(errors.to_string().contains(message), "{errors}");
    assert_eq!(errors.0.len(), 1, "{errors}");
    assert_eq!(errors.0[0].line, text.lines().count(), "{errors}");
}

#[rstest]
#[case::unknown_section("[alow]\n", "`alow` is not a key here. Fix: rename it to `allow`")]
#[case::one_table("[allow]\nwho = []\n", "begin each rule with `[[allow]]`")]
#[case::no_tables(
    "deny = [1]\n",
    "`deny` is not a list of tables, but of the type integer"
)]
#[case::groups("groups = []\n", "`groups` is not a table")]
#[case::nested_group("groups.a = [\"group:b\"]\n", "`group:b` is not the name of a user")]
#[case::everybody("groups.a = [\"*\"]\n", "`*` is not the name of a user")]
#[case::no_group_list("groups.a = 1\n", "`a` is not a list")]
#[case::group_name("groups.\"\" = []\n", "a group has an empty name")]
#[case::no_who("[[deny]]\n", "the rule has no `who`")]
fn problems_of_a_file(#[case] text: &str, #[case] message: &str) {
    let errors = errors(text);
    assert!(errors.to_string().contains(message), "{errors}");
    assert_eq!(errors.0.len(), 1, "{errors}");
    assert_eq!(errors.0[0].line, 1, "{errors}");
}

#[test]
fn every_problem_is_reported_with_its_line() {
    let text = r#"
[groups]
platform = ["alice", "*"]

[[allow]]
who = ["group:platform"]
packages = [
    "git",
    "git/htop",
]
tag = ["main"]

[[allow]]
who = ["ci"]
build = false
builds-per-hour = 3

[[deny]]
commits = true
"#;
    let errors = errors(text);
    let lines: Vec<_> = errors.0.iter().map(|error| error.line).collect();
    assert_eq!(lines, [3, 9, 11, 13, 16, 18, 19], "{errors}");
    assert!(
        errors
            .to_string()
            .contains("line 13: the rule has no `packages`")
    );
}

#[test]
fn every_problem_of_syntax_is_reported() {
    let errors = errors("[[allow]]\nwho = [ci]\n\npackages = [git]\n");
    let lines: Vec<_> = errors.0.iter().map(|error| error.line).collect();
    assert_eq!(lines, [2, 4], "{errors}");
}

#[test]
fn what_has_no_effect_yet_is_accepted() {
    let text = r#"
        [groups]
        unused = ["alice"]
        empty = []

        [[allow]]
        who = ["group:of-tokens"]
        packages = []
        tags = []
        commits = true

        [[deny]]
        who = []
        sources = ["n*", "*", "?it *", "path /srv/packages"]
    "#;
    parse(text).expect("it is valid");
}

#[test]
fn large_files_are_refused() {
    let comment = format!("#{}", "x".repeat(MAX_BYTES));
    assert_eq!(errors(&comment).0[0].line, 1);

    let names = |count: usize| {
        let names = "\"a\",\n".repeat(count);
        format!("[[deny]]\nwho = [\n{names}]\n")
    };
    // The rule is an item as well.
    parse(&names(MAX_ITEMS - 1)).expect("it is as large as it may be");
    let error = &errors(&names(MAX_ITEMS)).0[0];
    assert!(error.message.contains("more than 10000 rules"), "{error:?}");
    assert_eq!(error.line, MAX_ITEMS + 2);
}

#[test]
fn messages_are_few_and_short() {
    let unknown = format!("\"{}\" = 1\n", "x".repeat(10_000));
    let errors_of_one = errors(&unknown);
    assert!(errors_of_one.to_string().len() < 200, "{errors_of_one}");

    let many: String = (0..1000).map(|number| format!("k{number} = 1\n")).collect();
    let errors = errors(&many);
    assert_eq!(errors.0.len(), MAX_ERRORS);
    assert!(
        errors
            .to_string()
            .ends_with("(and 900 more problems after this one)")
    );
}
