//! Which builds may begin: limits of builds that run or wait, in total and for each client.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::client_id::ClientId;
use crate::error::BuildError;
use crate::fair_queue::Party;

/// Counts the builds that run or wait, and refuses further ones.
///
/// Builds in the background are neither counted nor refused: they keep images young that clients
/// use, there is at most one for each image in memory, and they have a slot of their own.
#[derive(Debug)]
pub(crate) struct Admission {
    max_builds: usize,
    max_per_client: usize,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    builds: usize,
    by_client: HashMap<ClientId, usize>,
}

/// The right of a build to run or wait, until it is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    client: ClientId,
    counts: Arc<Mutex<Counts>>,
}

impl Admission {
    /// Limits of 0 count as 1.
    pub(crate) fn new(max_builds: usize, max_per_client: usize) -> Self {
        Self {
            max_builds: max_builds.max(1),
            max_per_client: max_per_client.max(1),
            counts: Arc::default(),
        }
    }

    /// Admits a build that a party starts. `None`: it needs no right.
    pub(crate) fn admit(&self, party: Party) -> Result<Option<Admitted>, BuildError> {
        let Party::Client(client) = party else {
            return Ok(None);
        };
        let mut counts = lock(&self.counts);
        let (builds, own) = (counts.builds, counts.by_client.get(&client).copied());
        let own = own.unwrap_or(0);
        if client.is_named() && own >= self.max_per_client {
            return Err(BuildError::QuotaExceeded { waiting: own });
        }
        if builds >= self.max_builds {
            return Err(BuildError::Busy { waiting: builds });
        }
        counts.builds += 1;
        *counts.by_client.entry(client).or_default() += 1;
        let counts = Arc::clone(&self.counts);
        Ok(Some(Admitted { client, counts }))
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        counts.builds -= 1;
        if let Some(own) = counts.by_client.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                counts.by_client.remove(&self.client);
            }
        }
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(last: u8) -> Party {
        Party::Client(ClientId::from_address([192, 0, 2, last].into()))
    }

    #[test]
    fn a_client_has_a_quota_and_all_have_a_limit() {
        let admission = Admission::new(4, 2);
        let mut first: Vec<_> = (0..2).map(|_| admission.admit(client(1))).collect();
        let refused = admission.admit(client(1));
        assert!(
            matches!(refused, Err(BuildError::QuotaExceeded { waiting: 2 })),
            "{refused:?}"
        );
        let _others = [client(2), client(3)].map(|client| admission.admit(client).expect("room"));
        let refused = admission.admit(client(4));
        assert!(
            matches!(refused, Err(BuildError::Busy { waiting: 4 })),
            "{refused:?}"
        );
        assert!(matches!(admission.admit(Party::Background), Ok(None)));
        first.pop();
        admission.admit(client(4)).expect("room");
        admission.admit(client(1)).expect("room");
    }

    #[test]
    fn callers_without_clients_have_no_quota() {
        let admission = Admission::new(3, 1);
        let unnamed = Party::Client(ClientId::default());
        let _admitted = [(); 3].map(|()| admission.admit(unnamed).expect("room"));
        assert!(matches!(
            admission.admit(unnamed),
            Err(BuildError::Busy { waiting: 3 })
        ));
    }
}
