//! TCP streams, by iperf3.

use super::{
    cpu,
    metrics::{Quantity, Sample},
    place::{End, Pair, Server},
};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::net::IpAddr;

/// iperf3's own port.
const PORT: u16 = 5201;

/// Streams from one place to the other for some seconds. `more` are further arguments of the client.
///
/// Nothing is left out at the start: the processor time is of the same seconds as the bytes.
pub fn streams(pair: &Pair, address: IpAddr, seconds: u64, more: &[&str]) -> Result<Sample> {
    let address = address.to_string();
    let mut command = pair.server("iperf3")?;
    command.args(["-s", "-1", "-B", &address]);
    let server = Server::start(&pair.to, &mut command, PORT)?;
    let mut client = pair.client("iperf3");
    client.args(["-J", "-c", &address, "-t", &seconds.to_string()]).args(more);
    let before = cpu::busy()?;
    let text = weft_lab::run(&mut client)?;
    let busy = cpu::busy()? - before;
    server.end(End::ByItself)?;
    parse(&text, busy)
}

/// What a client's JSON says: both directions together, where there are two.
fn parse(text: &str, busy: f64) -> Result<Sample> {
    let json: Value = serde_json::from_str(text).context("iperf3 wrote no JSON")?;
    if let Some(error) = json.get("error") {
        bail!("iperf3: {error}");
    }
    let number = |path: &str| json.pointer(path).and_then(Value::as_f64);
    let there = |key: &str| {
        let back = number(&format!("/end/sum_received_bidir_reverse/{key}")).unwrap_or(0.0);
        number(&format!("/end/sum_received/{key}")).map(|there| there + back)
    };
    let (rate, bytes) = (there("bits_per_second"), there("bytes"));
    let (rate, bytes) = rate.zip(bytes).context("iperf3 told no throughput")?;
    let gigabits = bytes * 8.0 / 1e9;
    if gigabits <= 0.0 {
        bail!("not a byte arrived");
    }
    let back = number("/end/sum_sent_bidir_reverse/retransmits").unwrap_or(0.0);
    let again = number("/end/sum_sent/retransmits").context("iperf3 told no retransmissions")? + back;
    Ok(vec![
        (Quantity::Throughput, rate / 1e9),
        (Quantity::Cpu, busy / gigabits),
        (Quantity::Retransmits, again / gigabits),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    // Cut out of what iperf3 3.12 writes.
    const ONE: &str = r#"{"start": {"version": "iperf 3.12"}, "end": {
        "sum_sent": {"start": 0, "end": 1.000045, "seconds": 1.000045, "bytes": 2858680320,
            "bits_per_second": 22868413481.393337, "retransmits": 8, "sender": true},
        "sum_received": {"start": 0, "end": 1.000074, "seconds": 1.000074, "bytes": 2852782080,
            "bits_per_second": 22820567917.97407, "sender": true}}}"#;
    const BOTH: &str = r#"{"end": {
        "sum_sent": {"bytes": 1811415040, "bits_per_second": 14475889022.302225, "retransmits": 3},
        "sum_received": {"bytes": 1811415040, "bits_per_second": 14468445707.3367},
        "sum_sent_bidir_reverse": {"bytes": 1272709120, "bits_per_second": 10170830854.30, "retransmits": 4},
        "sum_received_bidir_reverse": {"bytes": 1268908032, "bits_per_second": 10135240440.862995}}}"#;

    fn values(sample: &Sample) -> Vec<String> {
        sample.iter().map(|(quantity, value)| format!("{quantity:?} {value:.3}")).collect()
    }

    #[test]
    fn a_stream_is_what_arrived_and_the_processor_time_is_per_gigabit_of_it() {
        let sample = parse(ONE, 2.0).unwrap();
        assert_eq!(values(&sample), ["Throughput 22.821", "Cpu 0.088", "Retransmits 0.351"]);
    }

    #[test]
    fn both_directions_count_together() {
        let sample = parse(BOTH, 2.0).unwrap();
        assert_eq!(values(&sample), ["Throughput 24.604", "Cpu 0.081", "Retransmits 0.284"]);
    }

    #[test]
    fn an_error_of_iperf3_and_an_answer_without_figures_are_errors() {
        let error = parse(r#"{"error": "unable to connect to server: No route to host"}"#, 1.0).unwrap_err();
        assert!(error.to_string().contains("No route to host"), "{error}");
        assert!(parse(r#"{"end": {}}"#, 1.0).unwrap_err().to_string().contains("no throughput"));
        assert!(parse("iperf3: error", 1.0).is_err());
    }
}
