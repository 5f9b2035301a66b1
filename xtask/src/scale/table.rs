//! The figures as tables for people and for the documents.

use serde_json::Value;

/// One line for each size and store.
pub fn simulated(runs: &[Value]) -> String {
    let head = [
        "store",
        "hosts",
        "endpoints",
        "networks",
        "converged, s",
        "one change, p50/p99 ms",
        "storm/s",
        "in the storm, p50/p99 ms",
        "requests/s rest/storm",
        "wire MB/s rest/storm",
        "store CPU % rest/storm",
        "store MiB on disk",
        "daemon MiB rest/storm",
        "daemon CPU % rest/storm",
        "MiB a simulated host",
    ];
    let line = |run: &Value| {
        let number = |path: &str| run.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let usage = |phase: &str, name: &str, what: &str| {
            let all = run.pointer(&format!("/{phase}/processes")).and_then(Value::as_array);
            let one = all.into_iter().flatten().find(|pair| pair[0] == name);
            one.and_then(|pair| pair[1][what].as_f64()).unwrap_or(f64::NAN)
        };
        let reach = |phase: &str| {
            let of = |what: &str| number(&format!("/{phase}/reach/{what}"));
            format!("{:.0} / {:.0}", of("p50_ms"), of("p99_ms"))
        };
        let both = |of: &dyn Fn(&str) -> f64, digits: usize| {
            format!("{:.digits$} / {:.digits$}", of("rest"), of("storm"))
        };
        vec![
            run["store"].as_str().unwrap_or_default().to_owned(),
            run["shape"]["hosts"].to_string(),
            run["shape"]["endpoints"].to_string(),
            run["shape"]["networks"].to_string(),
            format!("{:.1}", number("/convergence_s")),
            reach("single"),
            format!("{:.0}", number("/storm_rate")),
            reach("storm"),
            both(&|phase| number(&format!("/{phase}/requests_per_s")), 0),
            both(&|phase| number(&format!("/{phase}/wire_bytes_per_s")) / 1e6, 2),
            both(&|phase| usage(phase, "store", "cpu_percent"), 0),
            format!("{:.0}", number("/store_bytes") / f64::from(1 << 20)),
            both(&|phase| usage(phase, "daemon", "rss_mib"), 0),
            both(&|phase| usage(phase, "daemon", "cpu_percent"), 1),
            format!("{:.1}", number("/rss_mib_per_host")),
        ]
    };
    markdown(&head, &runs.iter().map(line).collect::<Vec<_>>())
}

/// One column for each data path.
pub fn real_host(runs: &[Value]) -> String {
    let mut head = vec!["of one real host"];
    head.extend(runs.iter().map(|run| run["datapath"].as_str().unwrap_or_default()));
    let mut names: Vec<&String> =
        runs.iter().filter_map(Value::as_object).flat_map(|run| run.keys()).collect();
    names.sort();
    names.dedup();
    let line = |name: &&String| {
        let mut cells = vec![name.replace('_', " ")];
        cells.extend(runs.iter().map(|run| match &run[name.as_str()] {
            Value::Number(number) if number.is_f64() => format!("{:.2}", number.as_f64().unwrap_or(f64::NAN)),
            other => other.to_string(),
        }));
        cells
    };
    let lines: Vec<_> = names.iter().filter(|name| name.as_str() != "datapath").map(line).collect();
    markdown(&head, &lines)
}

fn markdown(head: &[&str], lines: &[Vec<String>]) -> String {
    let row = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
    let mut text = row(head.to_vec()) + &format!("|{}\n", "---|".repeat(head.len()));
    text.extend(lines.iter().map(|cells| row(cells.iter().map(String::as_str).collect())));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_run_is_a_line_with_its_figures() {
        let usage = json!({ "cpu_percent": 0.5, "rss_mib": 40.2 });
        let phase = json!({
            "requests_per_s": 12.4, "wire_bytes_per_s": 2e6,
            "reach": { "p50_ms": 9.6, "p99_ms": 30.1 }, "processes": [["daemon", usage], ["store", usage]],
        });
        let run = json!({
            "store": "etcd", "shape": { "hosts": 7, "endpoints": 8, "networks": 9 }, "convergence_s": 1.5,
            "rest": phase, "single": phase, "storm": phase, "storm_rate": 999.6, "store_bytes": 1 << 21,
            "rss_mib_per_host": 3.0,
        });
        let text = simulated(&[run]);
        let line = text.lines().last().unwrap();
        assert_eq!(
            line,
            "| etcd | 7 | 8 | 9 | 1.5 | 10 / 30 | 1000 | 10 / 30 | 12 / 12 | 2.00 / 2.00 | 0 / 0 | 2 | 40 / 40 | 0.5 / 0.5 | 3.0 |"
        );
    }
}
