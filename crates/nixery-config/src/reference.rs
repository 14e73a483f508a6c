//! Generates the reference page of all settings, `docs/configuration.md`.

use crate::table::{Group, Level, SETTINGS, Setting};

/// What stands before the tables.
const HEAD: &str = include_str!("reference.md");

/// Returns the page.
#[must_use]
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    let heading = |setting: &Setting| setting.group.heading();
    for settings in SETTINGS.chunk_by(|one, next| heading(one) == heading(next)) {
        let heading = heading(settings[0]);
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
                last_columns(setting)
            );
        }
        if of(Level::Advanced).next().is_some() {
            page += "\nAdvanced:\n\n| Variable | Default | Meaning |\n|---|---|---|\n";
        }
        for setting in of(Level::Advanced) {
            page += &format!("| `{}` | {} |\n", setting.variable, last_columns(setting));
        }
        if heading == Group::GcPolicy.heading() {
            page += "\n`nixery gc` takes the same settings with shorter flags: `--max-unused` for `--gc-max-unused`.\n";
        }
    }
    page
}

/// Returns the columns of the default and the meaning.
fn last_columns(setting: &Setting) -> String {
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
