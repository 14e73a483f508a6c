//! [`Run`]: tests one store against the contracts, except those that its engine cannot keep.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write as _};
use std::panic::AssertUnwindSafe;

use futures::FutureExt;

use super::{listing::*, reading::*, sharing::*, writing::*};
use crate::Storage;

/// Lists the contracts once, for their names and for running them by name.
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
    stat_reports_size_and_age(one),
    list_is_complete(one),
    list_prefix_selects(one),
    folders_are_apart(one),
    delete_deletes(one),
    concurrent_writers_agree(one, other),
    one_creator_wins(one, other),
    signing_works_or_is_declined(one),
    public_urls_name_the_object(one),
    check_passes(one),
}

/// A run of all contracts, except those that are left out for a reason.
///
/// ```
/// use nixery_storage::{MemoryStorage, conformance};
/// # #[tokio::main] async fn main() {
/// let storage = MemoryStorage::new();
/// let report = conformance::Run::new(&storage)
///     .except("check_passes", "an example needs one")
///     .run()
///     .await;
/// assert_eq!(report.to_string(), "24 contracts kept\nNOT RUN check_passes: an example needs one\n");
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

    /// Also uses `other`, another handle on the same store, for the contracts about sharing.
    pub fn with_other_handle(self, other: &'a dyn Storage) -> Self {
        Self { other, ..self }
    }

    /// Leaves out one contract, which the store's engine cannot keep.
    ///
    /// # Panics
    /// There is no contract of that name. So an exception does not outlive a renaming.
    pub fn except(mut self, contract: &str, reason: impl Into<String>) -> Self {
        let known = CONTRACTS.iter().find(|name| **name == contract);
        assert!(known.is_some(), "there is no contract named {contract}");
        self.exceptions
            .extend(known.map(|known| (*known, reason.into())));
        self
    }

    /// Runs the contracts one after another, and prints those left out to standard error.
    ///
    /// # Panics
    /// The store breaks a contract. The message names it and describes the failure.
    pub async fn run(self) -> Report {
        let mut report = Report::default();
        for name in CONTRACTS {
            if let Some(reason) = self.exceptions.get(name) {
                let backend = self.one.backend();
                // Not with `eprintln`, whose output the test harness shows for failed tests only.
                let _ = writeln!(io::stderr(), "NOT RUN {name} ({backend}): {reason}");
                report.not_run.push((name, reason.clone()));
            } else {
                let run = AssertUnwindSafe(self.contract(name)).catch_unwind();
                let broken = run.await.err().map(|panic| message(&*panic));
                assert!(
                    broken.is_none(),
                    "the {} store breaks the contract {name}: {}",
                    self.one.backend(),
                    broken.unwrap_or_default()
                );
                report.kept.push(name);
            }
        }
        report
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked".to_owned())
}

/// The result of a [`Run`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The contracts that were run; the store keeps them.
    pub kept: Vec<&'static str>,
    /// The contracts that were left out, each with its reason.
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
