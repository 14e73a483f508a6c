//! The file of a plan: its text, compressed with zstd. The file of 9,300 names has some 57 kB.

use std::io::{Read, Write};

use super::{ClusterPlan, ClusterPlanError};

/// The most bytes of a plan's file. That of a large package set has less than 2 MB.
pub const MAX_FILE_BYTES: usize = 16 << 20;
/// The most bytes of a plan's text.
pub(super) const MAX_TEXT_BYTES: usize = 64 << 20;

/// A plan is written once and read often, and this level takes well under a second.
const LEVEL: i32 = 19;

impl ClusterPlan {
    /// Reads a plan's file.
    ///
    /// # Errors
    /// The file is not a plan, damaged, of another version, too large, or has further bytes after
    /// its end; or [`ClusterPlan::new`] refuses its content.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ClusterPlanError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(ClusterPlanError::TooLarge);
        }
        let text = decompress(bytes)?;
        let text = std::str::from_utf8(&text).map_err(|_| ClusterPlanError::NotAPlan)?;
        Self::from_text(text)
    }

    /// Returns the plan as a file. Equal plans give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let text = self.to_text();
        let compress = || {
            let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
            // A known size keeps zstd's tables small.
            encoder.set_pledged_src_size(Some(text.len() as u64))?;
            encoder.include_checksum(true)?;
            encoder.write_all(text.as_bytes())?;
            encoder.finish()
        };
        compress().expect("zstd compresses from memory to memory")
    }
}

/// The one frame that a file is.
fn decompress(bytes: &[u8]) -> Result<Vec<u8>, ClusterPlanError> {
    let mut decoder = zstd::Decoder::with_buffer(bytes)
        .map_err(ClusterPlanError::Damaged)?
        .single_frame();
    let mut text = Vec::new();
    (&mut decoder)
        .take(MAX_TEXT_BYTES as u64 + 1)
        .read_to_end(&mut text)
        .map_err(ClusterPlanError::Damaged)?;
    if text.len() > MAX_TEXT_BYTES {
        return Err(ClusterPlanError::TooLarge);
    }
    match decoder.finish().len() {
        0 => Ok(text),
        bytes => Err(ClusterPlanError::Trailing { bytes }),
    }
}
