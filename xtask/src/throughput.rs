//! TCP throughput between two namespaces, by iperf3.

use anyhow::{Context, Result};
use serde_json::Value;
use std::{net::IpAddr, path::Path, process::Command, time::Duration};
use weft_lab::{Lab, NetNs, Process, run, until};

/// TCP throughput from one namespace to another in Gb/s, by iperf3, over two seconds.
pub fn throughput(lab: &Lab, from: &NetNs, to: &NetNs, address: IpAddr) -> Result<f64> {
    let log = lab.dir().join(format!("iperf3-{}.log", to.name()));
    let server = Process::spawn("iperf3", to.command("iperf3").args(["-s", "-1", "--forceflush"]), &log)?;
    let measured = measure(from, address, &server, &log);
    server.kill()?;
    measured
}

fn measure(from: &NetNs, address: IpAddr, server: &Process, log: &Path) -> Result<f64> {
    until("iperf3's server", Duration::from_secs(5), || {
        let said = server.log_tail(5);
        if said.contains("listening") { Ok(()) } else { Err(said) }
    })?;
    let mut client: Command = from.command("iperf3");
    let text = run(client.args(["-c", &address.to_string(), "-t", "2", "-O", "1", "-J"]))?;
    let json: Value = serde_json::from_str(&text)?;
    let bits = json.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64);
    bits.map(|bits| bits / 1e9).with_context(|| format!("iperf3 told no throughput, see {}", log.display()))
}
