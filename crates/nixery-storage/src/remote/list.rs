//! Listing folders.

use futures::stream::{BoxStream, StreamExt};

use super::{Remote, read};
use crate::{Entry, Key, KeyKind, Operation, StorageError};

impl Remote {
    /// Page by page, each asked for again when it does not arrive whole.
    pub(super) async fn list(
        &self,
        kind: KeyKind,
    ) -> Result<BoxStream<'static, Result<Entry, StorageError>>, StorageError> {
        let call = self.call(Operation::List, kind);
        let folder = format!("{}/", kind.folder());
        let lister = call
            .operator
            .lister(&folder)
            .await
            .map_err(|error| call.error(&error))?;
        let entries = lister.filter_map(move |entry| {
            let entry = match entry {
                // Some stores keep an object that stands for the folder.
                Ok(entry) if entry.path() == folder || entry.path() == "/" => None,
                Ok(entry) => Some(Ok(to_entry(&entry, kind))),
                Err(error) => Some(Err(call.error(&error))),
            };
            std::future::ready(entry)
        });
        Ok(entries.boxed())
    }
}

fn to_entry(entry: &opendal::Entry, kind: KeyKind) -> Entry {
    // A name with a slash is a folder within the folder, which no Nixery makes.
    let path = entry.path().trim_end_matches('/').to_owned();
    let name = path
        .strip_prefix(kind.folder())
        .and_then(|rest| rest.strip_prefix('/'));
    let key = name
        .filter(|_| entry.metadata().is_file())
        .and_then(|name| Key::from_name(kind, name));
    Entry {
        key,
        stat: read::stat(entry.metadata()),
        path,
    }
}
