//! Password files in the format of Apache's `htpasswd`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use bcrypt::HashParts;

use crate::FileErrors;
use crate::lines::{for_each_line, split_name};

/// A check at cost 14 takes about a second, and each further step doubles that.
const GREATEST_COST: u32 = 14;

/// The least that bcrypt has.
const LEAST_COST: u32 = 4;

/// bcrypt ignores what follows.
const LONGEST_PASSWORD_BYTES: usize = 72;

/// Users with hashes of their passwords.
///
/// Each line of the file is `USER:HASH` as `htpasswd -B` writes it, with a hash by bcrypt. Empty
/// lines and lines that start with `#` are skipped.
#[derive(Clone)]
pub struct PasswordFile {
    hashes: HashMap<String, String>,
    /// What the password of an unknown user is compared with, so that it takes as long.
    dummy: String,
}

impl PasswordFile {
    /// Parses the text of a password file.
    ///
    /// # Errors
    /// If lines are not `USER:HASH`, hashes are by another function than bcrypt or take too long
    /// to check, or a user has two lines. All problems are returned.
    pub fn parse(text: &str) -> Result<Self, FileErrors> {
        let mut hashes = HashMap::new();
        let mut greatest_cost = LEAST_COST;
        for_each_line(text, |line| {
            let (user, hash) = split_name(line)?;
            let cost = cost_of(user, hash)?;
            match hashes.entry(user.to_owned()) {
                Entry::Occupied(_) => {
                    return Err(format!(
                        "the user `{user}` has another line above. Fix: remove one of them"
                    ));
                }
                Entry::Vacant(entry) => entry.insert(hash.to_owned()),
            };
            greatest_cost = greatest_cost.max(cost);
            Ok(())
        })?;
        let dummy = format!(
            "$2b${greatest_cost:02}${}{}",
            ".".repeat(22),
            ".".repeat(31)
        );
        Ok(Self { hashes, dummy })
    }

    /// Whether a password is the one of a user. It takes as long for an unknown user as for the
    /// user with the most costly hash.
    ///
    /// It computes a hash by bcrypt, which takes up to a second of a processor. Passwords over 72
    /// bytes are refused, because bcrypt ignores what follows; those with a NUL byte are refused,
    /// because bcrypt ends there.
    #[must_use]
    pub fn verify(&self, user: &str, password: impl AsRef<[u8]>) -> bool {
        self.verify_with(user, password.as_ref(), |password, hash| {
            bcrypt::verify(password, hash).unwrap_or(false)
        })
    }

    fn verify_with(
        &self,
        user: &str,
        password: &[u8],
        matches: impl FnOnce(&[u8], &str) -> bool,
    ) -> bool {
        if password.len() > LONGEST_PASSWORD_BYTES || password.contains(&0) {
            return false;
        }
        let hash = self.hashes.get(user);
        let is_match = matches(password, hash.unwrap_or(&self.dummy));
        is_match && hash.is_some()
    }

    /// Returns the number of users.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there are no users.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }
}

impl fmt::Debug for PasswordFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordFile")
            .field("users", &self.len())
            .finish_non_exhaustive()
    }
}

/// Returns the cost of a user's hash.
///
/// # Errors
/// If it is not a hash by bcrypt, or its cost is too great. The message has no part of the hash.
fn cost_of(user: &str, hash: &str) -> Result<u32, String> {
    let is_bcrypt = ["$2a$", "$2b$", "$2y$"]
        .iter()
        .any(|prefix| hash.starts_with(prefix));
    if !is_bcrypt {
        let kind = match hash {
            "" => "is empty",
            _ if hash.starts_with("$apr1$") || hash.starts_with("$1$") => "is hashed by MD5",
            _ if hash.starts_with("{SHA}") => "is hashed by SHA-1 without a salt",
            _ if hash.starts_with('$') => "is hashed by another function than bcrypt",
            _ => "is not hashed by bcrypt",
        };
        return Err(format!(
            "the password of the user `{user}` {kind}. Fix: hash it with `htpasswd -B`"
        ));
    }
    let cost = match hash.parse::<HashParts>() {
        Ok(parts) if parts.get_cost() >= LEAST_COST => parts.get_cost(),
        _ => {
            return Err(format!(
                "the hash of the user `{user}` is incomplete or damaged. \
                 Fix: write it again with `htpasswd -B`"
            ));
        }
    };
    if cost > GREATEST_COST {
        return Err(format!(
            "the hash of the user `{user}` has cost {cost}, so that each login takes seconds. \
             Fix: hash it with a cost of at most {GREATEST_COST}, `htpasswd -B -C 12`"
        ));
    }
    Ok(cost)
}
