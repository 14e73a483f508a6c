//! The builds a builder remembers, and which of them a request joins.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::handle::BuildHandle;
use crate::target::Target;

/// Builds that run and builds that ended, bounded.
#[derive(Debug)]
pub(crate) struct History {
    /// Newest first.
    builds: VecDeque<BuildHandle>,
    /// The latest build of each image, while it is remembered.
    latest: HashMap<Target, BuildHandle>,
    max: usize,
    failure_ttl: Duration,
}

impl History {
    pub(crate) fn new(max: usize, failure_ttl: Duration) -> Self {
        let (builds, latest) = (VecDeque::new(), HashMap::new());
        Self {
            builds,
            latest,
            max,
            failure_ttl,
        }
    }

    /// All of them, newest first.
    pub(crate) fn handles(&self) -> impl Iterator<Item = &BuildHandle> {
        self.builds.iter()
    }

    /// The build that a request joins: one that runs, or that failed a moment ago.
    pub(crate) fn current(&self, target: &Target) -> Option<BuildHandle> {
        let handle = self.latest.get(target)?;
        let answers = handle.outcome().is_none_or(|outcome| {
            outcome.result.is_err() && outcome.at.elapsed() < self.failure_ttl
        });
        answers.then(|| handle.clone())
    }

    pub(crate) fn started(&mut self, handle: &BuildHandle) {
        self.builds.push_front(handle.clone());
        self.latest.insert(handle.target().clone(), handle.clone());
        self.trim();
    }

    /// Of look-ups that found the whole image cached only the last is kept, and none that nobody asked
    /// for, or they would push out the builds people look for.
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

    /// Forgets the oldest that have ended.
    fn trim(&mut self) {
        // A refresh has no place before it is known to have changed something.
        let placeless = |build: &&BuildHandle| build.is_refresh() && build.outcome().is_none();
        let placeless = self.builds.iter().filter(placeless).count();
        let places = self.max.max(1).saturating_add(placeless);
        let mut excess = self.builds.len().saturating_sub(places);
        let mut at = self.builds.len();
        while excess > 0 && at > 0 {
            at -= 1;
            if self.builds[at].outcome().is_none() {
                continue;
            }
            excess -= 1;
            if let Some(old) = self.builds.remove(at) {
                self.forget(&old);
            }
        }
    }

    /// Lets no request join the build.
    fn forget(&mut self, build: &BuildHandle) {
        let latest = self.latest.get(build.target());
        if latest.is_some_and(|latest| latest.id() == build.id()) {
            self.latest.remove(build.target());
        }
    }
}

fn from_cache(handle: &BuildHandle) -> bool {
    handle
        .outcome()
        .is_some_and(|outcome| outcome.result.is_ok_and(|image| image.stats.from_cache))
}
