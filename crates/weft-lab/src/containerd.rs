//! A real containerd on a host of a lab, with its client `ctr` and CNI plugins.
//!
//! It runs in a room of its own (see [`crate::Host`]): the network's configuration and the plugins are where containerd's users
//! expect them, in `/etc/cni/net.d` and `/opt/cni/bin`, of that room only.

use crate::{
    EngineVersion, Host, Image, LabError, Process, Tools, command::run, room::Room, tools::with_root, until,
};
use std::{fs, path::Path, path::PathBuf, process::Command, time::Duration};

/// Puts the plugins in their place: the arguments are folders of them.
const PLUGINS: &str = r#"
set -e
mkdir -p /etc/cni/net.d /opt
mount -n -t tmpfs weft-lab /opt
mkdir -p /opt/cni/bin
for d in "$@"; do cp -L "$d"/* /opt/cni/bin/; done
"#;

/// A containerd, for as long as this value lives.
#[derive(Debug)]
pub struct Containerd {
    host: Host,
    room: Room,
    packages: PathBuf,
    process: Process,
}

impl Containerd {
    /// Starts one on a host, with the plugins of these folders and one network's configuration.
    pub fn start(tools: &Tools, host: &Host, plugins: &[&Path], conflist: &str) -> Result<Self, LabError> {
        let packages = tools.engine(EngineVersion::V26_1);
        let image = Image::Box.pack(tools)?;
        let room = Room::open(host)?;
        let host = Host { room: Some(room.clone()), ..host.clone() };
        let mut place = host.command("sh");
        run(place.args(["-c", PLUGINS, "plugins"]).args(plugins))?;
        let list = host.dir.join("weft.conflist");
        fs::write(&list, conflist).map_err(LabError::file(&list))?;
        run(host.command("cp").arg(&list).arg("/etc/cni/net.d/10-weft.conflist"))?;
        let rootfs = host.dir.join("box");
        fs::create_dir_all(&rootfs).map_err(LabError::file(&rootfs))?;
        run(Command::new("tar").arg("-xf").arg(image).arg("-C").arg(&rootfs))?;
        let process = spawn(&host, &packages)?;
        let this = Self { host, room, packages, process };
        this.answers()?;
        Ok(this)
    }

    /// Kills it, while its containers run on, and starts it again.
    pub fn kill_and_start(&mut self) -> Result<(), LabError> {
        self.process.kill()?;
        self.process = spawn(&self.host, &self.packages)?;
        self.answers()
    }

    fn answers(&self) -> Result<(), LabError> {
        until(&format!("an answer of containerd on {}", self.host.name), Duration::from_secs(20), || {
            run(&mut self.ctr(&["version"])).map(drop).map_err(|e| e.to_string())
        })
        .map(drop)
    }

    /// A `ctr` command.
    pub fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(&self.packages.join("usr/bin/ctr").display().to_string());
        with_root(&mut command, &self.packages);
        command.args(arguments);
        command
    }

    /// Starts `ctr run --cni` of the image `box` in the foreground: when it ends, it takes the container off its network.
    pub fn run(&self, container: &str, argv: &[&str]) -> Result<Process, LabError> {
        let rootfs = self.host.dir.join("box").display().to_string();
        let mut command = self.ctr(&["run", "--cni", "--rm", "--rootfs", &rootfs, container]);
        Process::spawn(container, command.args(argv), &self.host.log(container))
    }

    /// Starts `ctr run --cni --detach`: the container outlives a killed containerd, and nobody takes it off its network.
    pub fn run_detached(&self, container: &str, argv: &[&str]) -> Result<(), LabError> {
        let rootfs = self.host.dir.join("box").display().to_string();
        let mut command = self.ctr(&["run", "--cni", "--detach", "--rootfs", &rootfs, container]);
        run(command.args(argv)).map(drop)
    }

    /// Runs a command in a container.
    pub fn exec(&self, container: &str, argv: &[&str]) -> Result<String, LabError> {
        run(self.ctr(&["task", "exec", "--exec-id", "test", container]).args(argv))
    }
}

fn spawn(host: &Host, packages: &Path) -> Result<Process, LabError> {
    let mut command = host.command(&packages.join("usr/bin/containerd").display().to_string());
    with_root(&mut command, packages);
    command.arg("--root").arg(host.dir.join("containerd"));
    Process::spawn("containerd", &mut command, &host.log("containerd"))
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let ended = self.process.stop(Duration::from_secs(10)).and_then(|()| self.room.close());
        if let Err(error) = ended {
            eprintln!("weft-lab: containerd on {} is not gone: {error}", self.host.name);
        }
    }
}
