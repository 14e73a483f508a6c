//! Settings that several commands read.

use std::sync::Arc;

use anyhow::Result;
use nixery_config::{Arguments, ConfigErrors, NixSettings, StorageSettings, setup};
use nixery_core::PackageSource;
use nixery_storage::Storage;

use crate::output;

/// Where packages come from, and how Nix builds them.
#[derive(Default, clap::Args)]
pub(crate) struct PackageArgs {
    #[command(flatten)]
    pub(crate) source: Arguments<PackageSource>,
    #[command(flatten)]
    nix: Arguments<NixSettings>,
}

impl PackageArgs {
    /// Checks the settings.
    ///
    /// # Errors
    /// Every setting that is invalid.
    pub(crate) fn settings(&self) -> Result<(PackageSource, NixSettings), ConfigErrors> {
        ConfigErrors::both(self.source.settings(), self.nix.settings())
    }
}

/// Opens a blob store that exists, and warns of settings that have no effect.
///
/// # Errors
/// A setting is invalid, or there is no usable store.
pub(crate) fn existing_storage(
    arguments: &Arguments<StorageSettings>,
) -> Result<(StorageSettings, Arc<dyn Storage>)> {
    let settings = arguments.settings()?;
    output::warn(&settings.ignored);
    let storage = setup::existing_storage(&settings)?;
    Ok((settings, storage))
}
