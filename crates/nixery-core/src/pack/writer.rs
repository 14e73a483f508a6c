//! Hashes and compresses a layer in the pass that writes it.

use std::io::{self, Write};

use nixery_manifest::{Compression, Digester};

use super::PackedLayer;
use super::compress::Encoder;

/// Takes a layer's tar, writes it compressed to `W`, and finishes into the facts about both.
pub(super) struct LayerWriter<W: Write> {
    compression: Compression,
    tar: Digester,
    encoder: Encoder<Hashed<W>>,
}

impl<W: Write> LayerWriter<W> {
    pub(super) fn new(compression: Compression, out: W) -> io::Result<Self> {
        let hashed = Hashed {
            digester: Digester::new(),
            out,
        };
        Ok(Self {
            compression,
            tar: Digester::new(),
            encoder: Encoder::new(compression, hashed)?,
        })
    }

    /// Ends the compressed stream; nothing else knows a layer's digests and sizes.
    pub(super) fn finish(self) -> io::Result<(PackedLayer, W)> {
        let mut compressed = self.encoder.finish()?;
        compressed.out.flush()?;
        let layer = PackedLayer {
            size: compressed.digester.bytes(),
            digest: compressed.digester.finish(),
            tar_size: self.tar.bytes(),
            diff_id: self.tar.finish(),
            compression: self.compression,
        };
        Ok((layer, compressed.out))
    }
}

impl<W: Write> Write for LayerWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.encoder.write_all(bytes)?;
        self.tar.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}

/// Hashes what it passes on. Passes on everything or fails, so that the compressor above never
/// sees how much its writer takes at once.
struct Hashed<W> {
    digester: Digester,
    out: W,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.digester.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
