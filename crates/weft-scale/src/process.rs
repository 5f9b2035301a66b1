//! What a process uses, and what went over the wire, as /proc tells.

use anyhow::{Context, Result};
use serde::Serialize;
use std::{fs, time::Instant};

/// A process to look at.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub i32);

/// What it uses over a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Of one core, in per cent: 200 is two cores.
    pub cpu_percent: f64,
    /// Resident memory at the end, in MiB.
    pub rss_mib: f64,
}

/// A process at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Glimpse {
    process: Process,
    at: Instant,
    ticks: u64,
}

impl Process {
    /// This one.
    pub fn this() -> Self {
        Self(i32::try_from(std::process::id()).unwrap_or(i32::MAX))
    }

    /// Looks at it.
    pub fn glimpse(self) -> Result<Glimpse> {
        let path = format!("/proc/{}/stat", self.0);
        let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
        // Field 2 is a name in brackets that may hold anything; 14 and 15 are the ticks in user and kernel mode.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let tick = |n: usize| fields.split_whitespace().nth(n).and_then(|f| f.parse::<u64>().ok());
        let ticks = tick(11).zip(tick(12)).with_context(|| path)?;
        Ok(Glimpse { process: self, at: Instant::now(), ticks: ticks.0 + ticks.1 })
    }

    /// Its resident memory in MiB.
    pub fn rss_mib(self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.0);
        let status = fs::read_to_string(&path).with_context(|| path.clone())?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        Ok(kib.and_then(|kib| kib.trim().parse::<f64>().ok()).with_context(|| path)? / 1024.0)
    }
}

impl Glimpse {
    /// What the process has used since.
    #[allow(clippy::cast_precision_loss)]
    pub fn usage(&self) -> Result<Usage> {
        let now = self.process.glimpse()?;
        // USER_HZ is 100 on every architecture that Linux has today.
        let seconds = (now.ticks - self.ticks) as f64 / 100.0;
        let cpu_percent = 100.0 * seconds / (now.at - self.at).as_secs_f64();
        Ok(Usage { cpu_percent, rss_mib: self.process.rss_mib()? })
    }
}

/// Bytes that a device of this network namespace has carried: received and sent, or over and back where it is `lo`.
pub fn wire_bytes(device: &str) -> Result<u64> {
    let devices = fs::read_to_string("/proc/thread-self/net/dev").context("/proc/net/dev")?;
    let line = devices.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
    let line = line.with_context(|| format!("there is no device {device}"))?;
    let field = |n: usize| line.split_whitespace().nth(n).and_then(|field| field.parse::<u64>().ok());
    let (received, sent) = field(0).zip(field(8)).with_context(|| format!("{device}: {line}"))?;
    Ok(if device == "lo" { received } else { received + sent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_time() {
        let glimpse = Process::this().glimpse().unwrap();
        while glimpse.usage().unwrap().cpu_percent <= 0.0 {}
        assert!(glimpse.usage().unwrap().rss_mib > 1.0);
        assert!(wire_bytes("lo").is_ok() && wire_bytes("none").is_err());
    }
}
