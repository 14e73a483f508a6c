//! Uploading a file as the body of one request.

use std::path::Path;

use bytes::Bytes;
use opendal::Buffer;

use super::Remote;
use super::call::Patience;
use super::transport::Media;
use super::write::Failure;
use crate::{Key, Operation};

impl Remote {
    /// opendal builds the request around a placeholder, the transport sends the file for it.
    pub(super) async fn upload_in_one_request(
        &self,
        key: &Key,
        spool: &Path,
        size: u64,
    ) -> Result<(), Failure> {
        let media = Media {
            content_type: Some(key.content_type()),
            file: Some((spool.to_owned(), size)),
        };
        let call = self.call_with(Operation::Write, key, Patience::Full, media);
        let placeholder = Buffer::from(Bytes::from_static(b"-"));
        match call.operator.write(&key.path(), placeholder).await {
            Ok(_) => {
                self.saw_bucket();
                Ok(())
            }
            Err(error) => Err(Failure::of(&call, &error, spool)),
        }
    }
}
