//! The plot for the documents: for each wire, bars of the ratios to the reference, in SVG.

use super::{
    Plan,
    contenders::Contender,
    metrics::{Metric, Quantity},
    results::{Results, Series},
    wires::WireKind,
};
use crate::statistics::Spread;

/// What is worth a group of bars, and how it is called below it.
const GROUPS: [(Metric, Quantity, &str); 11] = [
    (Metric::Tcp1, Quantity::Throughput, "TCP 1 stream"),
    (Metric::Tcp4, Quantity::Throughput, "TCP 4 streams"),
    (Metric::TcpBidir, Quantity::Throughput, "TCP both ways"),
    (Metric::UdpPackets, Quantity::Sent, "UDP 64 B sent"),
    (Metric::UdpPackets, Quantity::Received, "64 B received"),
    (Metric::Connections, Quantity::Rate, "connections"),
    (Metric::Tcp1V6, Quantity::Throughput, "IPv6 TCP"),
    (Metric::TcpTrip64, Quantity::Median, "TCP round trip"),
    (Metric::UdpTrip64, Quantity::Median, "UDP round trip"),
    (Metric::UdpTrip64Awake, Quantity::Median, "UDP trip, awake"),
    (Metric::Tcp1, Quantity::Cpu, "CPU per Gb"),
];

/// Pixels: a bar, the space between groups, the margins, a panel's height and the part of it that bars have.
const BAR: f64 = 14.0;
const GAP: f64 = 22.0;
const LEFT: f64 = 44.0;
const PANEL: f64 = 250.0;
const TOP: f64 = 34.0;
const TALL: f64 = 170.0;
/// The ratio at the top of a panel; a bar that would be taller is cut, its figure stands in it.
const MOST: f64 = 2.0;

/// The whole picture.
pub fn svg(plan: &Plan, results: &Results, caption: &str) -> String {
    let panels: Vec<(f64, String)> = plan.wires.iter().map(|wire| panel(plan, results, *wire)).collect();
    let width = panels.iter().map(|(width, _)| *width).fold(640.0, f64::max);
    let mut y = 0.0;
    let mut parts = Vec::new();
    for (_, panel) in &panels {
        parts.push(format!("<g transform=\"translate(0,{y})\">\n{panel}</g>\n"));
        y += PANEL;
    }
    parts.push(text(LEFT, y + 12.0, "start", "note", caption));
    let body = parts.concat();
    let height = y + 24.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">\n\
         <style>text {{ font: 11px sans-serif; fill: #222 }} .title {{ font-weight: bold; font-size: 13px }} \
         .note {{ fill: #666 }} .figure {{ font-size: 9px }}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

/// A wire's panel, and how wide it is.
fn panel(plan: &Plan, results: &Results, wire: WireKind) -> (f64, String) {
    let contenders: Vec<Contender> =
        plan.contenders(wire).into_iter().filter(|contender| *contender != wire.reference()).collect();
    let groups: Vec<_> = GROUPS.iter().filter(|(metric, ..)| plan.metrics.contains(metric)).collect();
    let mut x = LEFT + GAP;
    let mut bars = String::new();
    for (metric, quantity, name) in groups {
        let start = x;
        for contender in &contenders {
            let series = Series { wire, metric: *metric, quantity: *quantity, contender: *contender };
            bars += &bar(x, *contender, results.ratio(series));
            x += BAR;
        }
        // Short groups still need room for their name.
        x = x.max(start + 84.0);
        let middle = f64::midpoint(start, x);
        bars += &text(middle, TOP + TALL + 16.0, "middle", "", name);
        let better = if quantity.more_is_better() { "more is better" } else { "less is better" };
        bars += &text(middle, TOP + TALL + 29.0, "middle", "note", better);
        x += GAP;
    }
    let title = format!("{}: ratio to {}", wire.title(), wire.reference().name());
    let mut head = text(LEFT, 16.0, "start", "title", &title);
    let mut legend = LEFT + 420.0;
    for contender in &contenders {
        head += &rect(legend, 7.0, 10.0, 10.0, colour(*contender), contender.name());
        head += &text(legend + 14.0, 16.0, "start", "", contender.name());
        legend += 104.0;
    }
    (x.max(legend) + GAP, head + &axis(x) + &bars)
}

fn axis(width: f64) -> String {
    [0.0, 0.5, 1.0, 1.5, MOST]
        .iter()
        .map(|ratio| {
            let (y, stroke) = (height_of(*ratio), if (*ratio - 1.0).abs() < 1e-9 { "#222" } else { "#ddd" });
            let label = text(LEFT - 6.0, y + 4.0, "end", "note", &format!("{ratio:.1}"));
            format!("<line x1=\"{LEFT}\" x2=\"{width}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{stroke}\"/>\n{label}")
        })
        .collect::<Vec<_>>()
        .concat()
}

/// A bar with its spread as a line on it; a cross where there should be one.
fn bar(x: f64, contender: Contender, ratio: Option<Spread>) -> String {
    let middle = x + BAR / 2.0;
    let Some(Spread { median, least, most }) = ratio else {
        return text(middle, height_of(0.0) - 3.0, "middle", "note", "\u{d7}");
    };
    let (y, bottom) = (height_of(median), height_of(0.0));
    let tip = format!("{}: {median:.2} ({least:.2} to {most:.2})", contender.name());
    let (low, high) = (height_of(least), height_of(most));
    let above = (y - 8.0).min(high - 4.0);
    // On a bar that reaches the top there is room only in it.
    let place = if above < TOP + 20.0 { TOP + 28.0 } else { above };
    let baseline = middle + 3.0;
    [
        rect(x + 1.0, y, BAR - 2.0, bottom - y, colour(contender), &tip),
        format!("<line x1=\"{middle}\" x2=\"{middle}\" y1=\"{low:.1}\" y2=\"{high:.1}\" stroke=\"#222\"/>\n"),
        format!("<text class=\"figure\" transform=\"translate({baseline},{place:.1}) rotate(-90)\">"),
        format!("{median:.2}</text>\n"),
    ]
    .concat()
}

fn height_of(ratio: f64) -> f64 {
    TOP + TALL - ratio.clamp(0.0, MOST) / MOST * TALL
}

const fn colour(contender: Contender) -> &'static str {
    match contender {
        Contender::Raw => "#444444",
        Contender::Routed => "#b8a37e",
        Contender::Kernel => "#74a9cf",
        Contender::Weft => "#0570b0",
        Contender::Direct => "#023858",
        Contender::DockerClassic => "#fdae6b",
        Contender::DockerSwarm => "#e6550d",
        Contender::DockerBridge => "#bdbdbd",
    }
}

fn rect(x: f64, y: f64, width: f64, height: f64, fill: &str, tip: &str) -> String {
    format!(
        "<rect x=\"{x}\" y=\"{y:.1}\" width=\"{width}\" height=\"{height:.1}\" fill=\"{fill}\"><title>{}</title></rect>\n",
        escaped(tip)
    )
}

fn text(x: f64, y: f64, anchor: &str, class: &str, words: &str) -> String {
    format!(
        "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" class=\"{class}\">{}</text>\n",
        escaped(words)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plot_has_a_bar_for_each_ratio_and_a_cross_for_what_is_missing() {
        let plan = Plan {
            wires: vec![WireKind::Offload],
            metrics: vec![Metric::Tcp1],
            only: vec![Contender::Raw, Contender::Kernel, Contender::Weft],
            rounds: 3,
            seconds: 1,
            quick: false,
        };
        let svg = svg(&plan, &super::super::results::tests::sample(), "Z80 <2>");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("<title>weft: 0.90 (0.90 to 0.90)</title>"), "{svg}");
        assert!(svg.contains("<title>weft: 1.11 (1.11 to 1.11)</title>"), "{svg}");
        assert_eq!(svg.matches('\u{d7}').count(), 2, "two groups lack the kernel path");
        assert!(svg.contains("Z80 &lt;2&gt;"));
        assert_eq!(svg.matches("<g ").count(), svg.matches("</g>").count());
    }

    #[test]
    fn a_bar_never_leaves_its_panel() {
        assert!((height_of(17.0) - TOP).abs() < f64::EPSILON);
        assert!((height_of(0.0) - TOP - TALL).abs() < f64::EPSILON);
    }
}
