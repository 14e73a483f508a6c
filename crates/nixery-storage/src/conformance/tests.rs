use futures::StreamExt;
use futures::stream::BoxStream;

use super::*;
use crate::{BlobReader, MemoryStorage, Stat, StorageError};

#[tokio::test]
async fn exceptions_are_reported_and_not_run() {
    let storage = MemoryStorage::new();
    let report = Run::new(&storage)
        .except("one_creator_wins", "a reason")
        .run()
        .await;
    assert_eq!(
        report.not_run,
        [("one_creator_wins", "a reason".to_owned())]
    );
    assert_eq!(report.kept.len() + 1, CONTRACTS.len());
    assert!(!report.kept.contains(&"one_creator_wins"));
}

#[test]
#[should_panic(expected = "there is no contract named one_creator_win")]
fn an_exception_names_a_contract_that_exists() {
    let storage = MemoryStorage::new();
    let _ = Run::new(&storage).except("one_creator_win", "a misspelling");
}

/// A store that yields objects in one chunk.
#[derive(Debug)]
struct OneChunk(MemoryStorage);

#[async_trait::async_trait]
impl Storage for OneChunk {
    fn backend(&self) -> &'static str {
        "one-chunk"
    }
    async fn put_file(&self, key: &Key, spool: &std::path::Path) -> Result<(), StorageError> {
        self.0.put_file(key, spool).await
    }
    async fn put(
        &self,
        key: &Key,
        bytes: Bytes,
        mode: PutMode,
    ) -> Result<PutOutcome, StorageError> {
        self.0.put(key, bytes, mode).await
    }
    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<Option<BlobReader>, StorageError> {
        let Some(reader) = self.0.get(key, range).await? else {
            return Ok(None);
        };
        let (stat, range) = (reader.stat, reader.range);
        let bytes = reader.bytes().await?;
        let chunk = (!bytes.is_empty()).then_some(Ok(bytes));
        let body = futures::stream::iter(chunk).boxed();
        Ok(Some(BlobReader { stat, range, body }))
    }
    async fn stat(&self, key: &Key) -> Result<Option<Stat>, StorageError> {
        self.0.stat(key).await
    }
    async fn list(
        &self,
        folder: Folder,
    ) -> Result<BoxStream<'static, Result<Entry, StorageError>>, StorageError> {
        self.0.list(folder).await
    }
    async fn delete(&self, key: &Key) -> Result<bool, StorageError> {
        self.0.delete(key).await
    }
    async fn check(&self) -> Result<(), StorageError> {
        self.0.check().await
    }
}

#[tokio::test]
#[should_panic(
    expected = "the one-chunk store breaks the contract bodies_come_in_bounded_chunks: \
                a chunk of 6000028 bytes, where 1 to 1048576 are allowed"
)]
async fn a_broken_contract_is_named() {
    all(&OneChunk(MemoryStorage::new())).await;
}
