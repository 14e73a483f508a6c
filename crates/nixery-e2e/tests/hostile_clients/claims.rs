//! Claims about one run under load, which is too long to be repeated for each of them.

use std::fmt::Display;

/// The claims of a test: all are checked and printed before the test fails for one of them.
#[derive(Default)]
pub(crate) struct Claims {
    broken: Vec<String>,
}

impl Claims {
    /// Checks one claim; `found` is what was measured for it.
    pub(crate) fn check(&mut self, claim: &str, holds: bool, found: impl Display) {
        let verdict = if holds { "holds" } else { "BROKEN" };
        println!("{verdict:6} {claim}: {found}");
        if !holds {
            self.broken.push(format!("{claim}: {found}"));
        }
    }

    /// Ends the test.
    ///
    /// # Panics
    /// A claim is broken.
    #[track_caller]
    pub(crate) fn settle(self) {
        assert!(
            self.broken.is_empty(),
            "{} claims are broken:\n  {}",
            self.broken.len(),
            self.broken.join("\n  ")
        );
    }
}
