//! What a client asks a token for.

use std::fmt;
use std::str::FromStr;

/// Limits of what a client may send.
const MOST_SCOPES: usize = 64;
const LONGEST_NAME: usize = 255;

/// A resource and what a client wants to do with it, as in `repository:shell/git:pull`.
///
/// The format is the "Token Scope" of the distribution specification. `Display` writes it as it
/// was parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceScope {
    kind: String,
    name: String,
    actions: Vec<String>,
}

/// Why a text is not a scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// The text has another form.
    #[error("the scope is not `TYPE:NAME:ACTION,ACTION`. Fix: use `repository:NAME:pull`")]
    Malformed,
    /// The text asks for too many resources.
    #[error("the scope has over {MOST_SCOPES} resources. Fix: ask for them one after the other")]
    TooMany,
}

impl ResourceScope {
    /// Returns the scope of pulling from a repository.
    #[must_use]
    pub fn pull(repository: impl Into<String>) -> Self {
        Self {
            kind: "repository".to_owned(),
            name: repository.into(),
            actions: vec!["pull".to_owned()],
        }
    }

    /// Parses scopes with spaces between them. An empty text has none.
    ///
    /// # Errors
    /// If one of them has another form, or there are over 64.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, ScopeError> {
        let scopes = text.split(' ').filter(|scope| !scope.is_empty());
        if scopes.clone().count() > MOST_SCOPES {
            return Err(ScopeError::TooMany);
        }
        scopes.map(str::parse).collect()
    }

    /// Returns the type of the resource: `repository`, `registry`, or another word.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Returns the name of the resource.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what the client wants to do.
    pub fn actions(&self) -> impl Iterator<Item = &str> {
        self.actions.iter().map(String::as_str)
    }

    /// Returns the name of the repository, if the client wants to pull from one.
    #[must_use]
    pub fn repository_to_pull(&self) -> Option<&str> {
        allows_pull(&self.kind, &self.actions).then_some(&self.name)
    }
}

/// Whether actions on a type of resource include that of pulling from a repository.
pub(crate) fn allows_pull(kind: &str, actions: &[String]) -> bool {
    kind == "repository"
        && actions
            .iter()
            .any(|action| action == "pull" || action == "*")
}

impl FromStr for ResourceScope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        // A name may start with a host and its port, so it may have colons.
        let (kind, rest) = text.split_once(':').ok_or(ScopeError::Malformed)?;
        let (name, actions) = rest.rsplit_once(':').ok_or(ScopeError::Malformed)?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte);
        let is_action = |byte: u8| byte.is_ascii_lowercase() || b"*,".contains(&byte);
        let is_valid = is_kind(kind)
            && !name.is_empty()
            && name.len() <= LONGEST_NAME
            && name.bytes().all(is_name)
            && actions.bytes().all(is_action);
        if !is_valid {
            return Err(ScopeError::Malformed);
        }
        Ok(Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
            actions: actions.split(',').map(str::to_owned).collect(),
        })
    }
}

/// Whether a text is a type of resource, such as `repository` or `repository(plugin)`.
fn is_kind(kind: &str) -> bool {
    let is_word = |word: &str| {
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        !word.is_empty() && word.len() <= LONGEST_NAME && word.bytes().all(is_letter)
    };
    match kind.strip_suffix(')') {
        Some(rest) => rest
            .split_once('(')
            .is_some_and(|(kind, class)| is_word(kind) && is_word(class)),
        None => is_word(kind),
    }
}

impl fmt::Display for ResourceScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.kind, self.name, self.actions.join(","))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("repository:shell/git:pull", "repository", "shell/git", &["pull"], Some("shell/git"))]
    #[case("repository:git:pull,push", "repository", "git", &["pull", "push"], Some("git"))]
    #[case("repository:git:push", "repository", "git", &["push"], None)]
    #[case("repository:git:*", "repository", "git", &["*"], Some("git"))]
    #[case("repository:git:", "repository", "git", &[""], None)]
    #[case("repository(plugin):git:pull", "repository(plugin)", "git", &["pull"], None)]
    #[case("registry:catalog:*", "registry", "catalog", &["*"], None)]
    #[case("repository:host.example:5000/git:pull", "repository", "host.example:5000/git", &["pull"], Some("host.example:5000/git"))]
    fn a_scope_is_parsed(
        #[case] text: &str,
        #[case] kind: &str,
        #[case] name: &str,
        #[case] actions: &[&str],
        #[case] to_pull: Option<&str>,
    ) {
        let scope: ResourceScope = text.parse().expect("it is a scope");
        assert_eq!(scope.kind(), kind);
        assert_eq!(scope.name(), name);
        assert_eq!(scope.actions().collect::<Vec<_>>(), actions);
        assert_eq!(scope.repository_to_pull(), to_pull);
        assert_eq!(scope.to_string(), text);
    }

    #[rstest]
    #[case("")]
    #[case("repository")]
    #[case("repository:git")]
    #[case("repository::pull")]
    #[case(":git:pull")]
    #[case("Repository:git:pull")]
    #[case("repository():git:pull")]
    #[case("repository(plugin:git:pull")]
    #[case("repositoryplugin):git:pull")]
    #[case("repository:git:PULL")]
    #[case("repository:git:pull push")]
    #[case("repository:g\"it:pull")]
    #[case("repository:gît:pull")]
    fn another_text_is_not_a_scope(#[case] text: &str) {
        assert_eq!(text.parse::<ResourceScope>(), Err(ScopeError::Malformed));
    }

    #[test]
    fn several_scopes_have_spaces_between_them() {
        let scopes = ResourceScope::parse_list("repository:a:pull  repository:b:pull,push ");
        let scopes = scopes.expect("they are scopes");
        let names: Vec<_> = scopes.iter().map(ResourceScope::name).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(ResourceScope::parse_list(""), Ok(vec![]));
        assert_eq!(
            ResourceScope::parse_list("repository:a:pull b"),
            Err(ScopeError::Malformed)
        );
    }

    #[test]
    fn sizes_are_limited() {
        let scopes = |count| vec!["repository:a:pull"; count].join(" ");
        assert_eq!(
            ResourceScope::parse_list(&scopes(64)).map(|s| s.len()),
            Ok(64)
        );
        assert_eq!(
            ResourceScope::parse_list(&scopes(65)),
            Err(ScopeError::TooMany)
        );
        let named = |length| format!("repository:{}:pull", "a".repeat(length));
        assert!(named(255).parse::<ResourceScope>().is_ok());
        assert!(named(256).parse::<ResourceScope>().is_err());
    }

    #[test]
    fn the_scope_of_pulling_is_parsed_again() {
        let scope = ResourceScope::pull("shell/git");
        assert_eq!(scope.to_string(), "repository:shell/git:pull");
        assert_eq!(scope.to_string().parse(), Ok(scope));
    }

    proptest! {
        #[test]
        fn a_scope_is_displayed_as_it_was_parsed(text in "(?s).{0,40}|[a-z()]{0,6}:[a-z:/]{0,6}:[a-z,*]{0,6}") {
            if let Ok(scope) = text.parse::<ResourceScope>() {
                prop_assert_eq!(scope.to_string(), text);
            }
        }
    }
}
