//! `cargo xtask scale`: a large cluster on this machine, and what grows with it.
//!
//! `weft-scale` plays the hosts: the real control plane of each over a kernel that is only modelled. They, a real daemon
//! and the store are in namespaces of one lab, so that the daemon can be looked at alone. With `--real-host` nobody plays:
//! a real kernel takes a network of that many endpoints.

mod plot;
mod real_host;
mod simulated;
mod table;

use crate::{
    machine::Machine,
    step::{need_root, optimised},
    tools,
};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::{env, fs, path::PathBuf, process::Command};

/// How large, and on what.
#[derive(Args)]
pub struct Flags {
    /// Simulated hosts; several sizes by commas, one after the other
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    hosts: Vec<usize>,
    /// Endpoints on all networks together, one figure for each size
    #[arg(long, value_delimiter = ',', default_value = "100000")]
    endpoints: Vec<usize>,
    /// Networks, one figure for each size
    #[arg(long, value_delimiter = ',', default_value = "500")]
    networks: Vec<usize>,
    /// Networks that each host takes part in
    #[arg(long, default_value_t = 10)]
    parts: usize,
    /// The store; both by a comma
    #[arg(long, value_delimiter = ',', default_value = "etcd,embedded")]
    store: Vec<Store>,
    /// Changes a second in the storm
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Seconds at rest, and seconds that the storm lasts
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Instead: a network of this many endpoints in one real kernel
    #[arg(long, value_name = "ENDPOINTS")]
    real_host: Option<usize>,
    /// The data paths of the real kernel
    #[arg(long, value_delimiter = ',', default_value = "kernel,ebpf")]
    datapath: Vec<String>,
    /// The programs `weft` and `weft-scale` in this folder instead of ones built now
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Store {
    /// A real etcd.
    Etcd,
    /// The embedded store of a daemon, served to the others.
    Embedded,
}

impl Store {
    fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Embedded => "embedded",
        }
    }
}

/// What is run.
struct Programs {
    weft: PathBuf,
    scale: PathBuf,
}

/// A size to measure.
#[derive(Clone, Copy)]
struct Size {
    hosts: usize,
    endpoints: usize,
    networks: usize,
    parts: usize,
}

impl Size {
    /// The arguments of `weft-scale`.
    fn arguments(&self) -> Vec<String> {
        let Self { hosts, endpoints, networks, parts } = self;
        let pairs =
            [("--hosts", hosts), ("--endpoints", endpoints), ("--networks", networks), ("--parts", parts)];
        pairs.iter().flat_map(|(flag, value)| [(*flag).to_owned(), value.to_string()]).collect()
    }
}

/// `cargo xtask scale`
pub fn run(flags: &Flags) -> Result<()> {
    need_root("scale")?;
    tools::install(tools::Want::All)?;
    let dir = optimised(flags.programs.as_deref(), &["weft", "weft-scale"])?;
    let programs = Programs { weft: dir.join("weft"), scale: dir.join("weft-scale") };
    let machine = Machine::this()?.to_string();
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    println!("machine: {machine}, load average {load}");
    let (kind, runs) = match flags.real_host {
        Some(endpoints) => ("real-host", real_hosts(&programs, endpoints, &flags.datapath)?),
        None => ("scale", simulations(&programs, flags)?),
    };
    let text = if kind == "scale" { table::simulated(&runs) } else { table::real_host(&runs) };
    println!("\n{text}");
    let date = weft_lab::run(Command::new("date").args(["-u", "+%Y-%m-%dT%H%M%SZ"]))?.trim().to_owned();
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let dir = target.join("scale");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let plot = (kind == "scale").then(|| plot::svg(&runs, &format!("{date}, {machine}")));
    let all = json!({ "date": date, "machine": machine, "load_average": load, "runs": runs });
    let json = serde_json::to_string_pretty(&all)? + "\n";
    for (extension, text) in [("json", Some(json)), ("svg", plot)] {
        let Some(text) = text else { continue };
        let path = dir.join(format!("{kind}-{date}.{extension}"));
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        println!("{}", path.display());
    }
    Ok(())
}

fn simulations(programs: &Programs, flags: &Flags) -> Result<Vec<Value>> {
    if flags.endpoints.len() != flags.hosts.len() || flags.networks.len() != flags.hosts.len() {
        bail!("--hosts, --endpoints and --networks need as many figures each");
    }
    let mut runs = Vec::new();
    for store in &flags.store {
        for ((&hosts, &endpoints), &networks) in flags.hosts.iter().zip(&flags.endpoints).zip(&flags.networks)
        {
            let size = Size { hosts, endpoints, networks, parts: flags.parts };
            println!("{}: {hosts} hosts, {endpoints} endpoints, {networks} networks", store.name());
            runs.push(simulated::measure(programs, *store, &size, flags.rate, flags.seconds)?);
        }
    }
    Ok(runs)
}

fn real_hosts(programs: &Programs, endpoints: usize, datapaths: &[String]) -> Result<Vec<Value>> {
    let mut runs = Vec::new();
    for datapath in datapaths {
        println!("{datapath}: a network of {endpoints} endpoints");
        runs.push(real_host::measure(programs, endpoints, datapath)?);
    }
    Ok(runs)
}
