//! Where random bytes and the time of day come from: this machine, or a simulation of many.
//!
//! A simulation runs whole clusters in one thread, each repeatable from a number. So on its thread it puts itself in the
//! place of the machine ([`simulate`]). No other thread notices.

use crate::UnixSeconds;
use std::{cell::RefCell, rc::Rc};

/// What is otherwise the machine's. Asked on the thread that runs the simulation.
pub trait World {
    /// The wall clock of whoever asks.
    fn unix_now(&self) -> UnixSeconds;
    /// Fills `bytes` with what passes for random.
    fn fill(&self, bytes: &mut [u8]);
}

thread_local! {
    static SIMULATED: RefCell<Option<Rc<dyn World>>> = const { RefCell::new(None) };
}

/// Puts `world` in the place of the machine on this thread, until the answer is dropped.
pub fn simulate(world: Rc<dyn World>) -> Simulated {
    Simulated(SIMULATED.replace(Some(world)))
}

/// See [`simulate`].
#[must_use = "dropped, it ends the simulation"]
pub struct Simulated(Option<Rc<dyn World>>);

impl Drop for Simulated {
    fn drop(&mut self) {
        SIMULATED.replace(self.0.take());
    }
}

fn simulated() -> Option<Rc<dyn World>> {
    SIMULATED.with_borrow(Clone::clone)
}

/// The wall clock's seconds since the Unix epoch (0 on a clock set before it).
pub fn unix_now() -> UnixSeconds {
    let machine =
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    simulated().map_or_else(machine, |world| world.unix_now())
}

/// Random bytes. An error where the machine has none, which only happens early in its boot.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    match simulated() {
        Some(world) => world.fill(&mut bytes),
        None => getrandom::fill(&mut bytes)?,
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Still;

    impl World for Still {
        fn unix_now(&self) -> UnixSeconds {
            7
        }
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(9);
        }
    }

    #[test]
    fn a_simulation_is_the_world_of_its_own_thread_and_ends() {
        let simulated = simulate(Rc::new(Still));
        assert_eq!((unix_now(), random_bytes().unwrap()), (7, [9; 4]));
        assert!(std::thread::spawn(unix_now).join().unwrap() > 1_000_000_000);
        drop(simulated);
        assert!(unix_now() > 1_000_000_000);
        assert_ne!(random_bytes::<32>().unwrap(), [9; 32]);
    }
}
