//! Round trips and small packets, by sockperf. It rests for two seconds before each.

use super::{
    datagrams,
    metrics::{Quantity, Sample},
    place::{End, Pair, Server},
};
use anyhow::{Context, Result, bail};

/// sockperf's own port.
const PORT: u16 = 11111;

/// A message to and fro, again and again: how long one takes.
pub fn round_trip(pair: &Pair, tcp: bool, size: usize, seconds: u64) -> Result<Sample> {
    let more: &[&str] = if tcp { &["--tcp"] } else { &[] };
    let server = serve(pair, more)?;
    let (address, size, seconds) = (pair.v4.to_string(), size.to_string(), seconds.to_string());
    let mut client = pair.client("sockperf");
    client.args(["ping-pong", "--full-rtt", "-i", &address, "-m", &size, "-t", &seconds]).args(more);
    let text = weft_lab::run(&mut client)?;
    server.end(End::Interrupted)?;
    parse_round_trip(&text)
}

/// Packets as fast as they go one way: how many were sent, and how many the program at the other end read.
pub fn packets(pair: &Pair, size: usize, seconds: u64) -> Result<Sample> {
    let server = serve(pair, &[])?;
    let (address, size, seconds) = (pair.v4.to_string(), size.to_string(), seconds.to_string());
    let mut client = pair.client("sockperf");
    client.args(["throughput", "-i", &address, "-m", &size, "-t", &seconds]);
    let before = datagrams::read_at(&pair.to)?;
    let text = weft_lab::run(&mut client)?;
    let read = datagrams::read_at(&pair.to)? - before;
    server.end(End::Interrupted)?;
    let (sent, took) = parse_sent(&text)?;
    Ok(vec![(Quantity::Sent, sent / took / 1e3), (Quantity::Received, read / took / 1e3)])
}

fn serve(pair: &Pair, more: &[&str]) -> Result<Server> {
    let mut command = pair.server("sockperf")?;
    command.args(["server", "-i", &pair.v4.to_string()]).args(more);
    Server::start(&pair.to, &mut command, PORT)
}

fn parse_round_trip(text: &str) -> Result<Sample> {
    let percentile = |which: &str| -> Result<f64> {
        let mark = format!("percentile {which} =");
        let value = text.lines().find_map(|line| line.split_once(mark.as_str()).map(|(_, value)| value));
        Ok(value.with_context(|| format!("sockperf told no {mark} {text}"))?.trim().parse()?)
    };
    if !text.contains("# dropped messages = 0;") {
        bail!("messages were lost: {text}");
    }
    Ok(vec![(Quantity::Median, percentile("50.000")?), (Quantity::P99, percentile("99.000")?)])
}

/// Messages sent, and in how many seconds.
fn parse_sent(text: &str) -> Result<(f64, f64)> {
    let told = text.lines().find_map(|line| line.split_once("Total of ")?.1.split_once(" messages sent in "));
    let (sent, rest) = told.with_context(|| format!("sockperf told no number of messages: {text}"))?;
    let took = rest.split(' ').next().unwrap_or_default();
    Ok((sent.parse()?, took.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    // What sockperf 3.7 writes, shortened.
    const PING_PONG: &str = "sockperf: [Valid Duration] RunTime=0.550 sec; SentMessages=77282; ReceivedMessages=77282\n\
        sockperf: \u{1b}[2;35m====> avg-rtt=7.091 (std-dev=13.817)\u{1b}[0m\n\
        sockperf: # dropped messages = 0; # duplicated messages = 0; # out-of-order messages = 0\n\
        sockperf: Summary: Round trip is 7.091 usec\n\
        sockperf: ---> <MAX> observation =  834.622\n\
        sockperf: ---> percentile 99.990 =  109.354\n\
        sockperf: ---> percentile 99.000 =   68.271\n\
        sockperf: ---> percentile 50.000 =    3.766\n";
    const THROUGHPUT: &str = "sockperf: Test ended\n\
        sockperf: Total of 848611 messages sent in 1.002 sec\n\n\
        sockperf: Summary: Message Rate is 848192 [msg/sec]\n";

    #[test]
    fn a_round_trip_is_the_median_and_the_99th_percentile() {
        let sample = parse_round_trip(PING_PONG).unwrap();
        assert_eq!(sample, vec![(Quantity::Median, 3.766), (Quantity::P99, 68.271)]);
    }

    #[test]
    fn a_lost_message_is_an_error_and_not_a_figure() {
        let text = PING_PONG.replace("dropped messages = 0", "dropped messages = 2");
        assert!(parse_round_trip(&text).unwrap_err().to_string().contains("lost"));
        assert!(parse_round_trip("sockperf: # dropped messages = 0; \n").is_err());
    }

    #[test]
    fn messages_sent_are_counted_with_the_time_they_took() {
        assert_eq!(parse_sent(THROUGHPUT).unwrap(), (848_611.0, 1.002));
        assert!(parse_sent("sockperf: Test ended").is_err());
    }
}
