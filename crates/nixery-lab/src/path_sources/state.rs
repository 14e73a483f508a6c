//! The state of a run that may be interrupted and continued.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use super::PathSourceError;
use crate::reference_sink::ReferenceSink;

/// Limit of the work that an interruption loses.
const SAVE_INTERVAL: Duration = Duration::from_secs(10);

/// A file with the state of a [`ReferenceSink`]. It is replaced as a whole, so that an interruption
/// never damages it.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    saved: Instant,
}

impl StateFile {
    /// The state at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            saved: Instant::now(),
        }
    }

    /// Loads the state; it is empty if there is no file.
    ///
    /// # Errors
    /// The file cannot be read or has other contents.
    pub fn load<S: ReferenceSink>(&self) -> Result<S, PathSourceError> {
        let bytes = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(S::default()),
            bytes => bytes.map_err(PathSourceError::io("read", &self.path))?,
        };
        S::from_state(&bytes).map_err(|source| PathSourceError::malformed(&self.path, source))
    }

    /// Saves the state.
    ///
    /// # Errors
    /// The file cannot be written; an older state stays.
    pub fn save(&mut self, sink: &impl ReferenceSink) -> Result<(), PathSourceError> {
        let parent = self.path.parent();
        let parent = parent.filter(|parent| !parent.as_os_str().is_empty());
        let write = || {
            let mut file =
                NamedTempFile::with_prefix_in(".nixery-", parent.unwrap_or(Path::new(".")))?;
            file.write_all(&sink.to_state())?;
            file.as_file().sync_all()?;
            file.persist(&self.path).map_err(|error| error.error)
        };
        write().map_err(PathSourceError::io("write the state to", &self.path))?;
        self.saved = Instant::now();
        Ok(())
    }

    /// Saves the state if the last time was some seconds ago.
    ///
    /// # Errors
    /// Those of [`Self::save`].
    pub fn save_if_due(&mut self, sink: &impl ReferenceSink) -> Result<(), PathSourceError> {
        if self.saved.elapsed() >= SAVE_INTERVAL {
            self.save(sink)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::popularity::PopularityCounter;

    #[test]
    fn a_count_continues_where_it_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut state = StateFile::new(&path);
        let mut counter: PopularityCounter = state.load().expect("no file is an empty count");
        counter
            .add_narinfo(
                "StorePath: /nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-hello-2.12\n\
                 References: 00bgd045z0d4icpbc2yyz4gx48ak44la-glibc-2.38\n",
            )
            .expect("a narinfo");
        state.save_if_due(&counter).expect("not due");
        assert!(!path.exists());
        state.save(&counter).expect("save");
        let again: PopularityCounter = StateFile::new(&path).load().expect("load");
        assert_eq!(again.to_state(), counter.to_state());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

        fs::write(&path, "[]").unwrap();
        let error = state.load::<PopularityCounter>().expect_err("not a state");
        let message = nixery_storage::error_chain(&error);
        assert!(
            message.contains("Fix: delete it to start again"),
            "{message}"
        );
    }
}
