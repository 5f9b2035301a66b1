//! The plot for the documents: how what one host costs grows with the cluster, in SVG.

use serde_json::Value;

/// A figure of a run.
type Figure = fn(&Value) -> Option<f64>;

/// What is drawn, in panels side by side: its title, and its figure.
const PANELS: [(&str, Figure); 4] = [
    ("a change reaches every host: p99, ms", |run| run.pointer("/single/reach/p99_ms")?.as_f64()),
    ("the same at the storm's rate: p99, ms", |run| run.pointer("/storm/reach/p99_ms")?.as_f64()),
    ("memory of one daemon in the storm, MiB", |run| of_daemon(run, "rss_mib")),
    ("CPU of one daemon in the storm, % of a core", |run| of_daemon(run, "cpu_percent")),
];

fn of_daemon(run: &Value, what: &str) -> Option<f64> {
    let all = run.pointer("/storm/processes")?.as_array()?;
    all.iter().find(|pair| pair[0] == "daemon")?[1][what].as_f64()
}

/// Pixels: a panel, its margins.
const WIDE: f64 = 300.0;
const TALL: f64 = 220.0;
const MARGIN: f64 = 44.0;

/// The whole picture: hosts to the right, one line for each store.
pub fn svg(runs: &[Value], caption: &str) -> String {
    let panels = PANELS.iter().enumerate().map(|(number, (title, of))| {
        let (column, row) = (f64::from(u32::try_from(number % 2).unwrap_or(0)), number / 2);
        let (x, y) = (column * WIDE, f64::from(u32::try_from(row).unwrap_or(0)) * TALL);
        format!("<g transform=\"translate({x},{y})\">\n{}</g>\n", panel(runs, title, *of))
    });
    let body: String = panels.collect();
    let (width, height) = (2.0 * WIDE, 2.0 * TALL + 24.0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">\n\
         <style>text {{ font: 11px sans-serif; fill: #222 }} .title {{ font-weight: bold }} .note {{ fill: #666 }}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}<text x=\"8\" y=\"{}\" class=\"note\">{caption}</text>\n</svg>\n",
        height - 8.0
    )
}

fn panel(runs: &[Value], title: &str, of: Figure) -> String {
    let hosts = |run: &Value| run.pointer("/shape/hosts").and_then(Value::as_f64).unwrap_or(0.0);
    let most_hosts = runs.iter().map(hosts).fold(1.0, f64::max);
    let most = runs.iter().filter_map(of).fold(1e-9, f64::max) * 1.15;
    let x = |hosts: f64| MARGIN + hosts / most_hosts * (WIDE - MARGIN - 24.0);
    let y = |value: f64| TALL - MARGIN - value / most * (TALL - MARGIN - 36.0);
    let mut parts = vec![format!("<text x=\"8\" y=\"16\" class=\"title\">{title}</text>\n")];
    let (left, right, bottom) = (x(0.0), x(most_hosts), y(0.0));
    parts.push(format!(
        "<line x1=\"{left}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\" stroke=\"#222\"/>\n"
    ));
    for (number, (store, colour)) in [("etcd", "#0570b0"), ("embedded", "#e6550d")].iter().enumerate() {
        let points: Vec<(f64, f64, f64)> = runs
            .iter()
            .filter(|run| run["store"] == *store)
            .filter_map(|run| of(run).map(|value| (x(hosts(run)), y(value), value)))
            .collect();
        if points.is_empty() {
            continue;
        }
        let line: Vec<String> = points.iter().map(|(x, y, _)| format!("{x:.1},{y:.1}")).collect();
        parts.push(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
            line.join(" ")
        ));
        for (x, y, value) in points {
            parts.push(format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>\n"));
            let above = y - 6.0;
            parts.push(format!(
                "<text x=\"{x:.1}\" y=\"{above:.1}\" text-anchor=\"middle\">{value:.1}</text>\n"
            ));
        }
        let at = 30.0 + 60.0 * f64::from(u32::try_from(number).unwrap_or(0));
        parts.push(format!("<text x=\"{at}\" y=\"30\" style=\"fill:{colour}\">{store}</text>\n"));
    }
    let mut ticks: Vec<f64> = runs.iter().map(hosts).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    for tick in ticks {
        let below = bottom + 15.0;
        parts.push(format!(
            "<text x=\"{:.1}\" y=\"{below}\" text-anchor=\"middle\" class=\"note\">{tick}</text>\n",
            x(tick)
        ));
    }
    parts.push(format!(
        "<text x=\"{right}\" y=\"{}\" text-anchor=\"end\" class=\"note\">hosts</text>\n",
        bottom + 29.0
    ));
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_run_is_a_point_in_every_panel_that_has_its_figure() {
        let run = |hosts: u64| {
            json!({
                "store": "etcd", "shape": { "hosts": hosts },
                "single": { "reach": { "p99_ms": 5.0 } },
                "storm": { "reach": { "p99_ms": 50.0 }, "processes": [["daemon", { "rss_mib": 40, "cpu_percent": 2 }]] },
            })
        };
        let text = svg(&[run(100), run(1000)], "Z80");
        assert_eq!(text.matches("<circle").count(), 8);
        assert_eq!(text.matches("<polyline").count(), 4);
        assert!(text.ends_with("</svg>\n") && text.contains("Z80"));
    }
}
