//! The wires: what the hosts' network cards do for them.

use super::{contenders::Contender, place::Pair};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::Value;
use weft_lab::{Capture, Host, Lab, NetNs, run};

/// What is between the two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum WireKind {
    /// Cards that segment: what crosses it are frames of up to 64 KiB, which no host cuts or joins
    Offload,
    /// Cards that do not: true frames of 1500 bytes, cut by the sender's kernel and joined by the receiver's
    Frames,
    /// No wire: two containers on one host
    Host,
}

/// The largest frame of a wire of 1500 bytes, with its Ethernet header.
const FRAME: f64 = 1514.0;

impl WireKind {
    /// Its name as in `--wire`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Offload => "offload",
            Self::Frames => "frames",
            Self::Host => "host",
        }
    }

    /// Its name for people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Offload => "host to host, segmentation offload",
            Self::Frames => "host to host, 1500-byte frames",
            Self::Host => "two containers on one host",
        }
    }

    /// What the others are compared with.
    pub const fn reference(self) -> Contender {
        match self {
            Self::Offload | Self::Frames => Contender::Raw,
            Self::Host => Contender::DockerBridge,
        }
    }

    /// Who takes part.
    pub const fn contenders(self) -> &'static [Contender] {
        match self {
            Self::Offload | Self::Frames => &[
                Contender::Raw,
                Contender::Routed,
                Contender::Kernel,
                Contender::Weft,
                Contender::Direct,
                Contender::DockerClassic,
                Contender::DockerSwarm,
            ],
            Self::Host => &[Contender::DockerBridge, Contender::Kernel, Contender::Weft],
        }
    }

    /// Makes the wire of a lab so: both ends of every host's cable.
    ///
    /// On the wire of frames both ends also join what arrives (GRO). A switch of iron does not, but this one would
    /// drop frames in bursts if it did not: raw lost 0.6 % of them, and reached the same throughput.
    pub fn apply(self, lab: &Lab) -> Result<()> {
        let (segment, join) = if self == Self::Frames { ("off", "on") } else { ("on", "off") };
        for host in &lab.hosts {
            features(&host.namespace, "eth0", segment, join)?;
            features(&lab.wire.namespace, &host.name, segment, join)?;
        }
        Ok(())
    }

    /// Sends a stream from the first host, or a container on it, and looks at what leaves the host: the mean
    /// frame in bytes. A frame that is longer than the wire may carry is an error.
    pub fn verify(self, lab: &Lab, pair: &Pair) -> Result<f64> {
        let host = lab.host("h1")?;
        let filter = format!("src host {} and greater {}", Host::ipv4_of(host.number), FRAME + 1.0);
        let capture = if self == Self::Frames {
            let file = lab.dir().join("long-frames.pcap");
            Some(Capture::start(&host.namespace, "eth0", &filter, &file)?)
        } else {
            None
        };
        let before = sent(&host.namespace)?;
        super::iperf::streams(pair, pair.v4, 1, &[])?;
        let after = sent(&host.namespace)?;
        if let Some(long) = capture.map(Capture::stop).transpose()?.as_ref().and_then(|frames| frames.first())
        {
            bail!("a frame of {} bytes is on the wire of {FRAME}", long.bytes.len());
        }
        let mean = (after.0 - before.0) / (after.1 - before.1);
        if self == Self::Frames && mean > FRAME {
            bail!("frames of {mean:.0} bytes in the mean are on the wire of {FRAME}");
        }
        Ok(mean)
    }
}

/// Whether a device cuts frames itself (`segment`), and whether the kernel joins those it gets (`join`).
fn features(namespace: &NetNs, device: &str, segment: &str, join: &str) -> Result<()> {
    let mut command = namespace.command("ethtool");
    command.args(["-K", device, "tso", segment, "tx-udp_tnl-segmentation", segment]);
    command.args(["tx-udp_tnl-csum-segmentation", segment, "tx-udp-segmentation", segment, "gro", join]);
    run(&mut command)?;
    Ok(())
}

/// Bytes and frames that a host has sent.
fn sent(host: &NetNs) -> Result<(f64, f64)> {
    parse_sent(&host.ip_json(&["-s", "link", "show", "dev", "eth0"])?).context("eth0 has no counters")
}

fn parse_sent(link: &Value) -> Option<(f64, f64)> {
    let count = |what: &str| link.pointer(&format!("/0/stats64/tx/{what}")).and_then(Value::as_f64);
    count("bytes").zip(count("packets"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_host_has_sent_is_read_from_its_counters() {
        let link = json!([{"ifname": "eth0", "stats64": {"rx": {"bytes": 1, "packets": 1},
            "tx": {"bytes": 3028, "packets": 2, "errors": 0}}}]);
        assert_eq!(parse_sent(&link), Some((3028.0, 2.0)));
        assert_eq!(parse_sent(&json!([])), None);
    }

    #[test]
    fn the_reference_takes_part_in_every_wire() {
        for wire in WireKind::value_variants() {
            assert!(wire.contenders().contains(&wire.reference()), "{wire:?}");
        }
    }
}
