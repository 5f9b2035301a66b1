//! `cargo xtask demo`: a cluster of two hosts on this machine, looked at from all sides, then removed.

use crate::{
    step::{build_weft, need_root},
    throughput::throughput,
    tools,
};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{fs, time::Duration};
use weft_lab::{Capture, Container, Fixture, Lab, LabOptions, NetNs, Process, until};

/// What the web server serves.
const PAGE: &str = "Hello from the other host.\n";

/// `cargo xtask demo`
pub fn run() -> Result<()> {
    need_root("demo")?;
    tools::install(tools::Want::Lab)?;
    let weft = build_weft()?;
    // Gone when it is dropped, whatever happens in between.
    let lab = Fixture::up(LabOptions::new("demo", weft))?;
    let name = lab.name().to_owned();
    let shown = show(&lab);
    drop(lab);
    shown?;
    title("Cleaned up");
    // Devices and addresses go with their namespaces.
    let of_lab = |dir: &str| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter(|e| e.file_name().to_string_lossy().contains(&name)).count()
    };
    let (namespaces, folders) = (of_lab("/run/netns"), of_lab(LabOptions::DEFAULT_DIR));
    println!("{namespaces} namespaces and {folders} folders of it are left.");
    Ok(())
}

fn show(lab: &Lab) -> Result<()> {
    let (near, far) = (lab.container("h1/c1")?, lab.container("h2/c1")?);
    title("Two hosts, one network: who is where");
    print!("{}", lab.daemon("h1")?.weft(&["node", "ls"])?);
    println!();
    print!("{}", lab.daemon("h2")?.weft(&["endpoint", "ls"])?);

    title("Ping across");
    let ping = near.run(&["ping", "-n", "-c", "3", "-i", "0.2", &far.ip()?])?;
    ping.lines().filter(|line| !line.trim().is_empty()).for_each(|line| println!("{line}"));

    title("A page across");
    println!("{} serves it, {} gets:", far.ip()?, near.ip()?);
    print!("{}", page(lab, near, far)?);

    title("One frame on the wire between the hosts");
    println!("{}", frame(lab, near, far)?);

    title("MTU");
    let inside = mtu(&near.namespace, "eth0")?;
    let outside = mtu(&lab.host("h1")?.namespace, "eth0")?;
    println!("{outside} on the wire, {inside} in the containers: the tunnel takes {}.", outside - inside);

    title("TCP throughput");
    let (host, peer) = (lab.host("h1")?, lab.host("h2")?);
    let raw = throughput(lab, &host.namespace, &peer.namespace, peer.address)?;
    let across = throughput(lab, &near.namespace, &far.namespace, far.address()?)?;
    println!("host to host            {raw:6.1} Gb/s");
    println!("container to container  {across:6.1} Gb/s  ({:.0} %)", across / raw * 100.0);
    Ok(())
}

fn title(text: &str) {
    println!("\n\u{2500}\u{2500} {text}");
}

/// Serves a page with busybox in one container and fetches it in the other.
fn page(lab: &Lab, near: &Container, far: &Container) -> Result<String> {
    let dir = lab.dir().join("www");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("index.html"), PAGE)?;
    let mut server = far.namespace.command("busybox");
    server.args(["httpd", "-f", "-p", "80", "-h"]).arg(&dir);
    let server = Process::spawn("httpd", &mut server, &lab.dir().join("httpd.log"))?;
    let url = format!("http://{}/", far.ip()?);
    let fetched = until("the page", Duration::from_secs(10), || {
        near.run(&["busybox", "wget", "-q", "-O", "-", &url]).map_err(|e| e.to_string())
    });
    server.kill()?;
    Ok(fetched?.0)
}

/// Captures one ping on the wire and decodes its request.
fn frame(lab: &Lab, near: &Container, far: &Container) -> Result<String> {
    let file = lab.dir().join("demo.pcap");
    let capture = Capture::start(&lab.host("h2")?.namespace, "eth0", "udp port 4789", &file)?;
    near.run(&["ping", "-n", "-c", "1", &far.ip()?])?;
    let frames = capture.wait_for("a frame", Duration::from_secs(5), |frames| !frames.is_empty())?;
    let first = frames.first().context("no frame")?;
    Ok(weft_wire::frame::decode(&first.bytes, 4789)?.to_string())
}

fn mtu(namespace: &NetNs, device: &str) -> Result<u64> {
    let link = namespace.ip_json(&["link", "show", "dev", device])?;
    link.pointer("/0/mtu").and_then(Value::as_u64).context("a device without MTU")
}
