//! The threads and buffers that all layers of a packer share.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::blocks::Block;
use super::encoder::Encoders;
use super::job::{Encode, Job};

/// How many threads work at once, and what they work at.
///
/// A thread that packs a layer (a *caller*) takes a seat, and does everything for its layer that
/// no one else does. Helpers, started when there is work for them, take the seats that are free,
/// and compress and hash blocks. So many small layers are packed side by side without a word
/// between threads, one large layer is packed by all, and never are more at work than there are
/// seats.
#[derive(Debug)]
pub(super) struct Pool {
    /// The number of seats.
    threads: usize,
    pub(super) encode: Encode,
    state: Mutex<State>,
    /// Told to helpers: there may be a job and a seat.
    work: Condvar,
    /// Told to callers: there may be a seat.
    turn: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Seats taken.
    busy: usize,
    /// Callers that wait for a seat; they come before helpers.
    waiting: usize,
    /// Blocks that callers hold.
    blocks: usize,
    layers: u64,
    helpers: Vec<JoinHandle<()>>,
    /// Helpers that wait for work.
    idle: usize,
    closing: bool,
    spare: Spare,
    #[cfg(test)]
    peak: (usize, usize),
}

impl State {
    fn take_seat(&mut self) {
        self.busy += 1;
        #[cfg(test)]
        {
            self.peak.0 = self.peak.0.max(self.busy);
        }
    }

    fn take_block(&mut self) -> Option<Block> {
        self.blocks += 1;
        #[cfg(test)]
        {
            self.peak.1 = self.peak.1.max(self.blocks);
        }
        self.spare.blocks.pop()
    }
}

/// Used buffers: fresh ones cost a page fault for every 4 KiB.
#[derive(Default)]
struct Spare {
    blocks: Vec<Block>,
    outputs: Vec<Vec<u8>>,
    encoders: Vec<Encoders>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("jobs", &self.jobs.len())
            .field("busy", &self.busy)
            .field("blocks", &self.blocks)
            .finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(threads: usize, encode: Encode) -> Self {
        Self {
            threads: threads.max(1),
            encode,
            state: Mutex::default(),
            work: Condvar::new(),
            turn: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Most blocks in memory, over all layers. A layer may always have one.
    fn most_blocks(&self) -> usize {
        if self.threads == 1 {
            1
        } else {
            self.threads.saturating_mul(2).saturating_add(2)
        }
    }

    /// Whether hashing a tar is work for another thread than the one that reads its files. With
    /// two threads both have enough to do.
    pub(super) fn hashes_aside(&self) -> bool {
        self.threads > 2
    }

    /// Whether nobody is at work and nothing is held.
    #[cfg(test)]
    pub(super) fn is_quiet(&self) -> bool {
        let state = self.state();
        state.busy == 0 && state.blocks == 0 && state.jobs.is_empty()
    }

    /// Most seats taken and most blocks held so far.
    #[cfg(test)]
    pub(super) fn peak(&self) -> (usize, usize) {
        self.state().peak
    }

    /// Takes a spare buffer for compressed bytes.
    pub(super) fn output(&self) -> Vec<u8> {
        self.state().spare.outputs.pop().unwrap_or_default()
    }

    pub(super) fn give_back_output(&self, out: Vec<u8>) {
        self.state().spare.outputs.push(out);
    }

    /// Keeps a block for later if nobody else has it.
    pub(super) fn give_back(&self, block: Arc<Block>) {
        if let Some(mut block) = Arc::into_inner(block) {
            block.clear();
            self.state().spare.blocks.push(block);
        }
    }

    /// Puts a job at the end of the queue, or before all others.
    pub(super) fn push(self: &Arc<Self>, job: Job, first: bool) {
        let mut state = self.state();
        if first {
            state.jobs.push_front(job);
        } else {
            state.jobs.push_back(job);
        }
        if state.idle == 0 && state.busy < self.threads && state.helpers.len() + 1 < self.threads {
            let pool = Arc::clone(self);
            let name = format!("pack-{}", state.helpers.len() + 1);
            // If the system has no thread to give, the callers do the work.
            let helper = thread::Builder::new().name(name).spawn(move || pool.help());
            state.helpers.extend(helper);
        }
        drop(state);
        self.work.notify_one();
    }

    /// A helper's life.
    fn help(&self) {
        let mut encoders = Encoders::default();
        let mut state = self.state();
        while !state.closing {
            let free = state.busy < self.threads && state.waiting == 0;
            let job = if free { state.jobs.pop_front() } else { None };
            let Some(job) = job else {
                state.idle += 1;
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            };
            state.take_seat();
            self.wake(&state);
            drop(state);
            job.run(self, &mut encoders);
            state = self.state();
            state.busy -= 1;
            self.wake(&state);
        }
    }

    /// Tells one who can use it that there is a seat.
    fn wake(&self, state: &State) {
        if state.busy >= self.threads {
            return;
        }
        if state.waiting > 0 {
            self.turn.notify_one();
        } else if !state.jobs.is_empty() {
            self.work.notify_one();
        }
    }

    /// Ends the helpers and waits for them. Callers may go on, alone.
    pub(super) fn close(&self) {
        let helpers = {
            let mut state = self.state();
            state.closing = true;
            std::mem::take(&mut state.helpers)
        };
        self.work.notify_all();
        for helper in helpers {
            // Panics of its jobs are caught.
            drop(helper.join());
        }
    }
}

/// A caller's right to work, to hold blocks, and to have jobs done.
pub(super) struct Seat {
    pub(super) pool: Arc<Pool>,
    pub(super) layer: u64,
    held: usize,
    encoders: Encoders,
}

impl Seat {
    /// Waits until there is a seat.
    pub(super) fn take(pool: &Arc<Pool>) -> Self {
        let mut state = pool.state();
        while state.busy >= pool.threads {
            state.waiting += 1;
            state = pool
                .turn
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        state.take_seat();
        state.layers += 1;
        let seat = Self {
            pool: Arc::clone(pool),
            layer: state.layers,
            held: 0,
            encoders: state.spare.encoders.pop().unwrap_or_default(),
        };
        pool.wake(&state);
        seat
    }

    /// An empty block, unless there are enough in memory.
    pub(super) fn block(&mut self) -> Option<Block> {
        let mut state = self.pool.state();
        if self.held > 0 && state.blocks >= self.pool.most_blocks() {
            return None;
        }
        self.held += 1;
        let spare = state.take_block();
        drop(state);
        Some(spare.unwrap_or_else(Block::new))
    }

    /// Of the blocks taken only so many are in use any more.
    pub(super) fn hold_only(&mut self, blocks: usize) {
        if blocks < self.held {
            self.pool.state().blocks -= self.held - blocks;
            self.held = blocks;
        }
    }

    /// Does the first job of this layer that nobody has begun; false if there is none.
    pub(super) fn work(&mut self) -> bool {
        let job = {
            let mut state = self.pool.state();
            let jobs = &mut state.jobs;
            let own = jobs.iter().position(|job| job.layer == self.layer);
            own.and_then(|own| jobs.remove(own))
        };
        let found = job.is_some();
        if let Some(job) = job {
            job.run(&self.pool, &mut self.encoders);
        }
        found
    }
}

impl Drop for Seat {
    /// Leaves nothing of the layer behind, however it ended.
    fn drop(&mut self) {
        let mut state = self.pool.state();
        // Buffers of a layer that failed go with its jobs.
        state.jobs.retain(|job| job.layer != self.layer);
        state.blocks -= self.held;
        state.busy -= 1;
        let threads = self.pool.threads;
        state
            .spare
            .encoders
            .push(std::mem::take(&mut self.encoders));
        if state.blocks == 0 {
            // Nobody packs: keep what the next small layers need.
            state.spare.blocks.truncate(threads);
            state.spare.outputs.truncate(threads);
            state.spare.encoders.truncate(threads);
        }
        self.pool.wake(&state);
    }
}
