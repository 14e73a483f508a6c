//! Password files in the format of Apache's `htpasswd`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use bcrypt::HashParts;

use crate::FileErrors;
use crate::lines::{for_each_line, split_name};

/// A check at cost 14 takes about a second, and each further step doubles that.
const GREATEST_COST: u32 = 14;

/// bcrypt has no lower costs.
const LEAST_COST: u32 = 4;

/// bcrypt ignores the bytes after these.
const LONGEST_PASSWORD_BYTES: usize = 72;

/// Users with hashes of their passwords.
///
/// Each line of the file is `USER:HASH` as `htpasswd -B` writes it, with a hash by bcrypt. Empty
/// lines and lines that start with `#` are skipped.
#[derive(Clone)]
pub struct PasswordFile {
    hashes: HashMap<String, String>,
    /// The hash for unknown users, so that they take as long as known ones.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    /// `U*U`, of the test vectors of Openwall's `crypt_blowfish`.
    const HASH: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    fn hash(password: &[u8], cost: u32) -> String {
        let parts = bcrypt::hash_with_salt(password, cost, [7; 16]).expect("the cost is valid");
        parts.format_for_version(bcrypt::Version::TwoY)
    }

    fn file(lines: &[String]) -> PasswordFile {
        PasswordFile::parse(&lines.join("\n")).expect("the file is valid")
    }

    #[rstest]
    #[case(
        "$2a$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK",
        b"U*U*"
    )]
    #[case(
        "$2b$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK",
        b"U*U*"
    )]
    #[case(
        "$2y$05$/OK.fbVrR/bpIqNJ5ianF.CE5elHaaO4EbggVDjb8P19RukzXSM3e",
        b"\xff\xff\xa3"
    )]
    fn passwords_of_other_implementations_match(#[case] hash: &str, #[case] password: &[u8]) {
        let file = file(&[format!("alice:{hash}")]);
        assert!(file.verify("alice", password));
        assert!(!file.verify("alice", [password, b"x"].concat()));
        assert!(!file.verify("alice", ""));
    }

    #[test]
    fn each_user_has_a_password() {
        let file = file(&[
            "# staff".to_owned(),
            String::new(),
            format!("alice:{}\r", hash(b"secret of alice", 4)),
            format!("  bob@example.org:{}  ", hash("pässword: 2".as_bytes(), 4)),
        ]);
        assert_eq!(file.len(), 2);
        assert!(file.verify("alice", "secret of alice"));
        assert!(file.verify("bob@example.org", "pässword: 2"));
        assert!(!file.verify("bob@example.org", "secret of alice"));
        assert!(!file.verify("Alice", "secret of alice"));
        assert!(!file.verify("", "secret of alice"));
    }

    #[test]
    fn an_empty_file_has_no_users() {
        let file = file(&["# nobody yet".to_owned()]);
        assert!(file.is_empty());
        assert!(!file.verify("alice", "secret"));
    }

    #[test]
    fn a_password_that_bcrypt_would_cut_is_refused() {
        let longest = [b'p'; 72];
        let file = file(&[format!("alice:{}", hash(&longest, 4))]);
        assert!(file.verify("alice", longest));
        assert!(bcrypt::verify([b'p'; 73], &hash(&longest, 4)).expect("it is a hash"));
        assert!(!file.verify("alice", [b'p'; 73]));
        assert!(!file.verify("alice", [b'p'; 10_000]));
    }

    #[test]
    fn a_password_with_a_nul_byte_is_refused() {
        // bcrypt repeats the password with a NUL after it, so these are the same for it.
        let file = file(&[format!("alice:{}", hash(b"ab", 4))]);
        assert!(bcrypt::verify(b"ab\0ab", &hash(b"ab", 4)).expect("it is a hash"));
        assert!(!file.verify("alice", b"ab\0ab"));
        assert!(!file.verify("alice", b"ab\0"));
    }

    /// Returns the costs of the hashes that a login computes, and its result if all match.
    fn costs(file: &PasswordFile, user: &str, password: &[u8]) -> (Vec<u32>, bool) {
        let mut costs = Vec::new();
        let accepted = file.verify_with(user, password, |_, hash| {
            costs.push(hash.parse::<HashParts>().expect("it is a hash").get_cost());
            true
        });
        (costs, accepted)
    }

    #[test]
    fn an_unknown_user_takes_as_long_as_the_most_costly_one() {
        let file = file(&[
            format!("alice:{}", hash(b"a", 4)),
            format!("bob:{}", hash(b"b", 6)),
            format!("carol:{}", hash(b"c", 5)),
        ]);
        assert_eq!(costs(&file, "bob", b"x"), (vec![6], true));
        assert_eq!(costs(&file, "mallory", b"x"), (vec![6], false));
        assert_eq!(costs(&file, "", b""), (vec![6], false));
        for user in ["bob", "mallory"] {
            assert_eq!(costs(&file, user, &[b'x'; 73]), (vec![], false), "{user}");
        }
    }

    #[test]
    fn the_hash_for_unknown_users_can_be_computed() {
        let file = file(&[]);
        assert!(!bcrypt::verify("x", &file.dummy).expect("it is a hash"));
    }

    #[rstest]
    #[case::no_colon("alice", "no `:`")]
    #[case::no_name(":$2y$05$", "empty")]
    #[case::no_hash("alice:", "`alice` is empty. Fix: hash it with `htpasswd -B`")]
    #[case::apr1("alice:$apr1$r31$HqJZimcKQFAMYayBlzkrA/", "MD5")]
    #[case::sha("alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "SHA-1")]
    #[case::sha512("alice:$6$salt$hash", "another function")]
    #[case::crypt("alice:rqXexS6ZhobKA", "not hashed by bcrypt")]
    #[case::plain("alice:hunter2", "not hashed by bcrypt")]
    #[case::broken_2x(
        "alice:$2x$05$/OK.fbVrR/bpIqNJ5ianF.CE5elHaaO4EbggVDjb8P19RukzXSM3e",
        "another"
    )]
    #[case::cut(
        "alice:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOe",
        "damaged"
    )]
    #[case::unicode(
        "alice:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOé",
        "damaged"
    )]
    #[case::extra(
        "alice:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW:x",
        "damaged"
    )]
    #[case::cost_3(
        "alice:$2a$03$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "damaged"
    )]
    #[case::cost_15(
        "alice:$2a$15$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "seconds"
    )]
    #[case::control("al\u{7}ice:x", "control character")]
    #[case::space_before_colon("alice :x", "a space before the `:`")]
    #[case::reserved("anonymous:x", "a meaning in policies")]
    #[case::everybody("*:x", "a meaning in policies")]
    fn a_line_of_another_form_is_refused(#[case] line: &str, #[case] expected: &str) {
        let text = format!("# staff\nbob:{HASH}\n{line}\n");
        let FileErrors(errors) = PasswordFile::parse(&text).expect_err("the line is wrong");
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!(errors[0].line, 3);
        assert!(errors[0].message.contains(expected), "{errors:?}");
        let secret = line.split_once(':').map_or("", |(_, secret)| secret);
        assert!(
            secret.len() < 2 || !errors[0].message.contains(secret),
            "{errors:?}"
        );
    }

    #[test]
    fn a_user_with_two_lines_is_refused() {
        let text = format!("alice:{HASH}\nbob:{HASH}\nalice:{HASH}\nplain");
        let errors = PasswordFile::parse(&text).expect_err("alice is ambiguous");
        assert_eq!(
            errors.to_string(),
            "line 3: the user `alice` has another line above. Fix: remove one of them\n\
             line 4: the line has no `:` after the name of a user"
        );
    }

    #[test]
    fn sizes_are_limited() {
        let long_name = format!("{}:{HASH}", "a".repeat(129));
        assert!(PasswordFile::parse(&long_name).is_err());
        let FileErrors(errors) = PasswordFile::parse(&"x\n".repeat(1000)).expect_err("no colons");
        assert_eq!(errors.len(), 100);
        let long = "#".repeat(17 << 20);
        let errors = PasswordFile::parse(&long).expect_err("the file is too long");
        assert_eq!(errors.to_string(), "line 1: the file has over 16 MiB");
    }

    #[test]
    fn debugging_shows_no_hashes() {
        let shown = format!("{:?}", file(&[format!("alice:{HASH}")]));
        assert_eq!(shown, "PasswordFile { users: 1, .. }");
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_with_lines_of_it(text in "(?s).{0,200}|([a-z*#]{0,3}:?(\\$2y\\$05\\$)?[./A-Z]{0,54}\n){0,5}") {
            if let Err(FileErrors(errors)) = PasswordFile::parse(&text) {
                prop_assert!(!errors.is_empty());
                let lines = text.lines().count();
                prop_assert!(errors.iter().all(|error| (1..=lines).contains(&error.line)));
            }
        }

        #[test]
        fn only_the_password_matches(password in "[^\0]{0,18}", other in "[^\0]{0,18}") {
            let file = file(&[format!("alice:{}", hash(password.as_bytes(), 4))]);
            prop_assert!(file.verify("alice", &password));
            prop_assert_eq!(file.verify("alice", &other), password == other);
        }
    }
}
