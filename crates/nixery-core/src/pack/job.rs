//! What the threads of a packer do for a layer: compress a block, or hash the tar.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use nixery_manifest::{Digest, Digester};

use super::blocks::Block;
use super::encoder::{Encoders, Piece};
use super::pool::Pool;
use crate::Codec;

/// [`Encoders::encode`], or what a test puts in its place.
pub(super) type Encode = fn(&mut Encoders, Codec, &[u8], &mut Vec<u8>) -> io::Result<Piece>;

/// A piece of work of one layer.
#[derive(Debug)]
pub(super) struct Job {
    /// Which layer it is for.
    pub(super) layer: u64,
    pub(super) task: Task,
    pub(super) reply: Sender<Reply>,
}

#[derive(Debug)]
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

/// What the thread that packs the layer hears of its jobs.
#[derive(Debug)]
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
    /// Does it, and replies whatever happens: a panic becomes an error.
    pub(super) fn run(self, pool: &Pool, encoders: &mut Encoders) {
        // Nobody listens when packing has failed meanwhile.
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
                        what_it_said(&*panic)
                    )))
                });
                if piece.is_err() {
                    // It may be in any state.
                    drop(mem::take(encoders));
                }
                pool.give_back(block);
                drop(self.reply.send(Reply::Compressed { index, piece, out }));
            }
        }
    }
}

fn what_it_said(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

/// The SHA-256 of a layer's tar, block by block in their order, by one thread at a time.
#[derive(Debug, Default)]
pub(super) struct HashLane {
    queue: Mutex<Queue>,
    digester: Mutex<Digester>,
    /// Blocks hashed so far.
    hashed: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    blocks: VecDeque<Arc<Block>>,
    /// A thread is at it, or a job waits for one.
    taken: bool,
}

impl HashLane {
    /// Adds the next block; true if now a thread has to [`run`](Self::run) the lane.
    pub(super) fn push(&self, block: Arc<Block>) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.blocks.push_back(block);
        !mem::replace(&mut queue.taken, true)
    }

    /// Hashes what there is; calls `told` after each block.
    pub(super) fn run(&self, pool: &Pool, told: impl Fn()) {
        let mut digester = self.digester.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(block) = self.next() {
            digester.update(block.filled());
            pool.give_back(block);
            self.hashed.fetch_add(1, Ordering::Release);
            told();
        }
    }

    fn next(&self) -> Option<Arc<Block>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
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
        let mut digester = self.digester.lock().unwrap_or_else(PoisonError::into_inner);
        let digester = mem::take(&mut *digester);
        (digester.bytes(), digester.finish())
    }
}
