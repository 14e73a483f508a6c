//! The files of passwords, tokens and the policy.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nixery_access::{
    FileErrors, Issuer, IssuerError, KeySetError, PasswordFile, Policy, TokenFile,
};
use nixery_manifest::Digest;

use crate::config::AccessSettings;
use crate::config::table::{HTPASSWD, POLICY, Setting, TOKEN_KEY, TOKEN_KEYS, TOKENS};

/// Bytes of the largest file that is read.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// A file of an access setting cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The file cannot be read.
    #[error(
        "the file {} of {setting} cannot be read. Fix: correct the setting, or make the file readable for this user", path.display()
    )]
    Unreadable {
        /// The setting.
        setting: &'static Setting,
        /// The file.
        path: PathBuf,
        /// The problem.
        #[source]
        source: io::Error,
    },
    /// The file is too large.
    #[error(
        "the file {} of {setting} has over {} MiB. Fix: correct the setting, or make the file smaller", path.display(), MAX_BYTES >> 20
    )]
    TooLarge {
        /// The setting.
        setting: &'static Setting,
        /// The file.
        path: PathBuf,
    },
    /// Something in the file is wrong.
    #[error("the file {} of {setting} cannot be used. Fix: correct these lines:\n{problems}", path.display())]
    Invalid {
        /// The setting.
        setting: &'static Setting,
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        problems: FileErrors,
    },
    /// The key that signs tokens is wrong.
    #[error("tokens cannot be signed with the key of {TOKEN_KEY}")]
    Key(#[source] IssuerError),
    /// The keys that verify tokens are wrong.
    #[error("tokens cannot be verified with the keys of {TOKEN_KEYS}")]
    Keys(#[source] KeySetError),
    /// The keys that verify tokens cannot be read.
    #[error("the keys of {TOKEN_KEYS} cannot be loaded. Fix: correct the setting")]
    NoKeys(#[source] nixery_builder::LoadError),
}

/// The contents of the files at one time.
#[derive(Debug, Default)]
pub(super) struct Files {
    passwords: Option<PasswordFile>,
    tokens: Option<TokenFile>,
    /// Who may pull what; `None`: everybody who has logged in may pull everything.
    pub(super) policy: Option<Policy>,
    /// The digest of the passwords and tokens.
    pub(super) logins: Option<Digest>,
    /// The digest of all files.
    pub(super) digest: Option<Digest>,
}

impl Files {
    /// Whether this is the password of a user. Takes a while.
    pub(super) fn verify(&self, user: &str, password: &[u8]) -> bool {
        let passwords = self.passwords.as_ref();
        passwords.is_some_and(|passwords| passwords.verify(user, password))
    }

    /// Returns the user of a static token.
    pub(super) fn user_of_token(&self, token: &str) -> Option<String> {
        let user = self.tokens.as_ref()?.user_of(token)?;
        Some(user.to_owned())
    }
}

/// Reads all files; `None` if they have this digest.
///
/// # Errors
/// The first that cannot be read or used.
pub(super) async fn read(
    settings: AccessSettings,
    known: Option<Digest>,
) -> Result<Option<Files>, AccessError> {
    blocking(move || {
        let passwords = text_of(HTPASSWD, settings.htpasswd)?;
        let tokens = text_of(TOKENS, settings.tokens)?;
        let policy = text_of(POLICY, settings.policy)?;
        let texts = [&passwords, &tokens, &policy];
        let texts = texts.map(|file| file.as_ref().map_or("", |file| &file.text));
        let digests = texts.map(|text| *Digest::of(text.as_bytes()).as_bytes());
        let logins = Some(Digest::of(&digests[..2].concat()));
        let digest = Some(Digest::of(&digests.concat()));
        if digest == known {
            return Ok(None);
        }
        Ok(Some(Files {
            passwords: parse(passwords, PasswordFile::parse)?,
            tokens: parse(tokens, TokenFile::parse)?,
            policy: parse(policy, Policy::parse)?,
            logins,
            digest,
        }))
    })
    .await
}

/// Returns the issuer with the key of a file, or with a random one.
pub(super) async fn issuer(name: String, key: Option<PathBuf>) -> Result<Issuer, AccessError> {
    blocking(move || {
        let issuer = match key {
            Some(path) => Issuer::from_pem(name, &text(TOKEN_KEY, &path)?),
            None => Issuer::generate(name),
        };
        issuer.map_err(AccessError::Key)
    })
    .await
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, AccessError> + Send + 'static,
) -> Result<T, AccessError> {
    match tokio::task::spawn_blocking(read).await {
        Ok(read) => read,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// A file that was read.
struct FileText {
    setting: &'static Setting,
    path: PathBuf,
    text: String,
}

fn text_of(
    setting: &'static Setting,
    path: Option<PathBuf>,
) -> Result<Option<FileText>, AccessError> {
    let read = |path: PathBuf| {
        let text = text(setting, &path)?;
        Ok(FileText {
            setting,
            path,
            text,
        })
    };
    path.map(read).transpose()
}

fn parse<T>(
    file: Option<FileText>,
    parse: impl FnOnce(&str) -> Result<T, FileErrors>,
) -> Result<Option<T>, AccessError> {
    let parsed = |file: FileText| {
        parse(&file.text).map_err(|problems| AccessError::Invalid {
            setting: file.setting,
            path: file.path,
            problems,
        })
    };
    file.map(parsed).transpose()
}

fn text(setting: &'static Setting, path: &Path) -> Result<String, AccessError> {
    let unreadable = |source| AccessError::Unreadable {
        setting,
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let read = file.take(MAX_BYTES + 1).read_to_end(&mut bytes);
    if read.map_err(unreadable)? as u64 > MAX_BYTES {
        let path = path.to_owned();
        return Err(AccessError::TooLarge { setting, path });
    }
    let not_text = |error| unreadable(io::Error::new(io::ErrorKind::InvalidData, error));
    String::from_utf8(bytes).map_err(|error| not_text(error.utf8_error()))
}
