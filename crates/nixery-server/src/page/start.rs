//! The start page: an introduction, how names work, and recent builds.

use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
use maud::{Markup, html};
use nixery_builder::{BuildState, BuildSummary};
use nixery_core::{ByteSize, META_PACKAGES, PackageSource};

use super::{REFRESH_IDLE, REFRESH_RUNNING, page};
use crate::access::Caller;
use crate::arrival::{Arrival, ListenerRole};
use crate::error::ApiError;
use crate::host::{absolute, is_https, pull_host};
use crate::redact::redact;
use crate::state::AppState;
use crate::text::{ago, duration, timestamp};

/// Limit of rows in the list of builds.
const MAX_ROWS: usize = 30;
/// The image of the examples.
pub(crate) const EXAMPLE: &str = "shell/git/htop";

/// Returns the start page, with the builds that the caller may know of.
///
/// # Errors
/// The caller has no rights, or has to log in.
pub(crate) fn start(
    state: &AppState,
    request: &Parts,
    caller: &Caller<'_>,
) -> Result<Response, ApiError> {
    if let Some(refused) = caller.refused_entirely() {
        return Err(refused);
    }
    let host = pull_host(state.settings(), request);
    let mut builds = state.builder().recent();
    if !caller.may_pull_all() {
        builds.retain(|build| {
            let handle = state.builder().find(&build.id);
            handle
                .is_some_and(|handle| caller.may_see(&handle.request().name, &handle.request().tag))
        });
    }
    let running = builds
        .iter()
        .any(|build| matches!(build.state, BuildState::Running(_)));
    let refresh = if running {
        REFRESH_RUNNING
    } else {
        REFRESH_IDLE
    };
    let body = html! {
        (introduction(&host, is_https(state.settings(), request)))
        (naming(&host))
        (meta_packages(&state.builder().config().source))
        section id="live" aria-label="Recent builds" {
            h2 { "Recent builds" }
            (recent(state, &builds))
        }
        footer {
            p {
                "Registry API: " a href=(api_link(state, request)) { code { "/v2/" } }
                " · Metrics: " a href="/metrics" { code { "/metrics" } }
                " · Readiness: " a href="/readyz" { code { "/readyz" } }
            }
        }
    };
    Ok(page(
        StatusCode::OK,
        "Container images from packages",
        Some(refresh),
        &body,
    ))
}

/// Returns where the registry is: at this listener, or at the address of another one.
fn api_link(state: &AppState, request: &Parts) -> String {
    match Arrival::of(request).role {
        ListenerRole::Public => "/v2/".to_owned(),
        ListenerRole::Admin => absolute(state.settings(), request, "/v2/"),
    }
}

fn introduction(host: &str, is_https: bool) -> Markup {
    html! {
        h1 { "Container images from the packages you name" }
        p class="lead" {
            "Name the packages you need, and pull the image. This registry builds it with Nix while you wait, "
            "and shares layers between all images."
        }
        pre class="command" tabindex="0" aria-label="Pull command" {
            code { span class="prompt" aria-hidden="true" { "$ " } "docker pull " (host) "/" (EXAMPLE) }
        }
        details {
            summary { "Other clients" }
            pre tabindex="0" aria-label="Commands of other clients" {
                code {
                    "docker run --rm -ti " (host) "/" (EXAMPLE) " bash\n"
                    "podman run --rm -ti " (host) "/" (EXAMPLE) " bash\n"
                    "skopeo copy docker://" (host) "/" (EXAMPLE) " docker-archive:image.tar\n"
                    "ctr images pull " (host) "/" (EXAMPLE) ":latest"
                }
            }
            @if !is_https {
                p {
                    "Clients need a flag for a registry without TLS: "
                    code { "--tls-verify=false" } " for podman, "
                    code { "--src-tls-verify=false" } " for skopeo, "
                    code { "--plain-http" } " for ctr. Docker accepts "
                    code { "localhost" } " and the hosts in its setting " code { "insecure-registries" } "."
                }
            }
        }
    }
}

fn naming(host: &str) -> Markup {
    html! {
        section aria-labelledby="names" {
            h2 id="names" { "How names work" }
            dl {
                dt { code { "git/htop" } }
                dd { "Each component is a package; order and repetition do not matter." }
                dt { code { "python3packages.numpy" } }
                dd { "A dot selects a package of a nested set. Names are in lower case; packages with capitals are found, too." }
                dt { code { "7zip" } }
                dd { "A name that starts with a digit is looked up with a " code { "_" } " before it." }
                dt { code { "shell/git" } }
                dd { "Meta-packages come first in a name and change the image." }
            }
            p {
                "Every image also has TLS certificates and protocol names. If a package is missing or a build fails, the "
                "client's error names the reason. A build may take some minutes: " code { "docker pull " (host) "/…" }
                " waits for it. If the client gives up, the build continues: pull the image again."
            }
        }
    }
}

fn meta_packages(source: &PackageSource) -> Markup {
    html! {
        section aria-labelledby="meta" {
            h2 id="meta" { "Meta-packages" }
            div class="scroll" {
                table {
                    thead { tr { th scope="col" { "Name" } th scope="col" { "What it does" } th scope="col" { "Adds" } } }
                    tbody {
                        @for meta in META_PACKAGES {
                            tr {
                                th scope="row" { code { (meta.name) } }
                                td { (meta.description) }
                                td {
                                    @for (index, package) in meta.packages.iter().enumerate() {
                                        @if index > 0 { " " }
                                        code { (package) }
                                    }
                                    @if meta.packages.is_empty() { "–" }
                                }
                            }
                        }
                    }
                }
            }
            p { "Packages come from " (source_name(source)) "." }
        }
    }
}

/// The package source without this server's paths.
fn source_name(source: &PackageSource) -> Markup {
    html! {
        @match source {
            PackageSource::Channel(channel) => { "nixpkgs, " code { (channel) } }
            PackageSource::Git { .. } => { code { (redact(&source.to_string())) } "; the image's tag selects a branch, tag or commit" }
            PackageSource::Path(_) => { "a package set on this server" }
        }
    }
}

fn recent(state: &AppState, builds: &[BuildSummary]) -> Markup {
    html! {
        @if builds.is_empty() {
            p class="empty" { "No builds since this server started. Pull an image, and its build appears here." }
        } @else {
            div class="scroll" {
                table class="builds" {
                    thead {
                        tr {
                            th scope="col" { "Image" }
                            th scope="col" { "State" }
                            th scope="col" { "Started" }
                            th scope="col" { "Took" }
                            th scope="col" { "Log" }
                        }
                    }
                    tbody {
                        @for build in builds.iter().take(MAX_ROWS) { (row(build, &requested(state, build))) }
                    }
                }
            }
        }
    }
}

/// Returns the image as it was requested, with its tag, so that it can be pulled again. A canonical
/// name cannot, as its meta-packages need not come first.
pub(super) fn requested(state: &AppState, build: &BuildSummary) -> String {
    let handle = state.builder().find(&build.id);
    let name = handle.as_ref().map(|handle| handle.request().name.as_str());
    format!("{}:{}", name.unwrap_or(&build.image), build.tag)
}

fn row(build: &BuildSummary, image: &str) -> Markup {
    let link = format!("/builds/{}", build.id);
    html! {
        tr {
            th scope="row" { (image) }
            td { (state(&build.state)) }
            td {
                time datetime=(timestamp(build.started)) title=(timestamp(build.started)) {
                    (ago(build.started.elapsed().unwrap_or_default()))
                }
            }
            td { (duration(build.elapsed)) }
            td { a href=(link) aria-label={ "Log of " (image) } { "Log" } }
        }
    }
}

/// Shows the state of a build as a coloured word with details.
pub(super) fn state(state: &BuildState) -> Markup {
    html! {
        @match state {
            BuildState::Running(phase) => {
                span class="badge running" { "running" } " " (phase.describe())
            }
            BuildState::Succeeded { size: bytes, layers, from_cache, .. } => {
                span class="badge done" { @if *from_cache { "cached" } @else { "built" } }
                " " (ByteSize(*bytes)) " in " (layers) " layers"
            }
            BuildState::Failed(error) => {
                span class="badge failed" { "failed" } " " (redact(&error.to_string()))
            }
        }
    }
}
