//! [`Run`]: the contracts against one store, without those that its engine cannot keep.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write as _};

use super::{
    bodies_come_in_bounded_chunks, check_passes, concurrent_writers_agree, delete_deletes,
    empty_objects, folders_are_apart, get_bytes_keeps_its_limit, large_files_roundtrip,
    list_is_complete, missing_objects, one_creator_wins, public_urls_name_the_object,
    put_create_new_never_replaces, put_file_is_idempotent, put_file_replaces_another_size,
    put_file_roundtrip, put_file_without_spool_stores_nothing, put_replace_replaces, put_roundtrip,
    ranges_are_exact, readers_survive_replacement, signing_works_or_is_declined,
    stat_tells_size_and_age, unsatisfiable_ranges_are_refused,
};
use crate::Storage;

/// Lists the contracts once, for their names and for running them.
macro_rules! contracts {
    ($($contract:ident ( $($handle:ident),+ ),)+) => {
        /// The names of all contracts, in the order in which they run.
        pub const CONTRACTS: &[&str] = &[$(stringify!($contract)),+];

        impl Run<'_> {
            async fn contract(&self, name: &str) {
                match name {
                    $(stringify!($contract) => $contract($(self.$handle),+).await,)+
                    _ => unreachable!("names come from the list"),
                }
            }
        }
    };
}

contracts! {
    put_file_roundtrip(one),
    large_files_roundtrip(one),
    put_file_is_idempotent(one),
    put_file_replaces_another_size(one),
    put_file_without_spool_stores_nothing(one),
    put_roundtrip(one),
    put_replace_replaces(one),
    put_create_new_never_replaces(one),
    empty_objects(one),
    missing_objects(one),
    ranges_are_exact(one),
    unsatisfiable_ranges_are_refused(one),
    bodies_come_in_bounded_chunks(one),
    readers_survive_replacement(one),
    get_bytes_keeps_its_limit(one),
    stat_tells_size_and_age(one),
    list_is_complete(one),
    folders_are_apart(one),
    delete_deletes(one),
    concurrent_writers_agree(one, other),
    one_creator_wins(one, other),
    signing_works_or_is_declined(one),
    public_urls_name_the_object(one),
    check_passes(one),
}

/// A run of all contracts but those that are excepted, each with a reason.
///
/// ```
/// use nixery_storage::{MemoryStorage, conformance};
/// # #[tokio::main] async fn main() {
/// let storage = MemoryStorage::new();
/// let report = conformance::Run::new(&storage)
///     .except("check_passes", "an example needs one")
///     .run()
///     .await;
/// assert_eq!(report.to_string(), "23 contracts kept\nNOT RUN check_passes: an example needs one\n");
/// # }
/// ```
#[must_use = "a run starts with `run`"]
pub struct Run<'a> {
    one: &'a dyn Storage,
    other: &'a dyn Storage,
    exceptions: BTreeMap<&'static str, String>,
}

impl<'a> Run<'a> {
    /// A run of all contracts.
    pub fn new(storage: &'a dyn Storage) -> Self {
        Self {
            one: storage,
            other: storage,
            exceptions: BTreeMap::new(),
        }
    }

    /// Runs the contracts about sharing over `other` as well, another handle on the same store.
    pub fn with_other_handle(self, other: &'a dyn Storage) -> Self {
        Self { other, ..self }
    }

    /// Leaves one contract out, because the store's engine cannot keep it.
    ///
    /// # Panics
    /// When there is no contract of that name: an exception must not outlive a renaming.
    pub fn except(mut self, contract: &str, reason: impl Into<String>) -> Self {
        let known = CONTRACTS.iter().find(|name| **name == contract);
        assert!(known.is_some(), "there is no contract named {contract}");
        self.exceptions
            .extend(known.map(|known| (*known, reason.into())));
        self
    }

    /// Runs the contracts one after another, and prints each that is not run to standard error.
    ///
    /// # Panics
    /// When the store does not keep a contract, saying what was broken.
    pub async fn run(self) -> Report {
        let mut report = Report::default();
        for name in CONTRACTS {
            if let Some(reason) = self.exceptions.get(name) {
                let backend = self.one.backend();
                // Not by `eprintln`, which the test harness shows of failing tests only.
                let said = writeln!(io::stderr(), "NOT RUN {name} ({backend}): {reason}");
                drop(said);
                report.not_run.push((name, reason.clone()));
            } else {
                self.contract(name).await;
                report.kept.push(name);
            }
        }
        report
    }
}

/// What a [`Run`] came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Contracts that were run, and so are kept.
    pub kept: Vec<&'static str>,
    /// Contracts that were not run, and why.
    pub not_run: Vec<(&'static str, String)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} contracts kept", self.kept.len())?;
        for (name, reason) in &self.not_run {
            writeln!(f, "NOT RUN {name}: {reason}")?;
        }
        Ok(())
    }
}
