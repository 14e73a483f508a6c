//! The progress of a build: its id, its phase and its counters.

use std::fmt;
use std::str::FromStr;

use nixery_nix::ClosureStep;

/// What a build is doing. The phases are in their usual order; a cached image skips most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The build waits for other builds, or looks for the image in the store.
    #[default]
    Queued,
    /// The build waits for another server on the same store that makes the image.
    Waiting,
    /// The repository of the package set is fetched.
    Fetch,
    /// Nix evaluates the packages to derivations.
    Evaluate,
    /// Nix builds or substitutes them.
    Realise,
    /// The reference graph is read.
    Graph,
    /// Store paths are grouped into layers.
    Plan,
    /// Layers are packed, and stored meanwhile.
    Pack,
    /// Config and manifests are written.
    Assemble,
    /// The last layers and the documents are stored.
    Store,
    /// The image is in the store.
    Done,
    /// The build failed.
    Failed,
}

impl Phase {
    /// Returns the phase as one lower-case word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Waiting => "waiting",
            Self::Fetch => "fetch",
            Self::Evaluate => "evaluate",
            Self::Realise => "realise",
            Self::Graph => "graph",
            Self::Plan => "plan",
            Self::Pack => "pack",
            Self::Assemble => "assemble",
            Self::Store => "store",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// Returns what a build does in this phase, in plain words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Waiting => "waiting for another server that builds the image",
            Self::Fetch => "fetching the package source",
            Self::Evaluate => "evaluating the Nix code of the packages",
            Self::Realise => "building the packages",
            Self::Graph => "reading the dependencies of the packages",
            Self::Plan => "planning layers",
            Self::Pack => "packing layers",
            Self::Assemble => "writing the manifests",
            Self::Store => "storing layers",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

impl Phase {
    /// Returns the setting that limits how long the phase may take, if there is one.
    pub(crate) const fn time_limit(self) -> Option<&'static str> {
        match self {
            Self::Fetch | Self::Evaluate => Some("NIXERY_EVAL_TIMEOUT"),
            Self::Realise => Some("NIX_TIMEOUT"),
            _ => None,
        }
    }
}

impl From<ClosureStep> for Phase {
    fn from(step: ClosureStep) -> Self {
        match step {
            ClosureStep::Evaluate => Self::Evaluate,
            ClosureStep::Realise => Self::Realise,
            ClosureStep::Graph => Self::Graph,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The state of a running build, for progress bars and pages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What the build is doing.
    pub phase: Phase,
    /// Layers of the image; 0 before they are planned.
    pub layers_total: usize,
    /// Layers that are in the blob store.
    pub layers_done: usize,
    /// NAR bytes of all layers; 0 before they are planned.
    pub bytes_total: u64,
    /// NAR bytes of the layers that are in the blob store.
    pub bytes_done: u64,
    /// The last line of Nix's output.
    pub log_line: Option<String>,
}

/// The id of a build of this process, for URLs: 16 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BuildId(u64);

impl BuildId {
    /// Returns an id that is unique in this process and unlikely to occur in the next one. So a
    /// link from before a restart does not show the log of another build.
    pub(crate) fn fresh() -> Self {
        use std::hash::{BuildHasher, RandomState};
        use std::sync::LazyLock;
        use std::sync::atomic::{AtomicU32, Ordering};

        static PROCESS: LazyLock<u64> =
            LazyLock::new(|| RandomState::new().hash_one("nixery") << 32);
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Self(*PROCESS | u64::from(NEXT.fetch_add(1, Ordering::Relaxed)))
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for BuildId {
    type Err = BuildIdError;

    fn from_str(text: &str) -> Result<Self, BuildIdError> {
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 16 || !text.bytes().all(lower_hex) {
            return Err(BuildIdError);
        }
        u64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| BuildIdError)
    }
}

/// A text is not a build id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a build id is 16 lower-case hexadecimal digits")]
pub struct BuildIdError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_ids_are_distinct_and_round_trip() {
        let (first, second) = (BuildId::fresh(), BuildId::fresh());
        assert_ne!(first, second);
        assert_eq!(first.to_string().parse(), Ok(first));
        for wrong in [
            "",
            "1",
            "../../etc/passwd1",
            "00000000000000AA",
            "+000000000000001",
        ] {
            assert_eq!(wrong.parse::<BuildId>(), Err(BuildIdError), "{wrong}");
        }
    }
}
