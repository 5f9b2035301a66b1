//! Something happens while containers on two hosts talk, and what they have met is counted.

use crate::traffic::{EndOf, Flow, Run, flows_between, moved_on};
use std::{fmt, thread, time::Duration};
use weft_lab::Fixture;

/// Both ways over IPv4. The connections keep to the pace of calls: streams as fast as can be would fill queues, and what
/// datagrams lose there is no fault's.
const PAIRS: [(&str, &str, usize); 2] = [("h1/c1", "h2/c1", 0), ("h2/c1", "h1/c1", 0)];

/// What traffic has met. Every byte that arrived was the right one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    /// Datagrams that were sent.
    pub sent: u64,
    /// Datagrams that did not arrive.
    pub lost: u64,
    /// Bytes that arrived in streams, each of which is complete.
    pub bytes: u64,
    /// The longest time in which a flow of datagrams stood still.
    pub gap: Duration,
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, lost, bytes, gap } = self;
        write!(
            f,
            "{lost} of {sent} datagrams lost, {bytes} bytes in streams complete, longest gap {} ms",
            gap.as_millis()
        )
    }
}

/// Lets `happen` under traffic both ways between `h1/c1` and `h2/c1`, TCP and UDP with sequence numbers. Fails when a
/// stream ends early or anything arrives that is not what was sent; how much is lost is for the caller to judge.
pub fn under_traffic<T>(lab: &mut Fixture, happen: impl FnOnce(&mut Fixture, &[Flow]) -> T) -> (T, Met) {
    under_traffic_between(lab, &PAIRS, happen)
}

/// The same between `pairs`: see [`flows_between`].
pub fn under_traffic_between<T>(
    lab: &mut Fixture,
    pairs: &[(&str, &str, usize)],
    happen: impl FnOnce(&mut Fixture, &[Flow]) -> T,
) -> (T, Met) {
    let (flows, run) = (flows_between(lab, pairs, |_| false), Run::default());
    let value = thread::scope(|scope| {
        let _end = EndOf(&run);
        for flow in &flows {
            scope.spawn(|| flow.send(&run));
            scope.spawn(|| flow.receive(&run));
        }
        moved_on(&flows, "its beginning");
        let value = happen(lab, &flows);
        moved_on(&flows, "what happened");
        value
    });
    run.assert_no_fault();
    let mut met = Met::default();
    for flow in &flows {
        if flow.is_stream() {
            met.bytes += flow.arrived();
        } else {
            met.sent += flow.sent();
            met.lost += flow.lost();
            met.gap = met.gap.max(flow.gap());
        }
    }
    (value, met)
}
