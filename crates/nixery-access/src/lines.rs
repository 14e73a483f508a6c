//! Files with one entry per line, which operators write.

use crate::{FileError, FileErrors};

/// Room for over 100,000 users.
const LONGEST_FILE_BYTES: usize = 16 << 20;

/// Further ones are found after these are fixed.
const MOST_PROBLEMS: usize = 100;

/// A user's name is part of log lines.
const LONGEST_NAME_BYTES: usize = 128;

/// Gives each line of `text` to `parse`, except for empty lines and comments, and collects the
/// problems that it returns.
///
/// # Errors
/// If `text` is too long, or a line has a control character or a problem.
pub(crate) fn for_each_line<'a>(
    text: &'a str,
    mut parse: impl FnMut(&'a str) -> Result<(), String>,
) -> Result<(), FileErrors> {
    let mut problems = Vec::new();
    if text.len() > LONGEST_FILE_BYTES {
        let message = format!("the file has over {} MiB", LONGEST_FILE_BYTES >> 20);
        problems.push(FileError { line: 1, message });
        return Err(FileErrors(problems));
    }
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parsed = if line.chars().any(char::is_control) {
            Err("the line has a control character. Fix: remove it".to_owned())
        } else {
            parse(line)
        };
        if let Err(message) = parsed {
            let line = index + 1;
            problems.push(FileError { line, message });
            if problems.len() == MOST_PROBLEMS {
                break;
            }
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(FileErrors(problems))
    }
}

/// Splits `NAME:SECRET`.
///
/// # Errors
/// If there is no colon, or the name cannot be the name of a user. The message has no part of the
/// line, as the line may be a secret.
pub(crate) fn split_name(line: &str) -> Result<(&str, &str), String> {
    let Some((name, secret)) = line.split_once(':') else {
        return Err("the line has no `:` after the name of a user".to_owned());
    };
    if name.is_empty() {
        return Err("the name of the user is empty".to_owned());
    }
    if !is_user_name(name) {
        let longest = LONGEST_NAME_BYTES;
        return Err(format!("the name of the user has over {longest} bytes"));
    }
    if name.ends_with(char::is_whitespace) {
        return Err(format!(
            "the user `{name}` has a space before the `:`. Fix: remove it"
        ));
    }
    if name == "*" || name == "anonymous" {
        return Err(format!(
            "a user cannot have the name `{name}`, because it has a meaning in policies. \
             Fix: choose another name"
        ));
    }
    Ok((name, secret))
}

/// Whether a text may be the name of a user: neither long nor with control characters.
pub(crate) fn is_user_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME_BYTES && !name.chars().any(char::is_control)
}
