//! Waiting for a condition, never for a time.

use crate::LabError;
use std::{
    thread,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `look` returns a value, and returns it with the time that took. `look` returns what it saw
/// instead as `Err`: the last of these is in the error when `timeout` has passed.
pub fn until<T>(
    what: &str,
    timeout: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> Result<(T, Duration), LabError> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return Ok((value, start.elapsed())),
            Err(last) if start.elapsed() >= timeout => {
                return Err(LabError::Timeout {
                    what: what.to_owned(),
                    seconds: timeout.as_secs_f64(),
                    last,
                });
            }
            Err(_) => thread::sleep(LOOK_EVERY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_as_soon_as_the_condition_holds() {
        let mut looks = 0;
        let (value, _) = until("third look", Duration::from_secs(5), || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(format!("look {looks}")) }
        })
        .unwrap();
        assert_eq!(value, 3);
    }

    #[test]
    fn a_condition_that_never_holds_is_reported_with_what_was_seen_last() {
        let error = until::<()>("rain", Duration::from_millis(50), || Err("sunshine".into())).unwrap_err();
        assert!(error.to_string().contains("rain") && error.to_string().contains("sunshine"), "{error}");
    }
}
