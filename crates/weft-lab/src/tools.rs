//! Where the programs are that a lab runs but does not bring: Docker engines, etcd, Consul, nginx.
//!
//! `cargo xtask` unpacks Debian's packages into one folder each, so that several versions stand side by side and
//! nothing of the machine's own is replaced or started.

use crate::LabError;
use serde::{Deserialize, Serialize};
use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A version of Docker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EngineVersion {
    /// Debian 12's: the last that has a cluster store of its own.
    V20_10,
    /// Debian 13's.
    V26_1,
    /// Debian 14's, as long as that is being made: the first that makes networks without IPv4.
    V28_5,
}

impl EngineVersion {
    /// Those that all tests and measurements of engines are made with.
    pub const ALL: [Self; 2] = [Self::V20_10, Self::V26_1];
}

impl fmt::Display for EngineVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V20_10 => "20.10",
            Self::V26_1 => "26.1",
            Self::V28_5 => "28.5",
        })
    }
}

/// A version of Podman.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PodmanVersion {
    /// Debian 12's, with CNI plugins; it knows no plugins of netavark's.
    V4_3,
    /// Debian 13's, with netavark.
    V5_4,
}

impl fmt::Display for PodmanVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4_3 => "4.3",
            Self::V5_4 => "5.4",
        })
    }
}

/// The folder of the programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tools {
    dir: PathBuf,
}

impl Tools {
    /// Where they are unless `WEFT_TOOLS` says otherwise.
    pub const DEFAULT_DIR: &str = "/var/cache/weft-tools";

    /// The folder that `WEFT_TOOLS` names, or the default one.
    pub fn from_env() -> Self {
        let dir = env::var_os("WEFT_TOOLS").filter(|d| !d.is_empty());
        Self { dir: dir.map_or_else(|| PathBuf::from(Self::DEFAULT_DIR), PathBuf::from) }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The root of an engine's unpacked packages.
    pub fn engine(&self, version: EngineVersion) -> PathBuf {
        self.dir.join(format!("docker-{version}"))
    }

    /// The engine's `dockerd`, if it is there.
    pub fn dockerd(&self, version: EngineVersion) -> Result<PathBuf, LabError> {
        present(&format!("Docker {version}"), self.engine(version).join("usr/sbin/dockerd"))
    }

    /// The `docker-compose` program, if it is there.
    pub fn compose(&self) -> Result<PathBuf, LabError> {
        let plugin = "usr/libexec/docker/cli-plugins/docker-compose";
        present("docker-compose", self.engine(EngineVersion::V26_1).join(plugin))
    }

    /// etcd, if it is there; `WEFT_ETCD` names another one.
    pub fn etcd(&self) -> Result<PathBuf, LabError> {
        let named = env::var_os("WEFT_ETCD").filter(|d| !d.is_empty()).map(PathBuf::from);
        present("etcd", named.unwrap_or_else(|| self.dir.join("etcd/usr/bin/etcd")))
    }

    /// Consul, if it is there; `WEFT_CONSUL` names another one.
    pub fn consul(&self) -> Result<PathBuf, LabError> {
        let named = env::var_os("WEFT_CONSUL").filter(|d| !d.is_empty()).map(PathBuf::from);
        present("consul", named.unwrap_or_else(|| self.dir.join("consul/usr/bin/consul")))
    }

    /// etcd's client, if it is there.
    pub fn etcdctl(&self) -> Result<PathBuf, LabError> {
        present("etcdctl", self.dir.join("etcd/usr/bin/etcdctl"))
    }

    /// The library that shows a program another wall clock (libfaketime, for programs with threads), if it is there.
    pub fn faketime(&self) -> Result<PathBuf, LabError> {
        let library = |dir: &String| Path::new(dir).join("faketime/libfaketimeMT.so.1");
        let found = library_dirs(&self.dir.join("faketime")).iter().map(library).find(|path| path.is_file());
        found.map_or_else(|| present("libfaketime", self.dir.join("faketime")), Ok)
    }

    /// The root of the unpacked packages of qemu and a kernel, if they are there and this machine can run them.
    pub fn virtual_machine(&self) -> Result<PathBuf, LabError> {
        let root = self.dir.join("verifier");
        let program = root.join("usr/bin/qemu-system-x86_64");
        if env::consts::ARCH != "x86_64" {
            return Err(LabError::Missing { program: "qemu on x86-64".to_owned(), path: program });
        }
        present("qemu", program).map(|_| root)
    }

    /// The root of a Podman's unpacked packages, complete down to the C library, if they are there.
    pub fn podman(&self, version: PodmanVersion) -> Result<PathBuf, LabError> {
        let root = self.dir.join(format!("podman-{version}"));
        present(&format!("Podman {version}"), root.join("usr/bin/podman"))?;
        Ok(root)
    }

    /// The folder of the standard CNI plugins, if they are there.
    pub fn cni_plugins(&self) -> Result<PathBuf, LabError> {
        let dir = self.dir.join("cni/usr/lib/cni");
        present("CNI's portmap", dir.join("portmap"))?;
        Ok(dir)
    }

    /// The root of nginx's unpacked packages, if they are there.
    pub fn nginx(&self) -> Result<PathBuf, LabError> {
        let root = self.dir.join("nginx");
        present("nginx", root.join("usr/sbin/nginx"))?;
        Ok(root)
    }
}

fn present(program: &str, path: PathBuf) -> Result<PathBuf, LabError> {
    if path.is_file() { Ok(path) } else { Err(LabError::Missing { program: program.to_owned(), path }) }
}

/// Lets a command find the programs and libraries of packages unpacked at `root`, before the machine's own.
pub(crate) fn with_root(command: &mut Command, root: &Path) {
    let path = env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    let root_text = root.display();
    command.env("PATH", format!("{root_text}/usr/sbin:{root_text}/usr/bin:{path}"));
    command.env("LD_LIBRARY_PATH", library_dirs(root).join(":"));
}

/// The folders of shared libraries below `root`, of whatever architecture it is.
pub(crate) fn library_dirs(root: &Path) -> Vec<String> {
    let mut dirs = Vec::new();
    for lib in ["lib", "usr/lib"] {
        for entry in fs::read_dir(root.join(lib)).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().contains("-linux-") {
                dirs.push(entry.path().display().to_string());
            }
        }
    }
    dirs
}
