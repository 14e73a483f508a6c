//! Who sends a request.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Who sends a request: a user with groups, or nobody known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    user: Option<Arc<str>>,
    groups: Arc<BTreeSet<String>>,
    scope: Option<TokenScope>,
}

/// The repositories that the bearer of a token may pull, as the token says (claim `access`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenScope(Arc<BTreeSet<String>>);

impl TokenScope {
    /// Returns a scope of repositories.
    #[must_use]
    pub fn new(repositories: impl IntoIterator<Item = String>) -> Self {
        Self(Arc::new(repositories.into_iter().collect()))
    }

    /// Whether the bearer may pull from a repository.
    #[must_use]
    pub fn allows_pull(&self, repository: &str) -> bool {
        self.0.contains(repository)
    }
}

impl Identity {
    /// Returns the identity of a request without a login.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// Returns the identity of a user.
    #[must_use]
    pub fn user(name: impl Into<Arc<str>>) -> Self {
        Self {
            user: Some(name.into()),
            ..Self::default()
        }
    }

    /// Replaces the groups.
    #[must_use]
    pub fn with_groups(self, groups: impl IntoIterator<Item = String>) -> Self {
        Self {
            groups: Arc::new(groups.into_iter().collect()),
            ..self
        }
    }

    /// Limits the identity to what its token says.
    #[must_use]
    pub fn with_scope(self, scope: TokenScope) -> Self {
        Self {
            scope: Some(scope),
            ..self
        }
    }

    /// Returns the name of the user; `None` for a request without a login.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Whether the request has no login.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.user.is_none()
    }

    /// Returns the groups of the user.
    #[must_use]
    pub fn groups(&self) -> &BTreeSet<String> {
        &self.groups
    }

    /// Returns what a token limits its bearer to; `None` if nothing does.
    #[must_use]
    pub fn scope(&self) -> Option<&TokenScope> {
        self.scope.as_ref()
    }
}
