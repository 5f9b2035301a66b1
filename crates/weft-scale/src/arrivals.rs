//! When each change has reached the kernel of each host that needs it.

use serde::Serialize;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};
use weft_model::{MacAddr, Vni};
use weft_plan::{Fdb, Key, Object, Op};

/// Changes that are under way, and how long those that have arrived took.
#[derive(Debug, Default)]
pub struct Arrivals {
    begun: RwLock<HashMap<(Vni, MacAddr), Instant>>,
    took: Mutex<Vec<Duration>>,
}

impl Arrivals {
    /// An endpoint with this MAC address is about to be written or removed.
    pub fn begin(&self, vni: Vni, mac: MacAddr) {
        let now = Instant::now();
        self.begun.write().unwrap_or_else(PoisonError::into_inner).insert((vni, mac), now);
    }

    /// A kernel is given these operations. The host that has the endpoint does not count: it wrote the change, and its kernel
    /// loses the entry with the port.
    pub fn see(&self, ops: &[Op]) {
        let begun = self.begun.read().unwrap_or_else(PoisonError::into_inner);
        if begun.is_empty() {
            return;
        }
        let arrived = ops.iter().filter_map(|op| match op {
            Op::Create(Key::Fdb(vni, mac), Object::Fdb(Fdb { vtep: Some(_), .. }))
            | Op::Remove(Key::Fdb(vni, mac)) => begun.get(&(*vni, *mac)),
            _ => None,
        });
        let arrived: Vec<Duration> = arrived.map(Instant::elapsed).collect();
        self.lock().extend(arrived);
    }

    /// How many have arrived since the last [`Arrivals::take`].
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// The times of all that have arrived, and begins anew.
    pub fn take(&self) -> Spread {
        self.begun.write().unwrap_or_else(PoisonError::into_inner).clear();
        Spread::of(std::mem::take(&mut *self.lock()))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Duration>> {
        self.took.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How times are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// How many there are.
    pub count: usize,
    /// The median, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 are at most this, in milliseconds.
    pub p99_ms: f64,
    /// The longest, in milliseconds.
    pub most_ms: f64,
}

impl Spread {
    /// Of these times.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |per_cent: usize| {
            let index = (times.len() * per_cent).div_ceil(100).saturating_sub(1);
            times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        Self { count: times.len(), p50_ms: at(50), p99_ms: at(99), most_ms: at(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_of_a_hundred_times() {
        let spread = Spread::of((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(spread, Spread { count: 100, p50_ms: 50.0, p99_ms: 99.0, most_ms: 100.0 });
        assert_eq!(Spread::of(vec![]).count, 0);
    }

    #[test]
    fn only_what_was_announced_counts() {
        let arrivals = Arrivals::default();
        let (vni, mac) = (Vni::new(7).unwrap(), MacAddr::for_address("10.0.0.2".parse().unwrap()));
        let ops = [Op::Remove(Key::Fdb(vni, mac)), Op::Remove(Key::Bridge(vni))];
        arrivals.see(&ops);
        assert_eq!(arrivals.count(), 0);
        arrivals.begin(vni, mac);
        arrivals.see(&ops);
        assert_eq!(arrivals.take().count, 1);
        arrivals.see(&ops);
        assert_eq!(arrivals.count(), 0);
    }
}
