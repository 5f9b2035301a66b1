//! When the embedded store's leases end. In memory: a sign of life costs no disk write.

use crate::LeaseId;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The writer looks for ended leases at least this often.
pub const LOOK: Duration = Duration::from_millis(500);
/// If it did not look for this long, the process stood still, and so did the leases' time.
const STANDSTILL: Duration = Duration::from_secs(3);

/// The living leases.
pub struct Leases(Mutex<Terms>);

struct Terms {
    terms: HashMap<LeaseId, Term>,
    looked: Instant,
}

struct Term {
    ttl: Duration,
    ends: Instant,
}

impl Leases {
    /// These leases, each with its full time from now on.
    pub fn starting_now(leases: impl IntoIterator<Item = (LeaseId, Duration)>) -> Self {
        let now = Instant::now();
        let terms = leases.into_iter().map(|(lease, ttl)| (lease, Term { ttl, ends: now + ttl })).collect();
        Self(Mutex::new(Terms { terms, looked: now }))
    }

    /// A new lease.
    pub fn add(&self, lease: LeaseId, ttl: Duration) {
        self.lock().terms.insert(lease, Term { ttl, ends: Instant::now() + ttl });
    }

    /// The end of a lease.
    pub fn remove(&self, lease: LeaseId) {
        self.lock().terms.remove(&lease);
    }

    /// A sign of life; whether the lease lives.
    pub fn keep_alive(&self, lease: LeaseId) -> bool {
        match self.lock().terms.get_mut(&lease) {
            Some(term) => {
                term.ends = Instant::now() + term.ttl;
                true
            }
            None => false,
        }
    }

    /// Takes out the leases that have ended. From now on a sign of life comes too late for them.
    pub fn take_ended(&self, now: Instant) -> Vec<(LeaseId, Duration)> {
        let mut all = self.lock();
        let stood_still = now.saturating_duration_since(all.looked);
        all.looked = now;
        if stood_still > STANDSTILL {
            // No sign of life could be heard in that time: it does not count.
            for term in all.terms.values_mut() {
                term.ends += stood_still;
            }
        }
        all.terms.extract_if(|_, term| term.ends <= now).map(|(lease, term)| (lease, term.ttl)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Terms> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_ends_when_its_time_is_over_and_cannot_be_revived() {
        let leases = Leases::starting_now([(LeaseId(1), SECOND), (LeaseId(2), 10 * SECOND)]);
        let now = Instant::now();
        assert_eq!(leases.take_ended(now), []);
        assert_eq!(leases.take_ended(now + 2 * SECOND), [(LeaseId(1), SECOND)]);
        assert!(!leases.keep_alive(LeaseId(1)));
        assert!(leases.keep_alive(LeaseId(2)));
    }

    #[test]
    fn the_time_in_which_the_process_stood_still_does_not_count() {
        let leases = Leases::starting_now([(LeaseId(1), SECOND)]);
        let later = Instant::now() + 60 * SECOND;
        assert_eq!(leases.take_ended(later), []);
        assert_eq!(leases.take_ended(later + 2 * SECOND), [(LeaseId(1), SECOND)]);
    }
}
