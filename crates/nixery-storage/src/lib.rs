//! Blob storage for container images: the [`Storage`] trait, its backends, and a conformance suite
//! for backends.
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
//! // A blob is written to a spool file and hashed, then stored under its digest.
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
//! // Later: does every blob still have its digest?
//! let report = nixery_storage::verify::verify(&storage, &[BLOBS], &Default::default(), |_| ()).await?;
//! assert!(report.is_sound());
//! # Ok(())
//! # }
//! ```
//!
//! # Backends and features
//!
//! [`FilesystemStorage`] and [`MemoryStorage`] are always available. `RemoteStorage` needs the
//! feature `s3` or `gcs`, which are on by default. It repeats failed requests, resumes a broken
//! read in the same state of the object, and uploads a spool file without holding it in memory. Its
//! `check` describes what is wrong and how to fix it. [`can_create_exclusively`] tests whether a
//! store supports leases.
//!
//! The feature `conformance` adds the module of that name, with which every backend is tested; the
//! example `backend` shows a backend from outside of this crate. The feature `tls` adds
//! `install_tls_provider`, for programs with HTTPS clients but without remote backends.
//!
//! # Layout
//!
//! All backends have the same layout, which is compatible with the original's buckets: an object
//! is named by a [`Folder`] and a digest, and [`BLOBS`] is the folder of all blobs. Other folders
//! are declared by the owners of their objects.

mod backoff;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod error;
mod filesystem;
mod key;
mod memory;
#[cfg(any(feature = "s3", feature = "gcs"))]
mod remote;
mod space;
mod storage;
#[cfg(feature = "tls")]
mod tls;
mod trial;
pub mod verify;

pub use backoff::Backoff;
pub use error::{Operation, StorageError, StorageErrorKind, error_causes, error_chain};
pub use filesystem::FilesystemStorage;
pub use key::{BLOBS, Contents, Folder, Key};
pub use memory::MemoryStorage;
#[cfg(feature = "gcs")]
pub use remote::GcsConfig;
#[cfg(any(feature = "s3", feature = "gcs"))]
pub use remote::{RemoteLimits, RemoteStorage};
#[cfg(feature = "s3")]
pub use remote::{S3Addressing, S3Config, S3Credentials};
pub use space::{Capacity, Space};
pub use storage::{
    BlobReader, ByteRange, Entry, ObjectIdentity, PutMode, PutOutcome, Stat, Storage,
};
#[cfg(feature = "tls")]
pub use tls::install_tls_provider;
pub use trial::can_create_exclusively;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
