//! The jobs of a packer's threads: compressing a block, and hashing the tar.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use nixery_manifest::{Digest, Digester};

use super::blocks::Block;
use super::encoder::{Encoders, Piece};
use super::pool::{Pool, lock};
use crate::Codec;

/// [`Encoders::encode`], or what a test puts in its place.
pub(super) type Encode = fn(&mut Encoders, Codec, &[u8], &mut Vec<u8>) -> io::Result<Piece>;

/// A piece of work of one layer.
pub(super) struct Job {
    /// Which layer it is for.
    pub(super) layer: u64,
    pub(super) task: Task,
    pub(super) reply: Sender<Reply>,
}

pub(super) enum Task {
    Compress {
        /// The position of the block in the layer.
        index: u64,
        codec: Codec,
        block: Arc<Block>,
        out: Vec<u8>,
    },
    Hash(Arc<HashLane>),
}

/// The result of a job, for the thread that packs the layer.
pub(super) enum Reply {
    Compressed {
        index: u64,
        piece: io::Result<Piece>,
        out: Vec<u8>,
    },
    /// Another block is hashed.
    Hashed,
}

impl Job {
    /// Does the job and always replies: a panic becomes an error.
    pub(super) fn run(self, pool: &Pool, encoders: &mut Encoders) {
        // Sending fails only where packing has already failed.
        match self.task {
            Task::Hash(lane) => lane.run(pool, || drop(self.reply.send(Reply::Hashed))),
            Task::Compress {
                index,
                codec,
                block,
                mut out,
            } => {
                let encode =
                    AssertUnwindSafe(|| (pool.encode)(encoders, codec, block.filled(), &mut out));
                let piece = catch_unwind(encode).unwrap_or_else(|panic| {
                    Err(io::Error::other(format!(
                        "the compressor panicked: {}",
                        panic_message(&*panic)
                    )))
                });
                if piece.is_err() {
                    // The compressors may be in any state.
                    drop(mem::take(encoders));
                }
                pool.return_block(block);
                drop(self.reply.send(Reply::Compressed { index, piece, out }));
            }
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

/// The SHA-256 of a layer's tar, block by block in their order, by one thread at a time.
#[derive(Default)]
pub(super) struct HashLane {
    queue: Mutex<Queue>,
    digester: Mutex<Digester>,
    /// Blocks hashed so far.
    hashed: AtomicU64,
}

#[derive(Default)]
struct Queue {
    blocks: VecDeque<Arc<Block>>,
    /// A thread hashes it, or a job to do so is queued.
    taken: bool,
}

impl HashLane {
    /// Adds the next block. Returns true if the caller has to [`run`](Self::run) the lane.
    pub(super) fn push(&self, block: Arc<Block>) -> bool {
        let mut queue = lock(&self.queue);
        queue.blocks.push_back(block);
        !mem::replace(&mut queue.taken, true)
    }

    /// Hashes all blocks of the queue, and calls `report` after each.
    pub(super) fn run(&self, pool: &Pool, report: impl Fn()) {
        let mut digester = lock(&self.digester);
        while let Some(block) = self.next() {
            digester.update(block.filled());
            pool.return_block(block);
            self.hashed.fetch_add(1, Ordering::Release);
            report();
        }
    }

    fn next(&self) -> Option<Arc<Block>> {
        let mut queue = lock(&self.queue);
        let next = queue.blocks.pop_front();
        queue.taken = next.is_some();
        next
    }

    /// How many blocks are hashed.
    pub(super) fn hashed(&self) -> u64 {
        self.hashed.load(Ordering::Acquire)
    }

    /// Number of bytes and digest of what was hashed.
    pub(super) fn finish(&self) -> (u64, Digest) {
        let mut digester = lock(&self.digester);
        let digester = mem::take(&mut *digester);
        (digester.bytes(), digester.finish())
    }
}
