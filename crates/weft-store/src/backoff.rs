//! How long to wait before asking a store again that has just failed.

use std::time::Duration;

/// Waits that double from `first` to `most`, each shortened at random by up to a half, so that the daemons of a
/// cluster do not all come back in the same moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// It went well: the next wait is the first one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after one more failure.
    pub fn next_wait(&mut self) -> Duration {
        let full = self.first.saturating_mul(1 << self.failures.min(16)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        shortened(full)
    }
}

/// `full`, shortened at random by up to a half. Without a source of randomness it is not shortened.
pub fn shortened(full: Duration) -> Duration {
    let random = weft_model::random_bytes().map_or(u32::MAX, u32::from_le_bytes);
    full / 2 + (full / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_most_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for (low, high) in
            [(50, 100), (100, 200), (200, 400), (400, 800), (800, 1600), (1600, 3200), (2500, 5000)]
        {
            let wait = backoff.next_wait().as_millis();
            assert!((low..=high).contains(&wait), "{wait} is not in {low}..={high}");
        }
        for _ in 0..100 {
            assert!(backoff.next_wait() <= Duration::from_secs(5));
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}
