//! Generates the reference page of all settings, `docs/configuration.md`.

use crate::table::{Group, Level, SETTINGS, Setting};

const HEAD: &str = "\
# Configuration

Every setting is an environment variable and a flag of `nixery-server` and `nixery serve`. Other
commands of `nixery` take the groups that concern them: `nixery build` the package source, the blob
store, Nix and layers; `nixery gc` and `nixery verify` the blob store. A flag wins over its variable.
An empty variable counts as unset, and space around a value is ignored.

Times are written as `90s`, `30m`, `6h` or `30d`; a number alone means seconds. Sizes are written as
`500M`, `100G` or `100GiB`; a number alone means bytes.

`nixery-server --check-config` checks all settings, prints warnings and the settings in effect, and
starts nothing. Variables that begin with `NIXERY_` and are no settings are reported at start.

Advanced settings are not in the help. Their flags are the names of their variables in small letters,
with dashes and without `NIXERY_` or `NIX_`: `NIXERY_SPOOL_DIR` is `--spool-dir`.

<!-- Generated from crates/nixery-config/src/table.rs by scripts/gen-docs. -->
";

/// Returns the page.
#[must_use]
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut groups: Vec<(&str, Vec<&Setting>)> = Vec::new();
    for setting in SETTINGS {
        let heading = setting.group.heading();
        match groups.last_mut() {
            Some((last, settings)) if *last == heading => settings.push(setting),
            _ => groups.push((heading, vec![setting])),
        }
    }
    for (heading, settings) in groups {
        page += &format!("\n## {heading}\n");
        let of = |level| {
            settings
                .iter()
                .filter(move |setting| setting.level == level)
        };
        page += "\n| Variable | Flag | Default | Meaning |\n|---|---|---|---|\n";
        for setting in of(Level::Shown) {
            let (variable, flag) = (setting.variable, setting.flag);
            page += &format!(
                "| `{variable}` | `--{flag}` | {} |\n",
                default_and_meaning(setting)
            );
        }
        if of(Level::Advanced).next().is_some() {
            page += "\nAdvanced:\n\n| Variable | Default | Meaning |\n|---|---|---|\n";
        }
        for setting in of(Level::Advanced) {
            page += &format!(
                "| `{}` | {} |\n",
                setting.variable,
                default_and_meaning(setting)
            );
        }
        if settings
            .iter()
            .any(|setting| setting.group == Group::GcPolicy)
        {
            page += "\n`nixery gc` takes the same settings with shorter flags: `--max-unused` for `--gc-max-unused`.\n";
        }
    }
    page
}

/// Returns the columns of the default and the meaning.
fn default_and_meaning(setting: &Setting) -> String {
    let default = match setting.default {
        "" => "–".to_owned(),
        // A word or a number is a literal value.
        default if !default.contains(' ') && !default.contains('`') => format!("`{default}`"),
        default => default.to_owned(),
    };
    let secret = if setting.secret {
        "; its value is not printed"
    } else {
        ""
    };
    format!("{default} | {}{secret}", setting.help).replace('\n', " ")
}
