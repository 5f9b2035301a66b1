//! What the chores need of Debian: some packages installed, some only unpacked.
//!
//! Packages that bring commands and start nothing are installed. Docker, containerd, etcd, Consul and nginx would start
//! services or replace the machine's own, and two versions of Docker are wanted at once: they are unpacked into
//! the folder of [`weft_lab::Tools`]. So are another kernel and what runs it.

use crate::{
    apt::{self, Suite},
    step::need_root,
};
use anyhow::{Context, Result};
use std::{fs, path::Path};
use weft_lab::{EngineVersion, PodmanVersion, Tools};

/// How much is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// What it takes to compile.
    Build,
    /// And to run another kernel.
    Verifier,
    /// What it takes to compile and to run a lab.
    Lab,
    /// And etcd, Consul, Docker, nginx, and Debian 12's kernel with qemu.
    All,
}

/// What it takes to compile: etcd's client is made from its protocol's definition, the fast path's programs are C.
const BUILD: [&str; 3] = ["protobuf-compiler", "libprotobuf-dev", "clang"];

/// What it takes to run a lab.
const LAB: [&str; 10] = [
    "iproute2",
    "iputils-ping",
    "procps",
    "tcpdump",
    "iperf3",
    "sockperf",
    "busybox-static",
    "nftables",
    "iptables",
    "ethtool",
];

/// A folder of unpacked packages.
struct Folder {
    name: String,
    packages: &'static [(Suite, &'static [&'static str])],
    /// Whether what the packages depend on is unpacked with them, down to the C library.
    complete: bool,
}

/// The folder that Debian 12's kernel is in, and what boots it and asks its verifier.
pub const VERIFIER: &str = "verifier";

/// The runtime below both engines: Debian 13's wants a newer C library than Debian 12 has.
const RUNTIME: (Suite, &[&str]) = (Suite::Bookworm, &["containerd", "runc", "tini"]);

fn folders() -> [Folder; 11] {
    let engine = |version| format!("docker-{version}");
    let podman = |version| format!("podman-{version}");
    [
        Folder {
            name: engine(EngineVersion::V20_10),
            packages: &[(Suite::Bookworm, &["docker.io", "libdevmapper1.02.1"]), RUNTIME],
            complete: false,
        },
        Folder {
            name: engine(EngineVersion::V26_1),
            packages: &[(Suite::Trixie, &["docker.io", "docker-cli", "docker-compose"]), RUNTIME],
            complete: false,
        },
        Folder {
            name: engine(EngineVersion::V28_5),
            packages: &[(Suite::Forky, &["docker.io", "docker-cli"]), RUNTIME],
            complete: false,
        },
        Folder {
            name: podman(PodmanVersion::V4_3),
            packages: &[(Suite::Bookworm, &["podman", "netavark", "runc"])],
            complete: true,
        },
        Folder {
            name: podman(PodmanVersion::V5_4),
            packages: &[(Suite::Trixie, &["podman", "netavark", "runc"])],
            complete: true,
        },
        Folder {
            name: "cni".to_owned(),
            packages: &[(Suite::Bookworm, &["containernetworking-plugins"])],
            complete: false,
        },
        Folder {
            name: "etcd".to_owned(),
            packages: &[(Suite::Bookworm, &["etcd-server", "etcd-client"])],
            complete: false,
        },
        Folder {
            name: "consul".to_owned(),
            // The last Debian release that has it.
            packages: &[(Suite::Bullseye, &["consul"])],
            complete: false,
        },
        Folder {
            name: "nginx".to_owned(),
            packages: &[(Suite::Bookworm, &["nginx", "libpcre2-8-0", "libssl3", "libcrypt1", "zlib1g"])],
            complete: false,
        },
        Folder {
            // A library that shows one program another wall clock.
            name: "faketime".to_owned(),
            packages: &[(Suite::Bookworm, &["libfaketime"])],
            complete: false,
        },
        Folder {
            name: VERIFIER.to_owned(),
            packages: &[(
                Suite::Bookworm,
                &["linux-image-cloud-amd64", "qemu-system-x86", "bpftool", "busybox-static"],
            )],
            complete: true,
        },
    ]
}

/// Installs what is missing. What cannot be fetched is said, and the tests that need it will say so again; only
/// what everything needs is an error.
pub fn install(want: Want) -> Result<()> {
    let mut missing: Vec<&str> = BUILD.to_vec();
    if matches!(want, Want::Lab | Want::All) {
        missing.extend(LAB);
    }
    missing.retain(|package| !apt::is_installed(package));
    let tools = Tools::from_env();
    let mut folders = Vec::from(folders());
    folders.retain(|folder| want == Want::All || want == Want::Verifier && folder.name == VERIFIER);
    folders.retain(|folder| !is_complete(&tools, folder));
    if missing.is_empty() && folders.is_empty() {
        return Ok(());
    }
    need_root("tools")?;
    apt::update()?;
    if !missing.is_empty() {
        println!("installing {}", missing.join(" "));
        apt::install(&missing)?;
    }
    for folder in &folders {
        println!("unpacking {} into {}", folder.name, tools.dir().display());
        if let Err(error) = fetch(&tools, folder) {
            eprintln!("CANNOT FETCH {}: {error:#}", folder.name);
        }
    }
    Ok(())
}

/// The file that says which packages a folder holds, written when it holds them all.
const COMPLETE: &str = ".complete";

fn contents(folder: &Folder) -> String {
    folder.packages.iter().flat_map(|(_, packages)| *packages).flat_map(|package| [package, "\n"]).collect()
}

fn is_complete(tools: &Tools, folder: &Folder) -> bool {
    let path = tools.dir().join(&folder.name).join(COMPLETE);
    fs::read_to_string(path).is_ok_and(|text| text == contents(folder))
}

fn fetch(tools: &Tools, folder: &Folder) -> Result<()> {
    let place = tools.dir().join(&folder.name);
    let new = tools.dir().join(format!("{}.new", folder.name));
    remove(&new)?;
    fs::create_dir_all(&new).with_context(|| new.display().to_string())?;
    for (suite, packages) in folder.packages {
        let all = if folder.complete {
            apt::with_dependencies(*suite, packages, tools.dir())?
        } else {
            packages.iter().map(|&package| package.to_owned()).collect()
        };
        apt::unpack(*suite, &all, tools.dir(), &new)?;
    }
    fs::write(new.join(COMPLETE), contents(folder)).with_context(|| new.display().to_string())?;
    remove(&place)?;
    fs::rename(&new, &place).with_context(|| place.display().to_string())
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    Ok(())
}
