//! What was measured: by wire, metric, quantity and contender, a value for each round.

use super::{
    contenders::Contender,
    metrics::{Metric, Quantity, Sample},
    wires::WireKind,
};
use crate::statistics::Spread;
use std::{collections::BTreeMap, fmt};

/// A series of values, one for each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    /// Over which wire.
    pub wire: WireKind,
    /// By which load.
    pub metric: Metric,
    /// Of what.
    pub quantity: Quantity,
    /// Whose.
    pub contender: Contender,
}

/// Something that was to be measured and was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Whose.
    pub contender: Contender,
    /// Where: a wire, a metric and a round, as far as it had come.
    pub at: String,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (contender, at) = (self.contender.name(), &self.at);
        let reason = self.reason.trim().replace('\n', " / ");
        match at.as_str() {
            "" => write!(f, "MISSING: {contender}: {reason}"),
            at => write!(f, "FAILED: {contender}, {at}: {reason}"),
        }
    }
}

/// All of a run.
#[derive(Debug, Default)]
pub struct Results {
    values: BTreeMap<Series, BTreeMap<usize, f64>>,
    /// What is not in it although it was asked for.
    pub failures: Vec<Failure>,
}

impl Results {
    /// Takes what a round gave.
    pub fn add(
        &mut self,
        wire: WireKind,
        metric: Metric,
        contender: Contender,
        round: usize,
        sample: Sample,
    ) {
        for (quantity, value) in sample {
            let series = Series { wire, metric, quantity, contender };
            self.values.entry(series).or_default().insert(round, value);
        }
    }

    /// All series.
    pub fn series(&self) -> impl Iterator<Item = Series> {
        self.values.keys().copied()
    }

    /// The values of a series, by round.
    pub fn values(&self, series: Series) -> Vec<f64> {
        self.values.get(&series).map(|rounds| rounds.values().copied().collect()).unwrap_or_default()
    }

    /// The values themselves.
    pub fn absolute(&self, series: Series) -> Option<Spread> {
        Spread::of(&self.values(series))
    }

    /// The ratios to the reference, each of the two values of one round: what disturbed the machine in that round
    /// disturbed both.
    pub fn ratio(&self, series: Series) -> Option<Spread> {
        let reference = Series { contender: series.wire.reference(), ..series };
        let (ours, theirs) = (self.values.get(&series)?, self.values.get(&reference)?);
        let ratios = ours.iter().filter_map(|(round, value)| Some(value / theirs.get(round)?));
        Spread::of(&ratios.filter(|ratio| ratio.is_finite()).collect::<Vec<_>>())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Three rounds of two metrics: weft at 0.9 of raw, Docker without IPv6, the kernel path missing.
    pub fn sample() -> Results {
        let mut results = Results::default();
        let wire = WireKind::Offload;
        for (round, raw) in [10.0, 20.0, 10.0].into_iter().enumerate() {
            for (contender, part) in
                [(Contender::Raw, 1.0), (Contender::Weft, 0.9), (Contender::DockerSwarm, 0.6)]
            {
                let sample = vec![
                    (Quantity::Throughput, raw * part),
                    (Quantity::Cpu, 0.1 / part),
                    (Quantity::Retransmits, 0.0),
                ];
                results.add(wire, Metric::Tcp1, contender, round, sample.clone());
                if !contender.lacks_ipv6() {
                    results.add(wire, Metric::Tcp1V6, contender, round, sample);
                }
            }
        }
        results.failures.push(Failure {
            contender: Contender::Kernel,
            at: String::new(),
            reason: "no\nspace".into(),
        });
        results
    }

    fn series(contender: Contender) -> Series {
        Series { wire: WireKind::Offload, metric: Metric::Tcp1, quantity: Quantity::Throughput, contender }
    }

    #[test]
    fn a_ratio_pairs_the_values_of_a_round() {
        let results = sample();
        let ratio = results.ratio(series(Contender::Weft)).unwrap();
        assert!((ratio.least - 0.9).abs() < 1e-9 && (ratio.most - 0.9).abs() < 1e-9, "{ratio:?}");
        assert_eq!(results.ratio(series(Contender::Kernel)), None);
    }

    #[test]
    fn a_round_that_one_of_the_two_lacks_is_in_no_ratio() {
        let mut results = Results::default();
        let (wire, metric) = (WireKind::Offload, Metric::Tcp1);
        results.add(wire, metric, Contender::Raw, 1, vec![(Quantity::Throughput, 10.0)]);
        for (round, value) in [(0, 1.0), (1, 5.0)] {
            results.add(wire, metric, Contender::Weft, round, vec![(Quantity::Throughput, value)]);
        }
        let ratio = results.ratio(series(Contender::Weft)).unwrap();
        assert!((ratio.median - 0.5).abs() < 1e-9, "{ratio:?}");
    }

    #[test]
    fn a_contender_that_is_not_there_is_told_loudly_in_one_line() {
        assert_eq!(sample().failures[0].to_string(), "MISSING: kernel: no / space");
    }
}
