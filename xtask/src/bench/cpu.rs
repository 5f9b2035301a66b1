//! The processors: how long they were busy, and how they are kept from sleeping.

use anyhow::{Context, Result};
use std::{fs, io::Write};

/// Ticks of /proc/stat in a second, the same on every Linux (`USER_HZ`).
const TICKS: f64 = 100.0;

/// Runs something while no processor sleeps: an idle one looks for work all the time instead.
///
/// Most of a round trip between programs that wait for each other is the waking of a processor, which takes as long
/// over every network and is as long as it likes: 40 µs and more of 45, on a virtual machine. Without it what is
/// left is the network's own part, and the difference between two networks is seen.
pub fn awake<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    // Documentation/power/pm_qos_interface.rst: 0 µs of latency, for as long as the file is open.
    let path = "/dev/cpu_dma_latency";
    let mut latency = fs::File::options().write(true).open(path).context(path)?;
    latency.write_all(&0_i32.to_ne_bytes()).context(path)?;
    run()
}

/// Seconds of processor time since boot that were not idle: of all processors, of the kernel and of programs, whoever
/// caused it.
pub fn busy() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    parse(&text).with_context(|| format!("/proc/stat: {text}"))
}

/// user, nice, system, irq and softirq of the line of all processors; not idle, iowait, or what a hypervisor gave
/// to others.
fn parse(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    Some([0, 1, 2, 5, 6].iter().map(|field| ticks.get(*field)).sum::<Option<f64>>()? / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_and_time_given_to_others_is_not_busy() {
        let text = "cpu  216621 1 79937 908299 5342 2 23587 78 0 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n";
        let busy = parse(text).unwrap();
        assert!((busy - (216_621.0 + 1.0 + 79_937.0 + 2.0 + 23_587.0) / 100.0).abs() < 1e-9, "{busy}");
        assert!(parse("cpu  1 2 3\n").is_none());
    }
}
