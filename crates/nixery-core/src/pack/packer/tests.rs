//! Threads: what fails, what is shared, what ends.

use super::*;
use crate::pack::blocks::BLOCK;
use crate::pack::encoder::Piece;
use nixery_manifest::Digest;
use rstest::rstest;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// A block that starts with this fails in [`faulty`], or panics.
const ERROR: u8 = 0xee;
const PANIC: u8 = 0xdd;

/// Bytes that compress a little (a fixed generator's: constants of Knuth's MMIX).
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 59) as u8
    };
    (0..2 * BLOCK).map(|_| next()).collect()
});

/// Gives so many blocks of [`NOISE`]; around block `at`, each byte is `mark`.
struct Contents {
    next: u64,
    end: u64,
    at: u64,
    mark: u8,
    fails: bool,
}

impl Contents {
    fn new(blocks: usize) -> Self {
        Self {
            next: 0,
            end: (blocks * BLOCK) as u64,
            at: u64::MAX,
            mark: 0,
            fails: false,
        }
    }

    fn marked(blocks: usize, at: u64, mark: u8) -> Self {
        let at = at * BLOCK as u64;
        Self {
            at,
            mark,
            ..Self::new(blocks)
        }
    }

    fn failing(blocks: usize, at: u64) -> Self {
        Self {
            fails: true,
            ..Self::marked(blocks, at, 0)
        }
    }
}

impl Read for Contents {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = buffer.len().min((self.end - self.next) as usize);
        let buffer = &mut buffer[..size];
        let (start, end) = (self.next, self.next + size as u64);
        let marked = self.at..self.at.saturating_add(BLOCK as u64);
        if marked.contains(&start) || (start..end).contains(&self.at) {
            if self.fails {
                return Err(io::Error::other("the disk is gone"));
            }
            buffer.fill(self.mark);
        } else {
            // What is asked for is never more than a block.
            let from = (start % BLOCK as u64) as usize;
            buffer.copy_from_slice(&NOISE[from..from + size]);
        }
        self.next = end;
        Ok(size)
    }
}

/// Packs one file of the contents.
fn pack<W: Write>(
    packer: &Packer,
    codec: Codec,
    contents: Contents,
    out: W,
) -> Result<(PackedLayer, W), PackError> {
    packer.pack(codec, out, |tar| {
        let size = contents.end;
        tar.file(b"file", 0o444, size, contents)
            .map_err(|error| walk::failed("/file".as_ref(), error))
    })
}

/// Ends the test if `work` does not end: nothing here takes longer than seconds.
fn within_a_minute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let worker = thread::spawn(move || sender.send(work()));
    let result = receiver.recv_timeout(Duration::from_secs(60));
    match result {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("packing hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(worker.join().expect_err("it sent nothing"))
        }
    }
}

/// After whatever happened, nothing is in use and the packer packs.
fn is_whole(packer: &Packer) {
    let quiet = Instant::now() + Duration::from_secs(30);
    while !packer.pool.is_quiet() {
        assert!(Instant::now() < quiet, "something is left: {packer:?}");
        thread::yield_now();
    }
    let (layer, bytes) =
        pack(packer, Codec::Gzip, Contents::new(9), Vec::new()).expect("a layer afterwards");
    assert_eq!(layer.digest, Digest::of(&bytes));
    assert_eq!(
        layer,
        pack(&Packer::new(1), Codec::Gzip, Contents::new(9), io::sink())
            .expect("a layer")
            .0
    );
}

fn faulty(
    encoders: &mut Encoders,
    codec: Codec,
    block: &[u8],
    out: &mut Vec<u8>,
) -> io::Result<Piece> {
    match block.get(BLOCK - 1) {
        Some(&ERROR) => Err(io::Error::other("the compressor is out of order")),
        Some(&PANIC) => panic!("a defect"),
        _ => encoders.encode(codec, block, out),
    }
}

#[rstest]
fn a_compressor_that_fails_or_panics_is_an_error(
    #[values(1, 2, 3, 8)] threads: usize,
    #[values(0, 12)] block: u64,
    #[values((ERROR, "out of order"), (PANIC, "panicked: a defect"))] fault: (u8, &'static str),
) {
    within_a_minute(move || {
        let packer = Packer::with_encoder(threads, faulty);
        let contents = Contents::marked(13, block, fault.0);
        let error = pack(&packer, Codec::Gzip, contents, io::sink()).expect_err("a fault");
        let PackError::Compress { source } = error else {
            panic!("another error: {error}");
        };
        assert!(source.to_string().contains(fault.1), "{source}");
        is_whole(&packer);
    });
}

/// Takes so many bytes, then fails or panics.
struct Bad(usize, bool);

impl Write for Bad {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(self.0 > 0 || !self.1, "the writer panics");
        if self.0 == 0 {
            return Err(io::Error::other("no space left"));
        }
        let size = bytes.len().min(self.0);
        self.0 -= size;
        Ok(size)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[rstest]
fn a_full_disk_stops_at_once(
    #[values(1, 2, 3, 8)] threads: usize,
    #[values(0, 1_000_000)] room: usize,
    #[values(Codec::Gzip, Codec::GzipSingle, Codec::Zstd)] codec: Codec,
) {
    within_a_minute(move || {
        let packer = Packer::new(threads);
        // Petabytes: it would never end.
        let contents = Contents::new(1 << 32);
        let Err(error) = pack(&packer, codec, contents, Bad(room, false)) else {
            panic!("it cannot fit");
        };
        assert!(matches!(error, PackError::Write { .. }), "{error}");
        is_whole(&packer);
    });
}

#[rstest]
fn a_writer_that_panics_leaves_the_packer_whole(#[values(1, 2, 3)] threads: usize) {
    within_a_minute(move || {
        let packer = Packer::new(threads);
        let packing = AssertUnwindSafe(|| {
            pack(&packer, Codec::Zstd, Contents::new(20), Bad(100_000, true)).is_ok()
        });
        assert!(catch_unwind(packing).is_err());
        is_whole(&packer);
    });
}

#[rstest]
fn a_file_that_cannot_be_read_or_ends_early_stops_at_once(
    #[values(1, 2, 3, 8)] threads: usize,
    #[values(0, 1, 30)] block: u64,
) {
    within_a_minute(move || {
        let packer = Packer::new(threads);
        let contents = Contents::failing(1 << 20, block);
        let error = pack(&packer, Codec::Gzip, contents, io::sink()).expect_err("unreadable");
        assert!(
            matches!(
                error,
                PackError::Unreadable {
                    action: "read the file",
                    ..
                }
            ),
            "{error}"
        );

        let shorter = Contents::new(block as usize);
        let changed = packer.pack(Codec::Gzip, io::sink(), |tar| {
            tar.file(b"file", 0o444, 1 << 40, shorter)
                .map_err(|error| walk::failed("/file".as_ref(), error))
        });
        let error = changed.expect_err("too short");
        assert!(matches!(error, PackError::Changed { .. }), "{error}");
        is_whole(&packer);
    });
}

fn only_by_callers(
    encoders: &mut Encoders,
    codec: Codec,
    block: &[u8],
    out: &mut Vec<u8>,
) -> io::Result<Piece> {
    let name = thread::current().name().map(str::to_owned);
    if name.is_some_and(|name| name.starts_with("pack-")) {
        return Err(io::Error::other("a second thread"));
    }
    encoders.encode(codec, block, out)
}

#[rstest]
fn one_thread_is_the_one_that_calls(#[values(0, 1)] threads: usize) {
    let packer = Packer::with_encoder(threads, only_by_callers);
    pack(&packer, Codec::Zstd, Contents::new(20), io::sink()).expect("a layer");
    assert_eq!(packer.pool.peak(), (1, 1), "seats and blocks");
}

static HELPED: AtomicBool = AtomicBool::new(false);

/// The caller does not go on before a helper has done something.
fn not_alone(
    encoders: &mut Encoders,
    codec: Codec,
    block: &[u8],
    out: &mut Vec<u8>,
) -> io::Result<Piece> {
    if thread::current().name() == Some("pack-1") {
        HELPED.store(true, Ordering::Release);
    }
    let patience = Instant::now() + Duration::from_secs(30);
    while !HELPED.load(Ordering::Acquire) {
        if Instant::now() > patience {
            return Err(io::Error::other("no help came"));
        }
        thread::yield_now();
    }
    encoders.encode(codec, block, out)
}

#[test]
fn one_large_layer_is_packed_by_two_threads() {
    within_a_minute(|| {
        let packer = Packer::with_encoder(2, not_alone);
        pack(&packer, Codec::Zstd, Contents::new(10), io::sink()).expect("a layer");
    });
}

static AT_WORK: AtomicUsize = AtomicUsize::new(0);

fn at_most_two(
    encoders: &mut Encoders,
    codec: Codec,
    block: &[u8],
    out: &mut Vec<u8>,
) -> io::Result<Piece> {
    let others = AT_WORK.fetch_add(1, Ordering::AcqRel);
    let piece = encoders.encode(codec, block, out);
    AT_WORK.fetch_sub(1, Ordering::AcqRel);
    if others >= 2 {
        return Err(io::Error::other("a third thread"));
    }
    piece
}

#[test]
fn many_layers_at_once_share_threads_and_buffers() {
    within_a_minute(|| {
        let packer = Packer::with_encoder(2, at_most_two);
        let layers: Vec<PackedLayer> = thread::scope(|scope| {
            let callers: Vec<_> = (0..12)
                .map(|_| {
                    scope.spawn(|| {
                        pack(&packer, Codec::Zstd, Contents::new(8), io::sink()).expect("a layer")
                    })
                })
                .collect();
            callers
                .into_iter()
                .map(|caller| caller.join().expect("no panic").0)
                .collect()
        });
        assert!(layers.iter().all(|layer| *layer == layers[0]));
        let (seats, blocks) = packer.pool.peak();
        assert!(seats <= 2, "{seats} at work");
        assert!(blocks <= 6 + 2, "{blocks} blocks");
        is_whole(&packer);
    });
}

/// The gzip form of many blocks: one member, or one for each.
#[rstest]
#[case::members(Codec::Gzip, 4)]
#[case::single(Codec::GzipSingle, 1)]
fn gzip_forms(#[case] codec: Codec, #[case] members: usize) {
    let (layer, bytes) =
        pack(&Packer::new(2), codec, Contents::new(3), Vec::new()).expect("a layer");
    let mut rest = &bytes[..];
    let (mut found, mut size) = (0, 0);
    while !rest.is_empty() {
        let mut member = flate2::bufread::GzDecoder::new(rest);
        size += io::copy(&mut member, &mut io::sink()).expect("a member");
        rest = member.into_inner();
        found += 1;
    }
    assert_eq!((found, size), (members, layer.tar_size));
}
