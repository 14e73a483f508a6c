//! The builds that a builder remembers, and which of them a request joins.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::handle::{BuildHandle, BuildTarget};

/// Running and ended builds, bounded in number.
#[derive(Debug)]
pub(crate) struct BuildHistory {
    /// Newest first.
    builds: VecDeque<BuildHandle>,
    /// The latest build of each image, while it is remembered.
    latest: HashMap<BuildTarget, BuildHandle>,
    max_builds: usize,
    failure_ttl: Duration,
}

impl BuildHistory {
    pub(crate) fn new(max_builds: usize, failure_ttl: Duration) -> Self {
        Self {
            builds: VecDeque::new(),
            latest: HashMap::new(),
            max_builds,
            failure_ttl,
        }
    }

    /// Returns all builds, newest first.
    pub(crate) fn handles(&self) -> impl Iterator<Item = &BuildHandle> {
        self.builds.iter()
    }

    /// Returns the build that a request may join: one that runs, or that failed recently.
    pub(crate) fn current(&self, target: &BuildTarget) -> Option<BuildHandle> {
        let handle = self.latest.get(target)?;
        let joined = handle
            .end()
            .is_none_or(|end| end.result.is_err() && end.at.elapsed() < self.failure_ttl);
        joined.then(|| handle.clone())
    }

    /// Adds a build that starts.
    pub(crate) fn started(&mut self, handle: &BuildHandle) {
        self.builds.push_front(handle.clone());
        self.latest.insert(handle.target().clone(), handle.clone());
        self.trim();
    }

    /// Drops builds that only found a cached image, so that they do not displace real builds: of
    /// requests, all but the last of a target; of refreshes, all.
    pub(crate) fn ended(&mut self, handle: &BuildHandle) {
        if from_cache(handle) && handle.is_refresh() {
            self.builds.retain(|other| other.id() != handle.id());
            self.forget(handle);
        } else if from_cache(handle) {
            self.builds.retain(|other| {
                other.id() == handle.id() || !from_cache(other) || other.target() != handle.target()
            });
        }
        self.trim();
    }

    /// Drops the oldest builds that have ended.
    fn trim(&mut self) {
        // A running refresh does not count: it may turn out to have changed nothing.
        let uncounted = |build: &&BuildHandle| build.is_refresh() && build.end().is_none();
        let uncounted = self.builds.iter().filter(uncounted).count();
        let max = self.max_builds.max(1).saturating_add(uncounted);
        while self.builds.len() > max {
            let Some(oldest) = self.builds.iter().rposition(|it| it.end().is_some()) else {
                return;
            };
            if let Some(build) = self.builds.remove(oldest) {
                self.forget(&build);
            }
        }
    }

    /// Makes sure that no request joins the build.
    fn forget(&mut self, build: &BuildHandle) {
        let latest = self.latest.get(build.target());
        if latest.is_some_and(|latest| latest.id() == build.id()) {
            self.latest.remove(build.target());
        }
    }
}

fn from_cache(handle: &BuildHandle) -> bool {
    let result = handle.result();
    result.is_some_and(|result| result.is_ok_and(|image| image.stats.from_cache))
}
