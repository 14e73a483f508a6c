//! Properties of the queue, over random histories.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn client(number: u8) -> Party {
    Party::Client(ClientId::from_address([192, 0, 2, number].into()))
}

#[test]
fn a_client_with_one_build_is_next_after_a_client_with_many() {
    let mut queue = FairQueue::new(1, 0);
    let many: Vec<_> = (0..400)
        .map(|_| queue.enqueue(BuildId::fresh(), &[client(1)]))
        .collect();
    let first = queue.next_grant().expect("is free");
    assert_eq!(first.ticket, many[0]);
    let other = queue.enqueue(BuildId::fresh(), &[client(2)]);
    assert_eq!(queue.next_grant(), None);
    queue.release(first.party, first.pool);
    let second = queue.next_grant().expect("is free");
    assert_eq!((second.ticket, second.party), (other, client(2)));
    queue.release(second.party, second.pool);
    assert_eq!(queue.next_grant().expect("is free").ticket, many[1]);
}

#[test]
fn a_client_that_joins_a_build_moves_it_forward() {
    let mut queue = FairQueue::new(1, 0);
    let running = queue.enqueue(BuildId::fresh(), &[client(1)]);
    let running = queue.next_grant().filter(|grant| grant.ticket == running);
    let running = running.expect("is free");
    let waiting: Vec<_> = (0..9)
        .map(|_| {
            let build = BuildId::fresh();
            (build, queue.enqueue(build, &[client(1)]))
        })
        .collect();
    let (build, ticket) = waiting[8];
    queue.lend(build, client(2));
    queue.lend(build, client(2));
    queue.release(running.party, running.pool);
    let next = queue.next_grant().expect("is free");
    assert_eq!((next.ticket, next.party), (ticket, client(2)));
    // It no longer waits, also not on behalf of the client that started it.
    queue.release(next.party, next.pool);
    for (_, ticket) in &waiting[..8] {
        let next = queue.next_grant().expect("is free");
        assert_eq!((next.ticket, next.party), (*ticket, client(1)));
        queue.release(next.party, next.pool);
    }
    assert_eq!(queue.next_grant(), None);
    assert!(queue.parties.is_empty() && queue.waiting.is_empty());
}

#[test]
fn the_background_has_a_permit_of_its_own_and_leaves_one_to_clients() {
    let mut queue = FairQueue::new(2, 1);
    for _ in 0..5 {
        queue.enqueue(BuildId::fresh(), &[Party::Background]);
    }
    let own = queue.next_grant().expect("is free");
    assert_eq!(own.pool, Pool::Background);
    assert_eq!(queue.next_grant().expect("is free").pool, Pool::Shared);
    assert_eq!(queue.next_grant(), None, "the last one is for clients");
    queue.enqueue(BuildId::fresh(), &[client(1)]);
    assert_eq!(queue.next_grant().expect("is free").party, client(1));
    // However many builds clients wait for.
    for _ in 0..100 {
        queue.enqueue(BuildId::fresh(), &[client(2)]);
    }
    queue.release(own.party, own.pool);
    let next = queue.next_grant().expect("is free");
    assert_eq!(
        (next.party, next.pool),
        (Party::Background, Pool::Background)
    );
}

/// What may happen to a queue. Numbers select one of what exists, modulo its count.
#[derive(Debug, Clone)]
enum Event {
    Enqueue(Vec<u8>),
    Lend(usize, u8),
    Cancel(usize),
    Release(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => prop::collection::vec(0..5_u8, 1..3).prop_map(Event::Enqueue),
        1 => (any::<usize>(), 0..5_u8).prop_map(|(at, party)| Event::Lend(at, party)),
        1 => any::<usize>().prop_map(Event::Cancel),
        3 => any::<usize>().prop_map(Event::Release),
    ];
    prop::collection::vec(event, 0..200)
}

/// Party 0 is the background.
fn party(number: u8) -> Party {
    match number {
        0 => Party::Background,
        number => client(number),
    }
}

/// The queue, and what is known about it without its help.
struct Model {
    queue: FairQueue,
    shared: usize,
    background: usize,
    /// Everything that waits, in order of arrival.
    waiting: Vec<(BuildId, Ticket, HashSet<Party>)>,
    granted: Vec<Grant>,
    /// For parties that wait and hold nothing: who was served since.
    overtaken: HashMap<Party, HashMap<Party, usize>>,
}

impl Model {
    fn held(&self, party: Party) -> usize {
        let granted = self.granted.iter();
        granted.filter(|grant| grant.party == party).count()
    }

    fn waits(&self, party: Party) -> bool {
        self.waiting
            .iter()
            .any(|(.., parties)| parties.contains(&party))
    }

    /// Takes all grants that are due, and checks each.
    fn grant(&mut self) -> Result<(), TestCaseError> {
        while let Some(grant) = self.queue.next_grant() {
            let at = self.waiting.iter();
            let at = at
                .clone()
                .position(|(_, ticket, _)| *ticket == grant.ticket);
            let (.., parties) = self.waiting.remove(at.expect("it waited"));
            prop_assert!(parties.contains(&grant.party));
            prop_assert!(grant.pool == Pool::Shared || grant.party == Party::Background);
            self.granted.push(grant);
            for overtaken in self.overtaken.values_mut() {
                *overtaken.entry(grant.party).or_default() += 1;
            }
            self.note_who_waits();
        }
        let used = |pool| {
            self.granted
                .iter()
                .filter(|grant| grant.pool == pool)
                .count()
        };
        let free = self
            .shared
            .checked_sub(used(Pool::Shared))
            .expect("no more than there are");
        let free_background = self
            .background
            .checked_sub(used(Pool::Background))
            .expect("no more");
        // Nothing waits for a permit that is free.
        let clients_wait = (1..5).any(|number| self.waits(party(number)));
        prop_assert!(free == 0 || !clients_wait);
        prop_assert!(free_background == 0 || !self.waits(Party::Background));
        let reserve = usize::from(self.background > 0);
        prop_assert!(free <= reserve || !self.waits(Party::Background));
        Ok(())
    }

    /// Begins and ends the observation of parties that wait and hold nothing. The background has
    /// fewer rights to shared permits, but a pool of its own.
    fn note_who_waits(&mut self) {
        for number in 1..5 {
            let party = party(number);
            if self.waits(party) && self.held(party) == 0 {
                self.overtaken.entry(party).or_default();
            } else {
                self.overtaken.remove(&party);
            }
        }
    }
}

proptest! {
    #[test]
    fn permits_are_handed_out_fairly(
        events in events(),
        shared in 1..4_usize,
        background in 0..2_usize,
    ) {
        let mut model = Model {
            queue: FairQueue::new(shared, background),
            shared,
            background,
            waiting: Vec::new(),
            granted: Vec::new(),
            overtaken: HashMap::new(),
        };
        for event in events {
            match event {
                Event::Enqueue(parties) => {
                    let parties: Vec<_> = parties.into_iter().map(party).collect();
                    let build = BuildId::fresh();
                    let ticket = model.queue.enqueue(build, &parties);
                    model.waiting.push((build, ticket, parties.into_iter().collect()));
                }
                Event::Lend(at, number) if !model.waiting.is_empty() => {
                    let at = at % model.waiting.len();
                    let (build, _, parties) = &mut model.waiting[at];
                    parties.insert(party(number));
                    model.queue.lend(*build, party(number));
                }
                Event::Cancel(at) if !model.waiting.is_empty() => {
                    let (_, ticket, _) = model.waiting.remove(at % model.waiting.len());
                    model.queue.cancel(ticket);
                }
                Event::Release(at) if !model.granted.is_empty() => {
                    let grant = model.granted.remove(at % model.granted.len());
                    model.queue.release(grant.party, grant.pool);
                }
                _ => {}
            }
            model.note_who_waits();
            model.grant()?;
            for (party, overtaken) in &model.overtaken {
                for (other, grants) in overtaken {
                    // The pool of the background comes on top.
                    prop_assert!(
                        *grants <= 1 || *other == Party::Background,
                        "{other:?} was served {grants} times while {party:?} waited"
                    );
                }
            }
        }
        while let Some(grant) = model.granted.pop() {
            model.queue.release(grant.party, grant.pool);
            model.note_who_waits();
            model.grant()?;
        }
        prop_assert!(model.waiting.is_empty(), "everybody is served at last");
        prop_assert!(model.queue.parties.is_empty(), "nothing is left over");
        prop_assert!(model.queue.waiting.is_empty());
    }
}
