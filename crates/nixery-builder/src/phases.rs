//! The phases of a build, with the time that each takes.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::handle::BuildHandle;
use crate::image::Image;
use crate::progress::Phase;

/// The build's phases as they are passed through, with their times.
pub(crate) struct Phases<'a> {
    handle: &'a BuildHandle,
    immutable: bool,
    times: Mutex<Times>,
}

struct Times {
    current: Phase,
    since: Instant,
    passed: Vec<(Phase, Duration)>,
}

impl<'a> Phases<'a> {
    pub(crate) fn start(handle: &'a BuildHandle, immutable: bool) -> Self {
        Self {
            handle,
            immutable,
            times: Mutex::new(Times {
                current: Phase::Queued,
                since: Instant::now(),
                passed: Vec::new(),
            }),
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        {
            let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
            let elapsed = times.since.elapsed();
            let current = times.current;
            let mut passed = times.passed.iter_mut();
            match passed.find(|(passed, _)| *passed == current) {
                Some((_, total)) => *total += elapsed,
                None => times.passed.push((current, elapsed)),
            }
            (times.current, times.since) = (phase, Instant::now());
        }
        self.handle.update(|progress| progress.phase = phase);
    }

    pub(crate) fn finish(self, mut image: Image) -> Image {
        self.enter(Phase::Done);
        image.stats.immutable = self.immutable;
        let times = self.times.into_inner();
        image.stats.phases = times.unwrap_or_else(PoisonError::into_inner).passed;
        image
    }
}
