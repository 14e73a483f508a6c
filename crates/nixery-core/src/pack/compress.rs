//! The compressors of a layer, with every setting that shows in the output pinned.

use std::io::{self, Write};

use flate2::GzBuilder;
use flate2::write::GzEncoder;
use nixery_manifest::Compression;

/// zlib's own default, and what image builders use: higher levels take several times as long for
/// a few percent.
const GZIP_LEVEL: u32 = 6;

/// "Unknown operating system" (RFC 1952, section 2.3.1): the output must not tell hosts apart.
const GZIP_OS_UNKNOWN: u8 = 255;

/// zstd's own default level.
const ZSTD_LEVEL: i32 = 3;

/// Compresses what is written to it into `W`.
///
/// The output is a function of the input *and of how it is cut into `write` calls*, so give it
/// whole [blocks](super::blocks::Blocks). Never reuse the state of a finished encoder for another
/// layer: zlib-rs may then look at what the last stream left in its window (its issue 459).
pub(super) struct Encoder<W: Write>(Algorithm<W>);

enum Algorithm<W: Write> {
    Gzip(Box<GzEncoder<W>>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    pub(super) fn new(compression: Compression, out: W) -> io::Result<Self> {
        Ok(Self(match compression {
            Compression::Gzip => Algorithm::Gzip(Box::new(
                GzBuilder::new()
                    .mtime(0)
                    .operating_system(GZIP_OS_UNKNOWN)
                    .write(out, flate2::Compression::new(GZIP_LEVEL)),
            )),
            // On the calling thread, no checksum (the digest is one), no content size (unknown).
            Compression::Zstd => {
                Algorithm::Zstd(zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?)
            }
        }))
    }

    /// Ends the compressed stream.
    pub(super) fn finish(self) -> io::Result<W> {
        match self.0 {
            Algorithm::Gzip(encoder) => encoder.finish(),
            Algorithm::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Algorithm::Gzip(encoder) => encoder.write(bytes),
            Algorithm::Zstd(encoder) => encoder.write(bytes),
        }
    }

    /// Does nothing: a flush in the middle of a stream would change the output.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn compress(compression: Compression, input: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new(compression, Vec::new()).expect("an encoder");
        encoder.write_all(input).expect("a write to memory");
        encoder.flush().expect("a flush that does nothing");
        encoder.finish().expect("the end of the stream")
    }

    #[test]
    fn the_gzip_header_tells_nothing_about_the_host() {
        let packed = compress(Compression::Gzip, b"hello");
        // Magic, deflate, no flags (so no name), mtime 0, no level hint, unknown system.
        assert_eq!(packed[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&packed[..])
            .read_to_end(&mut unpacked)
            .expect("gzip");
        assert_eq!(unpacked, b"hello");
    }

    #[test]
    fn a_zstd_frame_has_no_checksum_and_no_content_size() {
        let packed = compress(Compression::Zstd, b"hello");
        assert_eq!(packed[..4], [0x28, 0xb5, 0x2f, 0xfd]);
        // Frame header descriptor (RFC 8878, section 3.1.1.1.1): every flag off.
        assert_eq!(packed[4], 0);
        assert_eq!(zstd::decode_all(&packed[..]).expect("zstd"), b"hello");
    }
}
