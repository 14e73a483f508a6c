//! Parses policy files, and collects every problem with its line.

use std::num::NonZeroU32;
use std::ops::Range;

use nixery_core::Architecture;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Policy;
use super::pattern::{Glob, PackagePattern};
use super::rules::{AllowRule, Builds, Conditions, DenyRule, Who};
use crate::{FileError, FileErrors};

/// Largest policy file.
const MAX_BYTES: usize = 1_000_000;
/// Greatest number of rules, names and patterns: each request is compared with all of them.
const MAX_ITEMS: usize = 10_000;
/// Greatest number of problems that are reported.
const MAX_ERRORS: usize = 100;
/// Greatest number of characters of a text of the file in a message.
const MAX_QUOTED: usize = 60;
/// Least similarity of a key that is suggested.
const MIN_SIMILARITY: f64 = 0.6;

const SECTIONS: &[&str] = &["groups", "allow", "deny"];
const DENY_KEYS: &[&str] = &["who", "packages", "sources", "tags", "platforms"];
const ALLOW_KEYS: &[&str] = &[
    "who",
    "packages",
    "sources",
    "tags",
    "commits",
    "platforms",
    "build",
    "builds-per-hour",
];
/// The beginnings of package sources, as they are displayed.
const SOURCE_KINDS: [&str; 3] = ["nixpkgs ", "git ", "path "];

type Value<'t> = Spanned<DeValue<'t>>;

/// Parses a policy file.
pub(super) fn parse(text: &str) -> Result<Policy, FileErrors> {
    if text.len() > MAX_BYTES {
        let message = format!(
            "the policy has {} bytes, more than {MAX_BYTES}. Fix: use patterns of packages, and groups that tokens bring",
            text.len()
        );
        return Err(FileErrors(vec![FileError { line: 1, message }]));
    }
    let (document, syntax) = DeTable::parse_recoverable(text);
    let mut reader = Reader::default();
    let mut policy = Policy::default();
    for error in &syntax {
        let at = error.span().unwrap_or_default();
        let message = error.message();
        reader.report(
            at,
            format!("this is not TOML: {message}. Fix: correct it; texts stand in quotes"),
        );
    }
    // Values that follow an error of syntax are a guess of the parser.
    if syntax.is_empty() {
        reader.read_document(document.get_ref(), &mut policy);
    }
    if reader.errors.is_empty() {
        Ok(policy)
    } else {
        Err(reader.into_errors(text))
    }
}

/// The values of a rule.
#[derive(Default)]
struct RuleKeys {
    who: Option<Who>,
    conditions: Conditions,
    commits: Option<(Range<usize>, bool)>,
    build: Option<bool>,
    builds_per_hour: Option<(Range<usize>, NonZeroU32)>,
}

/// Reads values and collects problems with their offsets.
#[derive(Default)]
struct Reader {
    errors: Vec<(usize, String)>,
    items: usize,
}

impl Reader {
    fn report(&mut self, at: Range<usize>, message: String) {
        self.errors.push((at.start, message));
    }

    /// Counts a rule, a name or a pattern.
    fn count(&mut self, at: Range<usize>) {
        self.items += 1;
        if self.items == MAX_ITEMS + 1 {
            self.report(
                at,
                format!(
                    "the policy has more than {MAX_ITEMS} rules, names and patterns. Fix: use patterns of packages, and groups that tokens bring"
                ),
            );
        }
    }

    fn into_errors(mut self, text: &str) -> FileErrors {
        self.errors.sort();
        let more = self.errors.len().saturating_sub(MAX_ERRORS);
        if more > 0 {
            self.errors.truncate(MAX_ERRORS);
            if let Some((_, message)) = self.errors.last_mut() {
                message.push_str(&format!(" (and {more} more problems after this one)"));
            }
        }
        let last_line = text.lines().count().max(1);
        let mut line = 1;
        let mut counted = 0;
        let errors = self.errors.into_iter().map(|(offset, message)| {
            let offset = offset.min(text.len());
            let newlines = text.as_bytes()[counted..offset].iter();
            line += newlines.filter(|byte| **byte == b'\n').count();
            counted = offset;
            FileError {
                line: line.min(last_line),
                message,
            }
        });
        FileErrors(errors.collect())
    }

    fn read_document(&mut self, document: &DeTable<'_>, policy: &mut Policy) {
        for (key, value) in document {
            match key.get_ref().as_ref() {
                "groups" => self.read_groups(value, policy),
                "allow" => {
                    for (at, table) in self.tables(value, "allow") {
                        policy.allow.extend(self.allow_rule(at, table));
                    }
                }
                "deny" => {
                    for (at, table) in self.tables(value, "deny") {
                        policy.deny.extend(self.deny_rule(at, table));
                    }
                }
                unknown => self.report_unknown(key.span(), unknown, SECTIONS),
            }
        }
    }

    fn read_groups(&mut self, value: &Value<'_>, policy: &mut Policy) {
        let Some(groups) = value.get_ref().as_table() else {
            let found = value.get_ref().type_str();
            self.report(
                value.span(),
                format!("`groups` is not a table, but of the type {found}. Fix: write `[groups]`"),
            );
            return;
        };
        for (group, members) in groups {
            self.count(group.span());
            if group.get_ref().is_empty() || group.get_ref().contains(char::is_control) {
                self.report(
                    group.span(),
                    "a group has an empty name or control characters in it. Fix: rename it".into(),
                );
            }
            for (at, member) in self.texts(members, group.get_ref()) {
                if member.starts_with("group:") || matches!(member, "*" | "anonymous") {
                    let message = format!(
                        "`{}` is not the name of a user. Fix: list users here, and this in `who` of rules",
                        quoted(member)
                    );
                    self.report(at, message);
                } else if self.is_user(at, member) {
                    let groups = policy.groups.entry(member.to_owned()).or_default();
                    groups.insert(group.get_ref().to_string());
                }
            }
        }
    }

    fn allow_rule(&mut self, at: Range<usize>, table: &DeTable<'_>) -> Option<AllowRule> {
        let keys = self.rule_keys(at.clone(), table, ALLOW_KEYS);
        if !table.contains_key("packages") {
            let message = "the rule has no `packages`. Fix: add `packages = [\"*\"]` for all packages, or list some";
            self.report(at, message.into());
        }
        let every_tag = match &keys.conditions.tags {
            None => true,
            Some(tags) => tags.iter().any(Glob::matches_everything),
        };
        let commits = match keys.commits {
            None => every_tag,
            Some((at, commits)) => {
                if !table.contains_key("tags") {
                    let message = "`commits` has no effect without `tags`, as such a rule allows every tag and commit. Fix: add `tags`, or remove `commits`";
                    self.report(at, message.into());
                }
                commits
            }
        };
        let builds = match (keys.build.unwrap_or(true), keys.builds_per_hour) {
            (true, None) => Builds::Unlimited,
            (true, Some((_, limit))) => Builds::PerHour(limit),
            (false, limit) => {
                if let Some((at, _)) = limit {
                    let message = "`builds-per-hour` has no effect with `build = false`. Fix: remove one of them";
                    self.report(at, message.into());
                }
                Builds::Forbidden
            }
        };
        Some(AllowRule {
            who: keys.who?,
            conditions: keys.conditions,
            commits,
            builds,
        })
    }

    fn deny_rule(&mut self, at: Range<usize>, table: &DeTable<'_>) -> Option<DenyRule> {
        let keys = self.rule_keys(at, table, DENY_KEYS);
        Some(DenyRule {
            who: keys.who?,
            conditions: keys.conditions,
        })
    }

    /// Reads the keys of a rule, of which some are known to this kind of rule.
    fn rule_keys(&mut self, at: Range<usize>, table: &DeTable<'_>, known: &[&str]) -> RuleKeys {
        self.count(at.clone());
        let mut keys = RuleKeys::default();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                self.report_unknown(key.span(), name, known);
                continue;
            }
            match name {
                "who" => keys.who = Some(self.who(value)),
                "packages" => keys.conditions.packages = Some(self.packages(value)),
                "sources" => keys.conditions.sources = Some(self.sources(value)),
                "tags" => keys.conditions.tags = Some(self.tags(value)),
                "platforms" => keys.conditions.platforms = Some(self.platforms(value)),
                "commits" => {
                    let commits = self.boolean(value, name);
                    keys.commits = commits.map(|commits| (key.span(), commits));
                }
                "build" => keys.build = self.boolean(value, name),
                _ => {
                    let limit = self.builds_per_hour(value);
                    keys.builds_per_hour = limit.map(|limit| (key.span(), limit));
                }
            }
        }
        if !table.contains_key("who") {
            let message = "the rule has no `who`. Fix: add `who = [\"*\"]` for all users who have logged in, or list some";
            self.report(at, message.into());
        }
        keys
    }

    fn who(&mut self, value: &Value<'_>) -> Who {
        let mut who = Who::default();
        for (at, text) in self.texts(value, "who") {
            match text {
                "*" => who.all_users = true,
                "anonymous" => who.anonymous = true,
                _ => match text.strip_prefix("group:") {
                    Some("") => self.report(
                        at,
                        "`group:` has no name of a group. Fix: write `group:NAME`".into(),
                    ),
                    Some(group) => {
                        who.groups.insert(group.to_owned());
                    }
                    None => {
                        if self.is_user(at, text) {
                            who.users.insert(text.to_owned());
                        }
                    }
                },
            }
        }
        who
    }

    /// Whether a text may be the name of a user; if not, reports it.
    fn is_user(&mut self, at: Range<usize>, text: &str) -> bool {
        let problem = if text.is_empty() {
            "the name of a user is empty. Fix: remove it".to_owned()
        } else if text.contains('*') {
            format!(
                "`{}` is a pattern, but users are compared by their whole name. Fix: list the users, or use a group",
                quoted(text)
            )
        } else if text.contains(char::is_control) || text.trim() != text {
            format!(
                "`{}` is not the name of a user. Fix: remove control characters, and spaces around the name",
                quoted(text)
            )
        } else {
            return true;
        };
        self.report(at, problem);
        false
    }

    fn packages(&mut self, value: &Value<'_>) -> Vec<PackagePattern> {
        let legal = |c: char| c.is_ascii_alphanumeric() || "._-*?".contains(c);
        let mut patterns = Vec::new();
        for (at, text) in self.texts(value, "packages") {
            if text.split('.').any(str::is_empty) || !text.chars().all(legal) {
                let message = format!(
                    "`{}` matches no package. Fix: write the name of one package, with `*` for any text and `?` for one character",
                    quoted(text)
                );
                self.report(at, message);
            } else {
                patterns.push(PackagePattern::new(text));
            }
        }
        patterns
    }

    fn tags(&mut self, value: &Value<'_>) -> Vec<Glob> {
        let legal = |c: char| c.is_ascii_alphanumeric() || "._-*?".contains(c);
        let mut patterns = Vec::new();
        for (at, text) in self.texts(value, "tags") {
            if text.is_empty() || !text.chars().all(legal) {
                let message = format!(
                    "`{}` matches no tag. Fix: use letters, digits, `.`, `_` and `-`, with `*` for any text and `?` for one character",
                    quoted(text)
                );
                self.report(at, message);
            } else {
                patterns.push(Glob::new(text));
            }
        }
        patterns
    }

    fn sources(&mut self, value: &Value<'_>) -> Vec<Glob> {
        let mut patterns = Vec::new();
        for (at, text) in self.texts(value, "sources") {
            let start = text.split(['*', '?']).next().unwrap_or_default();
            let is_whole = start.len() == text.len();
            let may_match = SOURCE_KINDS
                .iter()
                .any(|kind| start.starts_with(kind) || (!is_whole && kind.starts_with(start)));
            if may_match && !text.contains(char::is_control) {
                patterns.push(Glob::new(text));
            } else {
                let message = format!(
                    "`{}` matches no package source. Fix: begin it with `nixpkgs `, `git ` or `path `, as in `git https://example.org/*`",
                    quoted(text)
                );
                self.report(at, message);
            }
        }
        patterns
    }

    fn platforms(&mut self, value: &Value<'_>) -> Vec<Architecture> {
        let mut platforms = Vec::new();
        for (at, text) in self.texts(value, "platforms") {
            let architecture = text.strip_prefix("linux/");
            match architecture.and_then(|name| name.parse().ok()) {
                Some(platform) => platforms.push(platform),
                None => {
                    let known = Architecture::ALL.map(|known| format!("`linux/{known}`"));
                    let message = format!(
                        "there are no images for the platform `{}`. Fix: use {}, or leave out `platforms` for all",
                        quoted(text),
                        known.join(" or ")
                    );
                    self.report(at, message);
                }
            }
        }
        platforms
    }

    fn boolean(&mut self, value: &Value<'_>, key: &str) -> Option<bool> {
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            let message = format!(
                "`{key}` is neither true nor false. Fix: write `{key} = true`, without quotes"
            );
            self.report(value.span(), message);
        }
        boolean
    }

    fn builds_per_hour(&mut self, value: &Value<'_>) -> Option<NonZeroU32> {
        let integer = value.get_ref().as_integer();
        let limit = integer.and_then(|integer| {
            let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok()?;
            NonZeroU32::new(number)
        });
        if limit.is_none() {
            let message = format!(
                "`builds-per-hour` is not a number from 1 to {}. Fix: write `build = false` to allow no builds, or leave it out for no limit",
                u32::MAX
            );
            self.report(value.span(), message);
        }
        limit
    }

    /// Returns the tables of an array with their offsets.
    fn tables<'v, 't>(
        &mut self,
        value: &'v Value<'t>,
        key: &str,
    ) -> Vec<(Range<usize>, &'v DeTable<'t>)> {
        let mut tables = Vec::new();
        let mut report = |at, found| {
            let message = format!(
                "`{key}` is not a list of tables, but of the type {found}. Fix: begin each rule with `[[{key}]]`"
            );
            self.report(at, message);
        };
        let Some(items) = value.get_ref().as_array() else {
            report(value.span(), value.get_ref().type_str());
            return tables;
        };
        for item in items {
            match item.get_ref().as_table() {
                Some(table) => tables.push((item.span(), table)),
                None => report(item.span(), item.get_ref().type_str()),
            }
        }
        tables
    }

    /// Returns the texts of a list with their offsets.
    fn texts<'v>(&mut self, value: &'v Value<'_>, key: &str) -> Vec<(Range<usize>, &'v str)> {
        let mut texts = Vec::new();
        let key = quoted(key);
        let Some(items) = value.get_ref().as_array() else {
            let message = format!("`{key}` is not a list. Fix: write `{key} = [\"…\"]`");
            self.report(value.span(), message);
            return texts;
        };
        for item in items {
            self.count(item.span());
            match item.get_ref().as_str() {
                Some(text) => texts.push((item.span(), text)),
                None => {
                    let message =
                        format!("an item of `{key}` is not a text. Fix: put it in quotes");
                    self.report(item.span(), message);
                }
            }
        }
        texts
    }

    fn report_unknown(&mut self, at: Range<usize>, unknown: &str, known: &[&str]) {
        let fix = if ALLOW_KEYS.contains(&unknown) && known == DENY_KEYS {
            "remove it, as it has no meaning in a deny rule".to_owned()
        } else if let Some(nearest) = nearest(unknown, known) {
            format!("rename it to `{nearest}`")
        } else {
            format!("use one of `{}`", known.join("`, `"))
        };
        let message = format!("`{}` is not a key here. Fix: {fix}", quoted(unknown));
        self.report(at, message);
    }
}

/// Returns the known key that is the most similar.
fn nearest<'k>(unknown: &str, known: &[&'k str]) -> Option<&'k str> {
    // The comparison takes the product of both lengths.
    if unknown.len() > MAX_QUOTED {
        return None;
    }
    known
        .iter()
        .map(|known| {
            let similarity = strsim::normalized_damerau_levenshtein(unknown, known);
            (similarity, *known)
        })
        .filter(|(similarity, _)| *similarity >= MIN_SIMILARITY)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known)
}

/// Returns a text of the file as it is shown in messages.
fn quoted(text: &str) -> String {
    let mut chars = text.chars();
    let start: String = chars.by_ref().take(MAX_QUOTED).collect();
    let rest = if chars.next().is_some() { "…" } else { "" };
    format!("{}{rest}", start.escape_debug())
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
