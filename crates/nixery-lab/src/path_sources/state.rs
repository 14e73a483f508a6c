//! Interrupting and going on.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::reference_sink::ReferenceSink;

use super::PathSourceError;

/// How much work an interruption may cost.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// A file that holds what was gathered so far. Replaced whole, so an interruption never spoils it.
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

    /// What was gathered so far; nothing where there is no file.
    ///
    /// # Errors
    /// The file cannot be read or is something else.
    pub fn load<S: ReferenceSink>(&self) -> Result<S, PathSourceError> {
        match fs::read(&self.path) {
            Ok(bytes) => S::from_state(&bytes).map_err(|source| PathSourceError::State {
                path: self.path.clone(),
                source,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(S::default()),
            Err(source) => Err(PathSourceError::Read {
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// Writes what was gathered.
    ///
    /// # Errors
    /// The file cannot be written; an older state is still there.
    pub fn save(&mut self, sink: &impl ReferenceSink) -> Result<(), PathSourceError> {
        let parent = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let write = || {
            let mut file = tempfile::Builder::new()
                .prefix(".nixery-")
                .tempfile_in(parent)?;
            file.write_all(&sink.to_state())?;
            file.as_file().sync_all()?;
            file.persist(&self.path).map_err(|error| error.error)
        };
        write().map_err(|source| PathSourceError::WriteState {
            path: self.path.clone(),
            source,
        })?;
        self.saved = Instant::now();
        Ok(())
    }

    /// [`Self::save`] where the last one was some seconds ago.
    ///
    /// # Errors
    /// The same.
    pub fn save_if_due(&mut self, sink: &impl ReferenceSink) -> Result<(), PathSourceError> {
        if self.saved.elapsed() >= SAVE_EVERY {
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
    fn a_count_goes_on_where_it_stopped() {
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
        assert!(
            error.to_string().contains("delete it to start anew"),
            "{error}"
        );
    }
}
