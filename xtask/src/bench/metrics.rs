//! What is measured: by which load, and which quantities it gives.

use super::{cpu::awake, iperf, peer, place::Pair, sockperf};
use anyhow::{Context, Result};
use clap::ValueEnum;

/// A load, run for some seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Metric {
    /// One TCP stream
    #[value(name = "tcp-1")]
    Tcp1,
    /// Four TCP streams
    #[value(name = "tcp-4")]
    Tcp4,
    /// A TCP stream each way at the same time
    #[value(name = "tcp-bidir")]
    TcpBidir,
    /// TCP round trip of 64 bytes
    #[value(name = "tcp-rtt-64")]
    TcpTrip64,
    /// The same with the processors kept awake
    #[value(name = "tcp-rtt-64-awake")]
    TcpTrip64Awake,
    /// TCP round trip of 512 bytes
    #[value(name = "tcp-rtt-512")]
    TcpTrip512,
    /// The same of 1400 bytes
    #[value(name = "tcp-rtt-1400")]
    TcpTrip1400,
    /// UDP round trip of 64 bytes
    #[value(name = "udp-rtt-64")]
    UdpTrip64,
    /// The same with the processors kept awake
    #[value(name = "udp-rtt-64-awake")]
    UdpTrip64Awake,
    /// UDP round trip of 512 bytes
    #[value(name = "udp-rtt-512")]
    UdpTrip512,
    /// The same of 1400 bytes
    #[value(name = "udp-rtt-1400")]
    UdpTrip1400,
    /// UDP packets of 64 bytes, as many as go
    #[value(name = "udp-pps")]
    UdpPackets,
    /// New TCP connections, each for one byte to and fro
    #[value(name = "connections")]
    Connections,
    /// One TCP stream over IPv6
    #[value(name = "tcp-1-v6")]
    Tcp1V6,
    /// UDP round trip of 64 bytes over IPv6
    #[value(name = "udp-rtt-64-v6")]
    UdpTrip64V6,
}

impl Metric {
    /// Those of `--quick`.
    pub const QUICK: [Self; 6] = [
        Self::Tcp1,
        Self::TcpTrip64,
        Self::UdpTrip64,
        Self::UdpTrip64Awake,
        Self::UdpPackets,
        Self::Connections,
    ];

    /// Its name as in `--metric`.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Its name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Tcp1 => "TCP, 1 stream",
            Self::Tcp4 => "TCP, 4 streams",
            Self::TcpBidir => "TCP, both ways",
            Self::TcpTrip64 => "TCP round trip, 64 B",
            Self::TcpTrip64Awake => "TCP round trip, awake",
            Self::TcpTrip512 => "TCP round trip, 512 B",
            Self::TcpTrip1400 => "TCP round trip, 1400 B",
            Self::UdpTrip64 => "UDP round trip, 64 B",
            Self::UdpTrip64Awake => "UDP round trip, awake",
            Self::UdpTrip512 => "UDP round trip, 512 B",
            Self::UdpTrip1400 => "UDP round trip, 1400 B",
            Self::UdpPackets => "UDP packets, 64 B",
            Self::Connections => "New TCP connections",
            Self::Tcp1V6 => "IPv6 TCP, 1 stream",
            Self::UdpTrip64V6 => "IPv6 UDP round trip, 64 B",
        }
    }

    /// What it gives.
    pub fn quantities(self) -> &'static [Quantity] {
        match self {
            Self::Tcp1 | Self::Tcp4 | Self::TcpBidir | Self::Tcp1V6 => {
                &[Quantity::Throughput, Quantity::Cpu, Quantity::Retransmits]
            }
            Self::UdpPackets => &[Quantity::Sent, Quantity::Received],
            Self::Connections => &[Quantity::Rate],
            _ => &[Quantity::Median, Quantity::P99],
        }
    }

    /// Whether it is about IPv6 inside the network.
    pub fn is_ipv6(self) -> bool {
        matches!(self, Self::Tcp1V6 | Self::UdpTrip64V6)
    }

    /// Runs it once. `quick`: without sockperf, which rests for two seconds at every start.
    pub fn measure(self, pair: &Pair, seconds: u64, quick: bool) -> Result<Sample> {
        let trip = |tcp, size| {
            if quick {
                return peer::round_trip(pair, pair.v4, tcp, size, seconds);
            }
            sockperf::round_trip(pair, tcp, size, seconds)
        };
        match self {
            Self::Tcp1 => iperf::streams(pair, pair.v4, seconds, &[]),
            Self::Tcp4 => iperf::streams(pair, pair.v4, seconds, &["-P", "4"]),
            Self::TcpBidir => iperf::streams(pair, pair.v4, seconds, &["--bidir"]),
            Self::TcpTrip64 => trip(true, 64),
            Self::TcpTrip64Awake => awake(|| trip(true, 64)),
            Self::TcpTrip512 => trip(true, 512),
            Self::TcpTrip1400 => trip(true, 1400),
            Self::UdpTrip64 => trip(false, 64),
            Self::UdpTrip64Awake => awake(|| trip(false, 64)),
            Self::UdpTrip512 => trip(false, 512),
            Self::UdpTrip1400 => trip(false, 1400),
            Self::UdpPackets if quick => peer::packets(pair, 64, seconds),
            Self::UdpPackets => sockperf::packets(pair, 64, seconds),
            Self::Connections => peer::connections(pair, seconds),
            Self::Tcp1V6 => iperf::streams(pair, pair.v6.context("no IPv6")?, seconds, &[]),
            Self::UdpTrip64V6 => peer::round_trip(pair, pair.v6.context("no IPv6")?, false, 64, seconds),
        }
    }

    /// How many tenths of a second that takes, all in all.
    pub fn tenths(self, seconds: u16, quick: bool) -> usize {
        let sockperf = !quick
            && !self.is_ipv6()
            && !matches!(self, Self::Tcp1 | Self::Tcp4 | Self::TcpBidir | Self::Connections);
        usize::from(seconds) * 10 + if sockperf { 24 } else { 2 }
    }
}

/// What one run gave.
pub type Sample = Vec<(Quantity, f64)>;

/// A quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quantity {
    /// What arrived, in Gb/s.
    Throughput,
    /// Busy seconds of all processors of the machine for a gigabit that arrived.
    Cpu,
    /// TCP segments sent again for a gigabit that arrived.
    Retransmits,
    /// The median, in µs.
    Median,
    /// The 99th percentile, in µs.
    P99,
    /// Thousands sent per second.
    Sent,
    /// Thousands received per second, by the program at the other end.
    Received,
    /// Thousands per second.
    Rate,
}

impl Quantity {
    /// Its name for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Cpu => "cpu",
            Self::Retransmits => "retransmits",
            Self::Median => "median",
            Self::P99 => "p99",
            Self::Sent => "sent",
            Self::Received => "received",
            Self::Rate => "rate",
        }
    }

    /// Its unit.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Throughput => "Gb/s",
            Self::Cpu => "CPU s/Gb",
            Self::Retransmits => "resent/Gb",
            Self::Median => "\u{b5}s",
            Self::P99 => "\u{b5}s, p99",
            Self::Sent => "k/s sent",
            Self::Received => "k/s received",
            Self::Rate => "k/s",
        }
    }

    /// Whether more of it is better.
    pub const fn more_is_better(self) -> bool {
        matches!(self, Self::Throughput | Self::Sent | Self::Received | Self::Rate)
    }

    /// Whether it is told as a ratio to the reference. Of retransmissions the reference often has none.
    pub const fn is_ratio(self) -> bool {
        !matches!(self, Self::Retransmits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_name_that_selects_it_and_something_to_give() {
        for metric in Metric::value_variants() {
            assert_eq!(Metric::from_str(&metric.name(), false), Ok(*metric));
            assert!(!metric.quantities().is_empty() && !metric.title().is_empty());
        }
    }
}
