//! The threads and buffers that all layers of a packer share.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::blocks::Block;
use super::encoder::Encoders;
use super::job::{Encode, Job};

/// Limits how many threads work at once, and distributes the work among them.
///
/// A thread that packs a layer (a *caller*) takes a seat and does all work of its layer that no
/// helper has begun. Helpers are started when there is work for them. They take the free seats, and
/// compress and hash blocks. So small layers are packed side by side without communication between
/// threads, one large layer is packed by all threads, and there are never more at work than seats.
pub(super) struct Pool {
    /// The number of seats.
    threads: usize,
    pub(super) encode: Encode,
    state: Mutex<PoolState>,
    /// Wakes helpers: there may be a job and a seat.
    job_added: Condvar,
    /// Wakes callers: there may be a seat.
    seat_freed: Condvar,
}

#[derive(Default)]
struct PoolState {
    jobs: VecDeque<Job>,
    /// Seats taken.
    busy: usize,
    /// Callers that wait for a seat. They come before helpers.
    waiting: usize,
    /// Blocks that callers hold.
    blocks: usize,
    layers: u64,
    helpers: Vec<JoinHandle<()>>,
    /// Helpers that wait for work.
    idle: usize,
    closing: bool,
    // Used buffers are kept: fresh ones cost a page fault for every 4 KiB.
    spare_blocks: Vec<Block>,
    spare_outputs: Vec<Vec<u8>>,
    spare_encoders: Vec<Encoders>,
    #[cfg(test)]
    peak: (usize, usize),
}

impl PoolState {
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
        self.spare_blocks.pop()
    }
}

/// Locks what no thread leaves in a broken state.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub(super) fn new(threads: usize, encode: Encode) -> Self {
        Self {
            threads: threads.max(1),
            encode,
            state: Mutex::default(),
            job_added: Condvar::new(),
            seat_freed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        lock(&self.state)
    }

    /// The most blocks in memory, over all layers. A layer may always have one.
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

    /// Whether no thread is at work and no block is held.
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
        self.state().spare_outputs.pop().unwrap_or_default()
    }

    pub(super) fn return_output(&self, out: Vec<u8>) {
        self.state().spare_outputs.push(out);
    }

    /// Keeps a block for later unless another thread has it.
    pub(super) fn return_block(&self, block: Arc<Block>) {
        if let Some(mut block) = Arc::into_inner(block) {
            block.clear();
            self.state().spare_blocks.push(block);
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
            // If the system has no further thread, the callers do the work.
            let helper = thread::Builder::new().name(name).spawn(move || pool.help());
            state.helpers.extend(helper);
        }
        drop(state);
        self.job_added.notify_one();
    }

    /// Does jobs until the pool closes.
    fn help(&self) {
        let mut encoders = Encoders::default();
        let mut state = self.state();
        while !state.closing {
            let free = state.busy < self.threads && state.waiting == 0;
            let job = if free { state.jobs.pop_front() } else { None };
            let Some(job) = job else {
                state.idle += 1;
                let waited = self.job_added.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
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

    /// Wakes a thread that can use a free seat.
    fn wake(&self, state: &PoolState) {
        if state.busy >= self.threads {
            return;
        }
        if state.waiting > 0 {
            self.seat_freed.notify_one();
        } else if !state.jobs.is_empty() {
            self.job_added.notify_one();
        }
    }

    /// Ends the helpers and waits for them. Callers can finish their layers alone.
    pub(super) fn close(&self) {
        let helpers = {
            let mut state = self.state();
            state.closing = true;
            std::mem::take(&mut state.helpers)
        };
        self.job_added.notify_all();
        for helper in helpers {
            // Panics of its jobs are caught.
            drop(helper.join());
        }
    }
}

/// A caller's right to work, to hold blocks and to add jobs.
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
        state.waiting += 1;
        let full = |state: &mut PoolState| state.busy >= pool.threads;
        let waited = pool.seat_freed.wait_while(state, full);
        state = waited.unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state.take_seat();
        state.layers += 1;
        let seat = Self {
            pool: Arc::clone(pool),
            layer: state.layers,
            held: 0,
            encoders: state.spare_encoders.pop().unwrap_or_default(),
        };
        pool.wake(&state);
        seat
    }

    /// Returns an empty block, unless there are enough in memory.
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

    /// Reports that only this number of the taken blocks is still in use.
    pub(super) fn hold_only(&mut self, blocks: usize) {
        if blocks < self.held {
            self.pool.state().blocks -= self.held - blocks;
            self.held = blocks;
        }
    }

    /// Does the first job of this layer that no thread has begun. Returns false if there is none.
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
    /// Removes what is left of the layer, however it ended.
    fn drop(&mut self) {
        let mut state = self.pool.state();
        // The buffers of a failed layer are dropped with its jobs.
        state.jobs.retain(|job| job.layer != self.layer);
        state.blocks -= self.held;
        state.busy -= 1;
        let threads = self.pool.threads;
        let encoders = std::mem::take(&mut self.encoders);
        state.spare_encoders.push(encoders);
        if state.blocks == 0 {
            // No layer is being packed: keep what the next small layers need.
            state.spare_blocks.truncate(threads);
            state.spare_outputs.truncate(threads);
            state.spare_encoders.truncate(threads);
        }
        self.pool.wake(&state);
    }
}
