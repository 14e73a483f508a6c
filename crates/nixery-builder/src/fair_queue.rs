//! A queue for permits that serves clients in rotation. This is the pure core of
//! [`FairLimit`](crate::fair_limit::FairLimit).
//!
//! A free permit goes to the party that holds the fewest, and among those to the one that was
//! served least recently. A party that waits and holds nothing is therefore overtaken at most once
//! by each other party, however many builds the others have in the queue.

use std::collections::{HashMap, VecDeque};

use crate::client_id::ClientId;
use crate::progress::BuildId;

/// On whose behalf a build waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Party {
    /// A client requested the image.
    Client(ClientId),
    /// The build finds out whether the source of a cached image has moved.
    Background,
}

/// One wait for a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ticket(u64);

/// What a permit is taken from and returned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pool {
    /// The permits of all parties.
    Shared,
    /// The permits of [`Party::Background`].
    Background,
}

/// A permit for a ticket that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) ticket: Ticket,
    /// The party whose turn it was.
    pub(crate) party: Party,
    pub(crate) pool: Pool,
}

/// Permits, and who waits for them.
#[derive(Debug)]
pub(crate) struct FairQueue {
    free_shared: usize,
    free_background: usize,
    /// Whether the background has permits of its own, and leaves the last shared one to clients.
    has_background_pool: bool,
    /// Those that wait or hold permits.
    parties: HashMap<Party, PartyState>,
    waiting: HashMap<Ticket, WaitingBuild>,
    /// Counts events, to order them.
    clock: u64,
}

#[derive(Debug)]
struct WaitingBuild {
    build: BuildId,
    parties: Vec<Party>,
}

#[derive(Debug, Default)]
struct PartyState {
    /// The oldest first.
    tickets: VecDeque<Ticket>,
    held: usize,
    /// When the party began to wait, or last returned a permit.
    since: u64,
}

impl FairQueue {
    /// Returns a queue for `shared` permits, and `background` further ones of the background.
    pub(crate) fn new(shared: usize, background: usize) -> Self {
        Self {
            free_shared: shared,
            free_background: background,
            has_background_pool: background > 0,
            parties: HashMap::new(),
            waiting: HashMap::new(),
            clock: 0,
        }
    }

    /// Lets a build wait on behalf of some parties, at least one.
    pub(crate) fn enqueue(&mut self, build: BuildId, parties: &[Party]) -> Ticket {
        let ticket = Ticket(self.tick());
        let waiting = WaitingBuild {
            build,
            parties: Vec::with_capacity(parties.len()),
        };
        self.waiting.insert(ticket, waiting);
        for party in parties {
            self.add_party(ticket, *party);
        }
        ticket
    }

    /// Lets a build, if it waits, wait on behalf of a further party as well.
    pub(crate) fn lend(&mut self, build: BuildId, party: Party) {
        let tickets = self.waiting.iter();
        let tickets = tickets.filter(|(_, waiting)| waiting.build == build);
        let tickets: Vec<_> = tickets.map(|(ticket, _)| *ticket).collect();
        for ticket in tickets {
            self.add_party(ticket, party);
        }
    }

    fn add_party(&mut self, ticket: Ticket, party: Party) {
        let now = self.tick();
        let Some(waiting) = self.waiting.get_mut(&ticket) else {
            return;
        };
        if waiting.parties.contains(&party) {
            return;
        }
        waiting.parties.push(party);
        let state = self.parties.entry(party).or_default();
        if state.tickets.is_empty() {
            state.since = now;
        }
        state.tickets.push_back(ticket);
    }

    /// Ends a wait, if the ticket still waits.
    pub(crate) fn cancel(&mut self, ticket: Ticket) {
        let Some(waiting) = self.waiting.remove(&ticket) else {
            return;
        };
        for party in waiting.parties {
            if let Some(state) = self.parties.get_mut(&party) {
                state.tickets.retain(|other| *other != ticket);
            }
            self.forget_if_idle(party);
        }
    }

    /// Grants a permit to the ticket whose turn it is, if a permit is free for one. Call it until
    /// there is no further grant.
    pub(crate) fn next_grant(&mut self) -> Option<Grant> {
        let (party, pool) = self.next_party()?;
        let state = self.parties.get_mut(&party)?;
        let ticket = *state.tickets.front()?;
        state.held += 1;
        match pool {
            Pool::Shared => self.free_shared -= 1,
            Pool::Background => self.free_background -= 1,
        }
        self.cancel(ticket);
        Some(Grant {
            ticket,
            party,
            pool,
        })
    }

    fn next_party(&self) -> Option<(Party, Pool)> {
        let waits = |party| {
            let state = self.parties.get(&party);
            state.is_some_and(|state| !state.tickets.is_empty())
        };
        if self.free_background > 0 && waits(Party::Background) {
            return Some((Party::Background, Pool::Background));
        }
        let background_may = !self.has_background_pool || self.free_shared > 1;
        let waiting = self.parties.iter().filter(|(party, state)| {
            !state.tickets.is_empty() && (background_may || **party != Party::Background)
        });
        let next = waiting.min_by_key(|(_, state)| (state.held, state.since));
        next.filter(|_| self.free_shared > 0)
            .map(|(party, _)| (*party, Pool::Shared))
    }

    /// Returns a permit.
    pub(crate) fn release(&mut self, party: Party, pool: Pool) {
        match pool {
            Pool::Shared => self.free_shared += 1,
            Pool::Background => self.free_background += 1,
        }
        let now = self.tick();
        if let Some(state) = self.parties.get_mut(&party) {
            state.held = state.held.saturating_sub(1);
            state.since = now;
        }
        self.forget_if_idle(party);
    }

    fn forget_if_idle(&mut self, party: Party) {
        let state = self.parties.get(&party);
        if state.is_some_and(|state| state.held == 0 && state.tickets.is_empty()) {
            self.parties.remove(&party);
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

#[cfg(test)]
mod tests;
