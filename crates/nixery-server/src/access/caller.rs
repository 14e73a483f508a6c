//! Who sends one request, and what they may do.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::request::Parts;
use nixery_access::{Allowance, Denial, Identity, Issuer, PolicyRequest};
use nixery_builder::{BuildHandle, Builder, ClientId, Image, ImageRequest};
use nixery_core::{ImageName, PackageSource, Tag, TagSelection};
use nixery_manifest::Digest;
use serde_json::json;

use super::challenge::{TokenProblem, challenge};
use super::files::Files;
use super::quotas::StartedBuild;
use super::{Access, LoginError};
use crate::client::client_id;
use crate::config::{HttpSettings, TokenRealm};
use crate::error::{ApiError, Code, RETRY_SECONDS};

/// Everything is allowed.
const EVERYTHING: Allowance = Allowance {
    may_build: true,
    builds_per_hour: None,
};

/// The longest time that `Retry-After` names. For a longer one podman and skopeo would wait a
/// minute four times, before they print the message.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The sender of a request, with everything that decides about the request.
#[derive(Debug)]
pub(crate) struct Caller<'a> {
    access: &'a Access,
    builder: &'a Builder,
    http: &'a HttpSettings,
    request: &'a Parts,
    identity: Identity,
    files: Arc<Files>,
    /// Whether nothing is limited at all, neither pulls nor builds.
    is_open: bool,
    /// Whether every image may be pulled. Builds may be limited all the same.
    may_pull_all: bool,
}

impl<'a> Caller<'a> {
    pub(super) fn new(
        access: &'a Access,
        builder: &'a Builder,
        http: &'a HttpSettings,
        request: &'a Parts,
        identity: Identity,
    ) -> Self {
        let files = access.files();
        let by_policy = match &files.policy {
            Some(policy) => policy.allows_everything(&identity),
            None => !identity.is_anonymous() && identity.scope().is_none(),
        };
        Self {
            is_open: !access.is_limited(),
            may_pull_all: by_policy || !access.is_limited(),
            access,
            builder,
            http,
            request,
            identity,
            files,
        }
    }

    /// Returns the caller of the admin listener, without limits.
    pub(super) fn operator(
        access: &'a Access,
        builder: &'a Builder,
        http: &'a HttpSettings,
        request: &'a Parts,
    ) -> Self {
        let caller = Self::new(access, builder, http, request, Identity::anonymous());
        Self {
            is_open: true,
            may_pull_all: true,
            ..caller
        }
    }

    /// Returns the name of the user, if there was a login.
    pub(crate) fn user(&self) -> Option<&str> {
        self.identity.name()
    }

    /// Returns the client for which builds are queued: the user, or else the address.
    pub(crate) fn client(&self) -> ClientId {
        let user = self.identity.name().map(ClientId::from_user);
        user.unwrap_or_else(|| client_id(self.request))
    }

    /// Decides whether an image may be pulled, and built.
    ///
    /// # Errors
    /// 403 with what is denied, or 401 if a login may help.
    pub(crate) fn may_pull(&self, name: &ImageName, tag: &Tag) -> Result<Allowance, ApiError> {
        self.decide(name, tag, None)
            .map_err(|denial| self.denied(name, &denial))
    }

    /// Decides whether a name may be pulled at some tag.
    ///
    /// # Errors
    /// 403 with what is denied, or 401 if a login may help.
    pub(crate) fn may_name(&self, name: &ImageName) -> Result<(), ApiError> {
        if self.may_pull_all {
            return Ok(());
        }
        let decided = match &self.files.policy {
            Some(policy) => {
                let decide = |source: &str| policy.decide_name(&self.identity, name, source);
                let config = self.builder.config();
                // A tag may select another channel, which has rules of its own.
                let tags = config.source.fixed_tags(&config.channels);
                let mut others = tags.iter().map(|tag| self.selection(tag).0);
                decide(&config.source.to_string()).or_else(|denial| {
                    let is_allowed = others.any(|source| decide(&source).is_ok());
                    is_allowed.then_some(()).ok_or(denial)
                })
            }
            None => self.decide_by_token(name).map(drop),
        };
        decided.map_err(|denial| self.denied(name, &denial))
    }

    /// Whether the caller may know of an image.
    pub(crate) fn may_see(&self, name: &ImageName, tag: &Tag) -> bool {
        self.may_pull_all || self.decide(name, tag, None).is_ok()
    }

    /// Whether every image may be pulled.
    pub(crate) fn may_pull_all(&self) -> bool {
        self.may_pull_all
    }

    /// Decides whether a blob or a manifest may be read by its digest: whether an image of this
    /// name that the caller may pull has it.
    ///
    /// # Errors
    /// 403 or 401. Nothing shows whether the registry has the digest. 503 if the store fails.
    pub(crate) async fn may_read(&self, name: &ImageName, digest: &Digest) -> Result<(), ApiError> {
        if self.may_pull_all {
            return Ok(());
        }
        self.may_name(name)?;
        let is_allowed = |tag: &Tag, source: &str| self.decide(name, tag, Some(source)).is_ok();
        let names = &self.access.names;
        let found = names.find_with_digest(self.builder, name, digest, |image| {
            is_allowed(&image.tag, &image.source)
        });
        match found.await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(self.forbidden(
                &format!(
                    "no image `{name}` that you may pull has {digest}. Fix: pull the image by its tag"
                ),
                Some(name),
            )),
            Err(error) => Err(ApiError::from(&error)),
        }
    }

    /// Returns the manifests of the last image that was served under a name and a tag, for a caller
    /// who may not start builds.
    ///
    /// # Errors
    /// 403 if no such image was served, 503 if the store fails.
    pub(crate) async fn built_before(
        &self,
        name: &ImageName,
        tag: &Tag,
    ) -> Result<Vec<Digest>, ApiError> {
        let (source, _) = self.selection(tag);
        let names = &self.access.names;
        match names.find_newest(self.builder, name, tag, &source).await {
            Ok(Some(image)) => Ok(image.manifests.clone()),
            Ok(None) => Err(self.not_built(name, tag)),
            Err(error) => Err(ApiError::from(&error)),
        }
    }

    /// Returns the answer to a caller who may not start the build of an image.
    pub(crate) fn not_built(&self, name: &ImageName, tag: &Tag) -> ApiError {
        let message = format!(
            "the image `{name}:{tag}` is not built, and you may only pull images that are built. Fix: ask somebody who may build it to pull it"
        );
        self.forbidden(&message, Some(name))
    }

    /// Writes down that the caller gets an image, so that its blobs can be read by their digests.
    pub(crate) async fn remember(&self, name: &ImageName, tag: &Tag, image: &Image) {
        let settings = &self.access.settings;
        // Only then some callers are limited.
        if settings.policy.is_some() || settings.token_service.is_some() {
            let names = &self.access.names;
            names.remember(self.builder, name, tag, image).await;
        }
    }

    /// Starts or joins the build of an image by `start`. A build that runs already, or that the
    /// builder refuses, does not count against the quota of the caller.
    ///
    /// # Errors
    /// 429 if the policy allows no more builds now.
    pub(crate) fn start_build(
        &self,
        allowance: &Allowance,
        asked: &ImageRequest,
        start: impl FnOnce() -> BuildHandle,
    ) -> Result<BuildHandle, ApiError> {
        let Some(limit) = allowance.builds_per_hour else {
            return Ok(start());
        };
        let client = self.client();
        let runs = || self.builder.current_build(asked).is_some();
        let start = || {
            let handle = start();
            match handle.result() {
                None => StartedBuild::Counts(handle),
                Some(_) => StartedBuild::Refused(handle),
            }
        };
        self.access.quotas.start(client, limit, runs, start).map_err(|retry| {
            let message = format!(
                "you have started as many builds as you may in an hour ({limit}). Fix: pull the image again {}",
                in_time(retry)
            );
            too_many(&message, retry)
        })
    }

    /// Returns the answer to a caller without any rights; `None` if there are some.
    pub(crate) fn refused_entirely(&self) -> Option<ApiError> {
        let has_some = match &self.files.policy {
            _ if self.may_pull_all => true,
            Some(policy) => policy.allows_anything(&self.identity),
            // A token without a user may have a scope.
            None => self.identity.scope().is_some(),
        };
        (!has_some).then(|| self.forbidden(&Denial::Registry.to_string(), None))
    }

    /// Returns the answer to a request for a build that does not exist, or that the caller may not
    /// know of: nothing shows which.
    pub(crate) fn no_build(&self) -> ApiError {
        if self.may_pull_all {
            let message = "this server has no log of this build: it keeps the logs of the last builds since its start";
            return ApiError::new(StatusCode::NOT_FOUND, Code::Unknown, message);
        }
        let message = "this server has no build with this log of an image that you may pull. Fix: ask somebody who may pull it for the log";
        self.forbidden(message, None)
    }

    /// Returns the answer that makes a client get a token first, where tokens are used.
    pub(crate) fn needs_token(&self) -> Option<ApiError> {
        let has_service = self.access.settings.token_service.is_some();
        let is_unknown = self.identity.is_anonymous() && self.identity.scope().is_none();
        (has_service && is_unknown).then(|| self.forbidden("this registry needs a token", None))
    }

    /// Returns the answer to a caller who sends a token to get another one: without a password, a
    /// token would never end.
    pub(crate) fn refused_to_renew(&self) -> Option<ApiError> {
        self.identity.scope()?;
        let message =
            "a token cannot be exchanged for another one. Fix: send a user and a password";
        Some(self.unauthorized(message, None, None))
    }

    /// Returns who issues tokens here, for which service, and how long they are valid.
    pub(crate) fn issuer(&self) -> Option<(&Issuer, &str, Duration)> {
        let issuer = self.access.issuer.as_ref()?;
        let tokens = self.access.settings.token_service.as_ref()?;
        match tokens.realm {
            TokenRealm::Own { lifetime, .. } => Some((issuer, &tokens.service, lifetime)),
            TokenRealm::Other { .. } => None,
        }
    }

    /// Returns the identity.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    fn decide(
        &self,
        name: &ImageName,
        tag: &Tag,
        source: Option<&str>,
    ) -> Result<Allowance, Denial> {
        if self.is_open {
            return Ok(EVERYTHING);
        }
        let Some(policy) = &self.files.policy else {
            return self.decide_by_token(name);
        };
        let (selected, same) = self.selection(tag);
        let source = source.unwrap_or(&selected);
        let decide = |tag| policy.decide(&self.identity, &PolicyRequest { name, tag, source });
        let allowance = decide(tag)?;
        // The same image has another tag, about which there may be a rule.
        same.as_ref().map_or(Ok(allowance), decide)?;
        Ok(allowance)
    }

    /// Returns the package source that a tag selects, and the tag for which it stands, if there is
    /// one: `latest` for a version, and the whole name for the short name of a channel. Git sources
    /// have no versions where access is limited.
    fn selection(&self, tag: &Tag) -> (String, Option<Tag>) {
        let config = self.builder.config();
        match config.source.select(tag, &config.channels) {
            TagSelection::Source(selected) => {
                let whole = match &selected {
                    PackageSource::Channel(name) if !tag.is_latest() => Tag::parse(name).ok(),
                    _ => None,
                };
                (selected.to_string(), whole.filter(|whole| whole != tag))
            }
            TagSelection::Version(_) => (config.source.to_string(), Some(Tag::latest())),
            TagSelection::RefOrVersion(_) | TagSelection::Nothing => {
                (config.source.to_string(), None)
            }
        }
    }

    /// Decides without a policy: users may pull everything that their token allows.
    fn decide_by_token(&self, name: &ImageName) -> Result<Allowance, Denial> {
        match self.identity.scope() {
            Some(scope) if scope.allows_pull(name.as_str()) => Ok(EVERYTHING),
            Some(_) => Err(Denial::Scope(name.as_str().to_owned())),
            None if self.identity.is_anonymous() => Err(Denial::Registry),
            None => Ok(EVERYTHING),
        }
    }

    fn denied(&self, name: &ImageName, denial: &Denial) -> ApiError {
        if matches!(denial, Denial::Scope(_)) {
            let problem = TokenProblem::InsufficientScope;
            return self.unauthorized(&denial.to_string(), Some(name), Some(problem));
        }
        let detail = match denial {
            Denial::Package(package) => json!({ "package": package }),
            Denial::Tag(tag) => json!({ "tag": tag }),
            Denial::Platform(platform) => json!({ "platform": platform }),
            _ => serde_json::Value::Null,
        };
        self.forbidden(&denial.to_string(), Some(name))
            .with_detail(detail)
    }

    /// Returns 403, or 401 if the caller has not logged in and can.
    fn forbidden(&self, message: &str, name: Option<&ImageName>) -> ApiError {
        if self.identity.is_anonymous() && self.access.settings.has_logins() {
            let problem = message.split(". Fix: ").next().unwrap_or(message);
            let message = format!(
                "{problem}: you have not logged in. Fix: log in, for example with `docker login`"
            );
            return self.unauthorized(&message, name, None);
        }
        ApiError::new(StatusCode::FORBIDDEN, Code::Denied, message)
    }

    fn unauthorized(
        &self,
        message: &str,
        name: Option<&ImageName>,
        problem: Option<TokenProblem>,
    ) -> ApiError {
        let (settings, scope) = (&self.access.settings, name.map(ImageName::as_str));
        let problem = problem.map(|problem| (problem, message));
        match challenge(settings, self.http, self.request, scope, problem) {
            // An answer 401 needs a challenge, and browsers cannot send signed tokens.
            None => ApiError::new(StatusCode::FORBIDDEN, Code::Denied, message),
            challenge => ApiError::new(StatusCode::UNAUTHORIZED, Code::Unauthorized, message)
                .with_challenge(challenge),
        }
    }

    /// Returns the answer to refused credentials.
    pub(super) fn refused(&self, error: &LoginError) -> ApiError {
        const LOG_IN: &str = "Fix: log in again, for example with `docker login`";
        match error {
            LoginError::Credentials(error) => self.unauthorized(&error.to_string(), None, None),
            LoginError::Wrong => {
                let message =
                    format!("the user and the password, or the token, are wrong. {LOG_IN}");
                self.unauthorized(&message, None, None)
            }
            LoginError::Token(error) => {
                let problem = Some(TokenProblem::Invalid);
                self.unauthorized(&error.to_string(), None, problem)
            }
            LoginError::NoKeys => ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                Code::Unavailable,
                "this registry cannot verify tokens now, because it does not reach the token service. Fix: try again later",
            )
            .retry_after(RETRY_SECONDS),
            LoginError::Busy => ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                Code::Unavailable,
                "too many passwords wait for their verification. Fix: try again later",
            )
            .retry_after(RETRY_SECONDS),
            LoginError::TooMany { retry } => {
                let message = format!(
                    "there were too many attempts to log in from your address. Fix: try again {}",
                    in_time(*retry)
                );
                too_many(&message, *retry)
            }
        }
    }
}

fn too_many(message: &str, retry: Duration) -> ApiError {
    let (status, code) = (StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests);
    let error = ApiError::new(status, code, message);
    if retry > LONGEST_RETRY {
        return error;
    }
    error.retry_after(retry.as_secs() + 1)
}

/// Formats a time for people: "in 5 s", "in 12 min".
fn in_time(time: Duration) -> String {
    match time.as_secs() + 1 {
        seconds @ ..120 => format!("in {seconds} s"),
        seconds => format!("in {} min", seconds.div_ceil(60)),
    }
}
