//! The stages of packing a layer, on the thread that packs it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use flate2::Crc;
use nixery_manifest::Digester;

use super::blocks::{Block, BlockSink};
use super::encoder::{GZIP_HEAD, Piece, gzip_tail};
use super::job::{HashLane, Job, Reply, Task};
use super::pool::{Pool, Seat};
use super::{PackError, PackedLayer};
use crate::Codec;

/// Takes the blocks of a layer's tar, has them hashed and compressed, and writes the results to `W`
/// in their order.
///
/// The calling thread never waits while there is work of its layer that no thread has begun.
pub(super) struct Pipeline<W> {
    seat: Seat,
    codec: Codec,
    lane: Arc<HashLane>,
    sender: Sender<Reply>,
    replies: Receiver<Reply>,
    /// Blocks received.
    blocks: u64,
    /// Blocks written.
    written: u64,
    /// Compressed blocks that wait for those before them.
    early: BTreeMap<u64, (Piece, Vec<u8>)>,
    out: Output<W>,
}

impl<W: Write> Pipeline<W> {
    /// Waits for a seat. Returns the first block to fill, too.
    pub(super) fn new(pool: &Arc<Pool>, codec: Codec, out: W) -> Result<(Self, Block), PackError> {
        let mut seat = Seat::take(pool);
        // A seat may always have one.
        let block = seat.block().ok_or_else(PackError::stopped)?;
        let (sender, replies) = channel();
        let pipeline = Self {
            seat,
            codec,
            lane: Arc::default(),
            sender,
            replies,
            blocks: 0,
            written: 0,
            early: BTreeMap::new(),
            out: Output::new(codec, out).map_err(|source| PackError::Write { source })?,
        };
        Ok((pipeline, block))
    }

    /// Writes the end of the layer. Returns its digests and sizes.
    pub(super) fn finish(mut self) -> Result<(PackedLayer, W), PackError> {
        while self.done() < self.blocks {
            self.advance()?;
        }
        let (tar_size, diff_id) = self.lane.finish();
        let written = self.out.finish();
        let (digester, out) = written.map_err(|source| PackError::Write { source })?;
        let layer = PackedLayer {
            size: digester.bytes(),
            digest: digester.finish(),
            tar_size,
            diff_id,
            compression: self.codec.compression(),
        };
        Ok((layer, out))
    }

    fn job(&self, task: Task) -> Job {
        Job {
            layer: self.seat.layer,
            task,
            reply: self.sender.clone(),
        }
    }

    /// The number of blocks that are both hashed and written.
    fn done(&self) -> u64 {
        self.written.min(self.lane.hashed())
    }

    /// Does a job of the layer, or waits for a helper's.
    fn advance(&mut self) -> Result<(), PackError> {
        if !self.seat.work() {
            // A helper has begun all that is not done, and it always replies.
            let reply = self.replies.recv();
            self.reply(reply.map_err(|_| PackError::stopped())?)?;
        }
        self.collect()
    }

    /// Passes a block to the pool, and writes what is ready.
    fn submit(&mut self, block: Block) -> Result<(), PackError> {
        let block = Arc::new(block);
        let compress = self.job(Task::Compress {
            index: self.blocks,
            codec: self.codec,
            block: Arc::clone(&block),
            out: self.seat.pool.output(),
        });
        self.seat.pool.push(compress, false);
        self.blocks += 1;
        if self.lane.push(block) {
            if self.seat.pool.hashes_aside() {
                // First, because this stage cannot be divided among threads.
                let hash = self.job(Task::Hash(Arc::clone(&self.lane)));
                self.seat.pool.push(hash, true);
            } else {
                self.lane.run(&self.seat.pool, || {});
            }
        }
        self.collect()
    }

    /// Handles the replies that have arrived.
    fn collect(&mut self) -> Result<(), PackError> {
        while let Ok(reply) = self.replies.try_recv() {
            self.reply(reply)?;
        }
        // A count below 2^64 of blocks in memory.
        let in_flight = (self.blocks - self.done()) as usize;
        self.seat.hold_only(in_flight);
        Ok(())
    }

    fn reply(&mut self, reply: Reply) -> Result<(), PackError> {
        if let Reply::Compressed { index, piece, out } = reply {
            let piece = piece.map_err(|source| PackError::Compress { source })?;
            self.early.insert(index, (piece, out));
        }
        while let Some((piece, out)) = self.early.remove(&self.written) {
            let written = self.out.piece(&piece, &out);
            written.map_err(|source| PackError::Write { source })?;
            self.seat.pool.return_output(out);
            self.written += 1;
        }
        Ok(())
    }
}

impl<W: Write> BlockSink for Pipeline<W> {
    fn block(&mut self, block: Block) -> Result<Block, PackError> {
        self.submit(block)?;
        loop {
            if let Some(block) = self.seat.block() {
                return Ok(block);
            }
            self.advance()?;
        }
    }

    fn last(&mut self, block: Block) -> Result<(), PackError> {
        self.submit(block)
    }
}

/// Writes a compressed stream and hashes it.
struct Output<W> {
    digester: Digester,
    out: W,
    /// The checksum of everything, for a gzip file of one member.
    member: Option<Crc>,
}

impl<W: Write> Output<W> {
    fn new(codec: Codec, out: W) -> io::Result<Self> {
        let mut output = Self {
            digester: Digester::new(),
            out,
            member: None,
        };
        if codec == Codec::GzipSingle {
            output.member = Some(Crc::new());
            output.write(&GZIP_HEAD)?;
        }
        Ok(output)
    }

    fn piece(&mut self, piece: &Piece, buffer: &[u8]) -> io::Result<()> {
        if let (Some(member), Some(crc)) = (&mut self.member, &piece.crc) {
            member.combine(crc);
        }
        let piece = buffer.get(..piece.size);
        self.write(piece.ok_or_else(|| io::Error::other("a block larger than its buffer"))?)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.digester.update(bytes);
        Ok(())
    }

    fn finish(mut self) -> io::Result<(Digester, W)> {
        if let Some(member) = self.member.take() {
            self.write(&gzip_tail(&member))?;
        }
        self.out.flush()?;
        Ok((self.digester, self.out))
    }
}
