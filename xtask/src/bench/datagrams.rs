//! Datagrams, counted where a program reads them. What was dropped before that is not received.

use super::place::Place;
use anyhow::{Context, Result};

/// Datagrams over IPv4 that programs have read in a namespace since it exists.
pub fn read_at(place: &Place) -> Result<f64> {
    parse(&place.run(&["cat", "/proc/net/snmp"])?)
}

fn parse(text: &str) -> Result<f64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = lines.next().zip(lines.next()).context("/proc/net/snmp has no line of UDP")?;
    let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "InDatagrams");
    Ok(found.context("/proc/net/snmp has no InDatagrams")?.1.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNMP: &str = "Tcp: ActiveOpens\nTcp: 3\n\
        Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors\n\
        Udp: 571658 0 435655 1007314 435655 0 0\n\
        UdpLite: InDatagrams\nUdpLite: 9\n";

    #[test]
    fn datagrams_read_are_told_apart_from_those_dropped() {
        assert!((parse(SNMP).unwrap() - 571_658.0).abs() < f64::EPSILON);
        assert!(parse("Tcp: 1\n").is_err());
    }
}
