//! Blob storage for container images: the [`Storage`] trait, its backends, and the suite of
//! contracts that every backend keeps.
//!
//! ```
//! use bytes::Bytes;
//! use nixery_manifest::Digest;
//! use nixery_storage::{BLOBS, ByteRange, FilesystemStorage, Key, PutMode, Storage};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let directory = tempfile::tempdir()?;
//! let storage = FilesystemStorage::open(directory.path())?;
//!
//! // A blob is compressed into a spool file while it is hashed, then stored under its digest.
//! let spool = directory.path().join("spool");
//! std::fs::write(&spool, "a layer")?;
//! let key = Key::blob(Digest::of(b"a layer"));
//! storage.put_file(&key, &spool).await?;
//!
//! let range = ByteRange::new(2, 1000);
//! let reader = storage.get(&key, Some(range)).await?.expect("just stored");
//! assert_eq!((reader.stat.size, reader.range), (7, ByteRange::new(2, 7)));
//! assert_eq!(reader.bytes().await?, "layer");
//!
//! // Later: is everything still what it says it is?
//! let report = nixery_storage::verify::verify(&storage, &[BLOBS], &Default::default(), |_| ()).await?;
//! assert!(report.is_sound());
//! # Ok(())
//! # }
//! ```
//!
//! Backends: [`FilesystemStorage`], [`MemoryStorage`], and behind the features `s3` and `gcs`, both on
//! by default, `S3Storage` and `GcsStorage`. The remote ones repeat what fails on the way, take up
//! a broken read where it broke (never mixing two states of an object), upload a spool file
//! without holding it in memory, and look at its size afterwards. Their `check` says in words what
//! to mend. [`can_create_exclusively`] tells whether leases can stand on a store.
//!
//! Layout, the same in every backend and compatible with the original's buckets: `layers/<sha256>`
//! holds every blob, `manifests/<key>` and `builds/<key>` the caches. [`Key`] owns these names.

mod backoff;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod error;
mod filesystem;
mod key;
mod memory;
#[cfg(any(feature = "s3", feature = "gcs"))]
mod remote;
mod storage;
#[cfg(feature = "tls")]
mod tls;
mod trial;
pub mod verify;

pub use backoff::Backoff;
pub use error::{Operation, StorageError, StorageErrorKind, error_chain};
pub use filesystem::FilesystemStorage;
pub use key::{BLOBS, Contents, Folder, Key};
pub use memory::MemoryStorage;
#[cfg(any(feature = "s3", feature = "gcs"))]
pub use remote::RemoteLimits;
#[cfg(feature = "gcs")]
pub use remote::{GcsConfig, GcsStorage};
#[cfg(feature = "s3")]
pub use remote::{S3Addressing, S3Config, S3Credentials, S3Storage};
pub use storage::{BlobReader, ByteRange, Entry, PutMode, PutOutcome, Stat, Storage};
#[cfg(feature = "tls")]
pub use tls::install_tls_provider;
pub use trial::can_create_exclusively;
