//! The machine that figures come from.

use anyhow::Result;
use std::{fmt, fs};

/// A machine, as far as it has a say in a figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// How many of it the kernel sees.
    pub count: usize,
    /// Memory in GiB, rounded down.
    pub memory: u64,
    /// The kernel's release.
    pub kernel: String,
}

impl Machine {
    /// This one.
    pub fn this() -> Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo")?;
        let name = cpus.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ").map(|(_, m)| m));
        let memory = fs::read_to_string("/proc/meminfo")?;
        let kib: Option<u64> = memory.split_whitespace().nth(1).and_then(|kib| kib.parse().ok());
        Ok(Self {
            cpu: name.unwrap_or("unknown processor").to_owned(),
            count: cpus.lines().filter(|line| line.starts_with("processor")).count(),
            memory: kib.unwrap_or(0) / (1 << 20),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}, {} GiB, Linux {}", self.count, self.cpu, self.memory, self.kernel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_told_in_one_line() {
        let machine = Machine { cpu: "Z80".into(), count: 2, memory: 16, kernel: "6.1".into() };
        assert_eq!(machine.to_string(), "2 x Z80, 16 GiB, Linux 6.1");
        assert!(Machine::this().unwrap().count > 0);
    }
}
