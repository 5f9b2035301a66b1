//! The table that people read, and the JSON that programs do.

use super::{
    Plan,
    contenders::Contender,
    results::{Results, Series},
    wires::WireKind,
};
use crate::{machine::Machine, statistics::Spread};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Write};

/// Where and with what it was measured.
pub struct Setting {
    /// When, UTC, as in `2026-11-24T215619Z`.
    pub date: String,
    /// Where.
    pub machine: Machine,
    /// Program and version.
    pub versions: BTreeMap<String, String>,
    /// The load average of the minute before it began: what else the machine was doing.
    pub load: String,
    /// The mean frame on each wire, in bytes, as it left the first host.
    pub frames: BTreeMap<(WireKind, Contender), f64>,
}

/// Width of the first column.
const TITLE: usize = 52;
/// Width of each contender's.
const COLUMN: usize = 22;

/// The table: for each wire the reference's own figures, and the others' ratios to them.
pub fn table(plan: &Plan, results: &Results) -> String {
    plan.wires.iter().map(|wire| of_wire(plan, results, *wire)).collect::<Vec<_>>().join("\n")
}

fn of_wire(plan: &Plan, results: &Results, wire: WireKind) -> String {
    let contenders: Vec<Contender> = plan.contenders(wire);
    let reference = wire.reference().name();
    let mut lines = vec![
        format!(
            "{}: {reference} itself, the others as ratios to {reference}; median (least to most) of {} rounds",
            wire.title(),
            plan.rounds
        ),
        line("", contenders.iter().map(|c| c.name().to_owned())),
    ];
    for metric in &plan.metrics {
        for (number, quantity) in metric.quantities().iter().enumerate() {
            let title = if number == 0 { metric.title() } else { "" };
            let better = match (quantity.is_ratio(), quantity.more_is_better()) {
                (true, true) => "",
                (true, false) => " (less is better)",
                (false, _) => " (no ratio)",
            };
            let title = format!("{title:<26}{}{better}", quantity.unit());
            let cells = contenders.iter().map(|contender| {
                cell(results, Series { wire, metric: *metric, quantity: *quantity, contender: *contender })
            });
            lines.push(line(&title, cells));
        }
    }
    lines.iter().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

fn line(title: &str, cells: impl Iterator<Item = String>) -> String {
    cells.fold(format!("{title:<TITLE$}"), |mut line, cell| {
        // Writing into a String cannot fail.
        let _always: Result<(), _> = write!(line, " {cell:>COLUMN$}");
        line
    })
}

fn cell(results: &Results, series: Series) -> String {
    if series.metric.is_ipv6() && series.contender.lacks_ipv6() {
        return "has no IPv6".to_owned();
    }
    let itself = series.contender == series.wire.reference() || !series.quantity.is_ratio();
    let spread = if itself { results.absolute(series) } else { results.ratio(series) };
    match spread {
        Some(Spread { median, least, most }) if itself => {
            format!("{} ({} to {})", short(median), short(least), short(most))
        }
        Some(Spread { median, least, most }) => format!("{median:.2} ({least:.2} to {most:.2})"),
        None => "MISSING".to_owned(),
    }
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Everything, every round's value included.
pub fn json(plan: &Plan, setting: &Setting, results: &Results) -> Value {
    let machine = &setting.machine;
    let spread = |spread: Option<Spread>| {
        spread.map(|s| json!({ "median": s.median, "least": s.least, "most": s.most }))
    };
    let frames: Vec<Value> = setting.frames.iter().map(|((wire, contender), bytes)| {
        json!({ "wire": wire.name(), "contender": contender.name(), "mean_bytes": bytes })
    }).collect();
    let all: Vec<Value> = results
        .series()
        .map(|series| {
            let Series { wire, metric, quantity, contender } = series;
            json!({
                "wire": wire.name(),
                "metric": metric.name(),
                "quantity": quantity.name(),
                "unit": quantity.unit(),
                "more_is_better": quantity.more_is_better(),
                "contender": contender.name(),
                "values": results.values(series),
                "absolute": spread(results.absolute(series)),
                "reference": wire.reference().name(),
                "ratio": spread(results.ratio(series).filter(|_| quantity.is_ratio())),
            })
        })
        .collect();
    json!({
        "date": setting.date,
        "machine": {
            "cpu": machine.cpu,
            "cpus": machine.count,
            "memory_gib": machine.memory,
            "kernel": machine.kernel,
            "load_before": setting.load,
        },
        "versions": setting.versions,
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "quick": plan.quick,
        "frames": frames,
        "results": all,
        "failures": results.failures.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::metrics::Metric, *};

    fn plan() -> Plan {
        Plan {
            wires: vec![WireKind::Offload],
            metrics: vec![Metric::Tcp1, Metric::Tcp1V6],
            only: vec![Contender::Raw, Contender::Kernel, Contender::Weft, Contender::DockerSwarm],
            rounds: 3,
            seconds: 1,
            quick: false,
        }
    }

    #[test]
    fn the_table_has_the_reference_itself_and_the_others_as_ratios() {
        let text = table(&plan(), &super::super::results::tests::sample());
        let lines: Vec<Vec<&str>> =
            text.lines().map(|l| l.split("  ").filter(|w| !w.is_empty()).map(str::trim).collect()).collect();
        assert_eq!(lines[1], ["raw", "kernel", "weft", "docker-swarm"]);
        assert_eq!(
            lines[2],
            [
                "TCP, 1 stream",
                "Gb/s",
                "10.0 (10.0 to 20.0)",
                "MISSING",
                "0.90 (0.90 to 0.90)",
                "0.60 (0.60 to 0.60)"
            ]
        );
        assert!(lines[3].contains(&"CPU s/Gb (less is better)") && lines[3].contains(&"1.11 (1.11 to 1.11)"));
        assert_eq!(lines[4].iter().filter(|cell| **cell == "0.00 (0.00 to 0.00)").count(), 3, "{text}");
        assert_eq!(lines[5].last(), Some(&"has no IPv6"), "{text}");
    }

    #[test]
    fn the_json_has_the_machine_every_value_and_every_failure() {
        let machine = Machine { cpu: "Z80".into(), count: 2, memory: 16, kernel: "6.1".into() };
        let setting = Setting {
            date: "2026-11-24T215619Z".into(),
            machine,
            versions: BTreeMap::from([("weft".to_owned(), "0.1.0".to_owned())]),
            load: "0.10".into(),
            frames: BTreeMap::from([((WireKind::Frames, Contender::Raw), 1514.0)]),
        };
        let json = json(&plan(), &setting, &super::super::results::tests::sample());
        assert_eq!(json["machine"]["cpus"], 2);
        assert_eq!(json["failures"][0], "MISSING: kernel: no / space");
        let all = json["results"].as_array().unwrap();
        let of = |quantity: &str| {
            all.iter().find(|r| r["contender"] == "weft" && r["quantity"] == quantity).unwrap()
        };
        assert_eq!(of("throughput")["values"], json!([9.0, 18.0, 9.0]));
        assert!((of("throughput")["ratio"]["median"].as_f64().unwrap() - 0.9).abs() < 1e-9);
        assert_eq!(of("retransmits")["ratio"], Value::Null);
    }

    #[test]
    fn figures_have_three_digits_that_count() {
        assert_eq!([143.25, 18.52, 1.0, 0.0, 0.1266].map(short), ["143", "18.5", "1.00", "0.00", "0.127"]);
    }
}
