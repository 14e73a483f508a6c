//! The compressors of blocks, with every setting that shows in the output pinned.

use std::io;

use flate2::{Compress, Crc, FlushCompress, Status};
use libdeflater::{CompressionLvl, Compressor};

use super::blocks::BLOCK;
use crate::Codec;

/// The fastest level of libdeflate whose output is no larger than zlib's at level 6.
const GZIP_LEVEL: i32 = 4;

/// The fastest level of zlib-rs whose output, in blocks, is within half a percent of zlib's at
/// level 6.
const GZIP_SINGLE_LEVEL: u32 = 5;

/// zstd's own default level.
const ZSTD_LEVEL: i32 = 3;

/// The head of a gzip member: deflate, no flags (so no name), no time, no hint of the level,
/// unknown operating system (RFC 1952, section 2.3.1). The output must be the same on all hosts.
pub(super) const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// A deflate block that is the last one and empty (RFC 1951, section 3.2.6).
const DEFLATE_END: [u8; 2] = [0x03, 0x00];

/// More than what sync flush and stored blocks can add to a block that does not compress.
const DEFLATE_SPARE: usize = BLOCK / 64 + 1024;

/// The facts about a compressed block.
pub(super) struct Piece {
    /// How many bytes of the buffer it fills.
    pub(super) size: usize,
    /// The checksum of the block, where the stream needs one of everything.
    pub(super) crc: Option<Crc>,
}

/// The compressors of one thread. Each is made when it is first needed.
#[derive(Default)]
pub(super) struct Encoders {
    deflate: Option<Compressor>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl Encoders {
    /// Compresses a block into `out`, which grows to what any block may need and keeps its length.
    /// A function of codec and block alone.
    ///
    /// # Errors
    /// The compressor cannot be made, or fails. No block makes it fail.
    pub(super) fn encode(
        &mut self,
        codec: Codec,
        block: &[u8],
        out: &mut Vec<u8>,
    ) -> io::Result<Piece> {
        match codec {
            Codec::Gzip => self.member(block, out),
            Codec::GzipSingle => flushed(block, out),
            Codec::Zstd => self.frame(block, out),
        }
    }

    fn member(&mut self, block: &[u8], out: &mut Vec<u8>) -> io::Result<Piece> {
        let deflate = match &mut self.deflate {
            Some(deflate) => deflate,
            none => {
                let level = CompressionLvl::new(GZIP_LEVEL)
                    .map_err(|error| io::Error::other(format!("{error:?}")))?;
                none.insert(Compressor::new(level))
            }
        };
        make_room(out, deflate.gzip_compress_bound(BLOCK));
        let size = deflate
            .gzip_compress(block, out)
            .map_err(io::Error::other)?;
        // libdeflate writes the level into the head. The other form has this head, too.
        out.get_mut(..GZIP_HEAD.len())
            .ok_or_else(|| io::Error::other("a gzip member without a head"))?
            .copy_from_slice(&GZIP_HEAD);
        Ok(Piece { size, crc: None })
    }

    fn frame(&mut self, block: &[u8], out: &mut Vec<u8>) -> io::Result<Piece> {
        let zstd = match &mut self.zstd {
            Some(zstd) => zstd,
            // On the calling thread, no checksum (the digest is one), with the content's size.
            none => none.insert(zstd::bulk::Compressor::new(ZSTD_LEVEL)?),
        };
        make_room(out, zstd::zstd_safe::compress_bound(BLOCK));
        let size = zstd.compress_to_buffer(block, &mut out[..])?;
        Ok(Piece { size, crc: None })
    }
}

/// A part of a deflate stream that ends at a byte. Its state is new each time: zlib-rs may look at
/// what the last stream left in its window (its issue 459).
fn flushed(block: &[u8], out: &mut Vec<u8>) -> io::Result<Piece> {
    let mut deflate = Compress::new(flate2::Compression::new(GZIP_SINGLE_LEVEL), false);
    make_room(out, BLOCK + DEFLATE_SPARE);
    let status = deflate
        .compress(block, out, FlushCompress::Sync)
        .map_err(io::Error::other)?;
    let whole = status == Status::Ok
        && deflate.total_in() == block.len() as u64
        && deflate.total_out() < out.len() as u64;
    if !whole {
        return Err(io::Error::other("deflate did not take a whole block"));
    }
    let mut crc = Crc::new();
    crc.update(block);
    Ok(Piece {
        // It is not more than the buffer's length.
        size: deflate.total_out() as usize,
        crc: Some(crc),
    })
}

/// The end of a gzip member whose blocks had this checksum.
pub(super) fn gzip_tail(crc: &Crc) -> Vec<u8> {
    let mut tail = DEFLATE_END.to_vec();
    tail.extend(crc.sum().to_le_bytes());
    // The size modulo 2^32.
    tail.extend(crc.amount().to_le_bytes());
    tail
}

fn make_room(out: &mut Vec<u8>, size: usize) {
    if out.len() < size {
        out.resize(size, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use std::io::Read;

    /// Bytes that do not compress (a fixed generator's: constants of Knuth's MMIX), or only zeros.
    fn block(size: usize, noise: bool) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            if noise { (state >> 56) as u8 } else { 0 }
        };
        (0..size).map(|_| next()).collect()
    }

    fn stream(codec: Codec, piece: &Piece, bytes: &[u8]) -> Vec<u8> {
        match (codec, &piece.crc) {
            (Codec::GzipSingle, Some(crc)) => [&GZIP_HEAD[..], bytes, &gzip_tail(crc)].concat(),
            (_, None) => bytes.to_vec(),
            (_, Some(_)) => panic!("a checksum nobody needs"),
        }
    }

    fn decode(codec: Codec, stream: &[u8]) -> Vec<u8> {
        let mut block = Vec::new();
        match codec {
            Codec::Zstd => zstd::Decoder::new(stream)
                .expect("zstd")
                .read_to_end(&mut block),
            _ => flate2::read::GzDecoder::new(stream).read_to_end(&mut block),
        }
        .expect("the block");
        block
    }

    #[rstest]
    fn a_block_comes_back_and_used_compressors_give_the_bytes_of_new_ones(
        #[values(Codec::Gzip, Codec::GzipSingle, Codec::Zstd)] codec: Codec,
        #[values(1, 511, 65_537, BLOCK)] size: usize,
        #[values(true, false)] noise: bool,
    ) {
        let block = block(size, noise);
        let mut out = Vec::new();
        let piece = Encoders::default()
            .encode(codec, &block, &mut out)
            .expect("a new one");
        assert_eq!(
            decode(codec, &stream(codec, &piece, &out[..piece.size])),
            block
        );

        let mut used = Encoders::default();
        let mut again = Vec::new();
        for other in [self::block(BLOCK, true), self::block(BLOCK / 3, false)] {
            used.encode(codec, &other, &mut again).expect("another");
        }
        for _ in 0..2 {
            let second = used.encode(codec, &block, &mut again).expect("a used one");
            assert_eq!(again[..second.size], out[..piece.size]);
        }
    }

    #[rstest]
    fn the_gzip_header_does_not_depend_on_the_host(
        #[values(Codec::Gzip, Codec::GzipSingle)] codec: Codec,
    ) {
        let mut out = Vec::new();
        let piece = Encoders::default()
            .encode(codec, b"hello", &mut out)
            .expect("encoded");
        let stream = stream(codec, &piece, &out[..piece.size]);
        assert_eq!(stream[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    }

    #[test]
    fn a_zstd_frame_has_no_checksum_and_states_its_size() {
        let mut out = Vec::new();
        let piece = Encoders::default()
            .encode(Codec::Zstd, b"hello", &mut out)
            .expect("encoded");
        assert_eq!(out[..4], [0x28, 0xb5, 0x2f, 0xfd]);
        // Frame header descriptor (RFC 8878, section 3.1.1.1.1): one segment, its size in a byte.
        assert_eq!(out[4..6], [0b0010_0000, 5]);
        assert_eq!(piece.size, 14);
    }
}
