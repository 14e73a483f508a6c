//! The compression of a layer's bytes.

use std::fmt;

use nixery_manifest::Compression;
use serde::Serialize;

/// The compression of a layer: its media type and the form of the stream.
///
/// All forms cut the tar into blocks of 1 MiB and compress each on its own. So several threads can
/// work on one layer, and the bytes do not depend on their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Codec {
    /// gzip, a member per block (libdeflate, level 4): several members one after another are a
    /// gzip file (RFC 1952, section 2.2), and what eStargz layers consist of.
    #[default]
    Gzip,
    /// gzip of one member, whose deflate stream is flushed after each block (zlib-rs, level 5):
    /// for readers that stop after the first member. Takes 1.5 times as long.
    GzipSingle,
    /// A zstd frame per block (level 3); several frames one after another are one stream (RFC
    /// 8878, section 3).
    Zstd,
}

impl Codec {
    /// The compression in media types.
    pub fn compression(self) -> Compression {
        match self {
            Self::Gzip | Self::GzipSingle => Compression::Gzip,
            Self::Zstd => Compression::Zstd,
        }
    }
}

impl From<Compression> for Codec {
    /// The default form of a compression.
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::Gzip => Self::Gzip,
            Compression::Zstd => Self::Zstd,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::GzipSingle => "gzip-single",
            Self::Zstd => "zstd",
        })
    }
}
