//! A real Podman on a host of a lab.
//!
//! Debian's packages are unpacked with all that they depend on, so that a version runs whatever the machine's C library is. A
//! process holds a mount namespace whose root is that folder under a layer in memory: what Podman keeps is there, and
//! gone with it. /proc, /sys, /dev, /run/netns and the lab's own folder are the machine's.

use crate::{
    Host, Image, LabError, PodmanVersion, Process, Tools, cgroup,
    command::{output, run},
    process::{kill_all, pids_where},
    room::is_ready,
    until,
};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

/// Makes the root, says so, and holds it: the arguments are the folder to do it in, the packages, the packed image `box`, the
/// configuration, and the folder of the plugins.
const HOLD: &str = r#"
set -e
new="$1"
cut -d' ' -f5 /proc/self/mountinfo | while read -r m; do
  case "$m" in /run/netns*) ;; *) mount -n --make-private "$m" 2>/dev/null || true ;; esac
done
mkdir -p "$new"
mount -n -t tmpfs weft-lab "$new"
mkdir "$new/upper" "$new/work" "$new/root"
mount -n -t overlay weft-lab -o "lowerdir=$2,upperdir=$new/upper,workdir=$new/work" "$new/root"
cd "$new/root"
for d in bin sbin lib lib64; do [ -e $d ] || ln -s usr/$d $d; done
mkdir -p proc sys dev run tmp etc/containers weft/box weft/networks machine
for d in proc sys dev; do mount -n --rbind /$d $d; done
mount -n -t tmpfs weft-lab run
for d in netns weft-lab; do mkdir run/$d; mount -n --rbind /run/$d run/$d; done
tar -xf "$3" -C weft/box
cp "$4" weft/containers.conf
ln -s "/machine$5" weft/plugins
pivot_root . machine
echo "ready $$"
exec /machine/bin/sleep infinity
"#;

/// A Podman, for as long as this value lives: then its containers are gone as well.
#[derive(Debug)]
pub struct Podman {
    host: Host,
    holder: Process,
    socket: PathBuf,
}

impl Podman {
    /// A Podman on a host. `plugins` is a folder with the plugins of netavark, or of CNI; `socket` the weft daemon's.
    /// Version 4.3 uses CNI, 5.4 netavark.
    pub fn open(
        tools: &Tools,
        version: PodmanVersion,
        host: &Host,
        plugins: &Path,
        socket: &Path,
    ) -> Result<Self, LabError> {
        let root = tools.podman(version)?;
        let image = Image::Box.pack(tools)?;
        let config = host.dir.join("containers.conf");
        fs::write(&config, configuration(version)).map_err(LabError::file(&config))?;
        let mut command = host.namespace.command("unshare");
        command.args(["--mount", "--propagation", "unchanged", "sh", "-c", HOLD, "podman"]);
        command.arg(host.dir.join("podman")).arg(root).arg(image).arg(config).arg(plugins);
        let holder = Process::spawn("podman's room", &mut command, &host.log("podman"))?;
        let podman = Self { host: host.clone(), holder, socket: socket.to_owned() };
        until(&format!("Podman's room on {}", host.name), Duration::from_secs(20), || {
            is_ready(&podman.holder)
        })?;
        Ok(podman)
    }

    /// A `podman` command.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/nsenter");
        command.args(["--target", &self.holder.pid.to_string(), "--net", "--mount", "--"]);
        command.args(["/usr/bin/podman", "--root", "/weft/storage", "--runroot", "/weft/run"]);
        command.args(["--tmpdir", "/weft/tmp", "--storage-driver", "vfs"]).args(arguments);
        command.env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("CONTAINERS_CONF", "/weft/containers.conf").env("WEFT_SOCKET", &self.socket);
        // Its own bridges need no rules here; the tool for them is not in the room.
        command.env("NETAVARK_FW", "none");
        command.env("HOME", "/root").env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1");
        command
    }

    /// Runs `podman ARGUMENTS` and returns what it wrote, without the last newline.
    pub fn podman(&self, arguments: &[&str]) -> Result<String, LabError> {
        run(&mut self.command(arguments)).map(|text| text.trim_end().to_owned())
    }

    /// Runs `podman ARGUMENTS`, whatever its exit status.
    pub fn output(&self, arguments: &[&str]) -> Result<Output, LabError> {
        output(&mut self.command(arguments))
    }

    /// Starts a container of the image `box`: `podman run -d OPTIONS box ARGV`.
    pub fn start(&self, options: &[&str], argv: &[&str]) -> Result<String, LabError> {
        let group = format!("--cgroup-parent=/{}", self.cgroup());
        self.podman(
            &[&["run", "-d", "--cap-add=NET_RAW", &group], options, &["--rootfs", "/weft/box"], argv]
                .concat(),
        )
    }

    /// Runs a command in a container.
    pub fn exec(&self, container: &str, argv: &[&str]) -> Result<String, LabError> {
        self.podman(&[&["exec", container], argv].concat())
    }

    /// Writes a file in the room.
    pub fn write(&self, path: &str, text: &str) -> Result<(), LabError> {
        let place = PathBuf::from(format!("/proc/{}/root{path}", self.holder.pid));
        fs::write(&place, text).map_err(LabError::file(&place))
    }

    fn cgroup(&self) -> String {
        format!("weft-lab-{}-podman", self.host.namespace.name())
    }

    /// Removes its containers and kills what runs in its room.
    fn close(&self) -> Result<(), LabError> {
        let removed = self.podman(&["rm", "--all", "--force", "--time", "0"]);
        let place = PathBuf::from(format!("/proc/{}/ns/mnt", self.holder.pid));
        // Held open until the end: else the number could be another namespace's by then.
        let held = fs::File::open(&place).map_err(LabError::file(&place))?;
        let inode = held.metadata().map_err(LabError::file(&place))?.ino();
        kill_all(&format!("Podman's room on {}", self.host.name), || {
            pids_where(|proc| fs::metadata(proc.join("ns/mnt")).is_ok_and(|m| m.ino() == inode))
        })?;
        cgroup::remove(&self.cgroup())?;
        removed.map(drop)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            eprintln!("weft-lab: Podman on {} is not gone: {error}", self.host.name);
        }
    }
}

fn configuration(version: PodmanVersion) -> String {
    let backend = match version {
        PodmanVersion::V4_3 => "network_backend = \"cni\"\ncni_plugin_dirs = [\"/weft/plugins\"]",
        PodmanVersion::V5_4 => "network_backend = \"netavark\"\nnetavark_plugin_dirs = [\"/weft/plugins\"]",
    };
    // A lab's machine may not let the usual limits be raised.
    format!(
        "[network]\n{backend}\nnetwork_config_dir = \"/weft/networks\"\n\
         [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"runc\"\n\
         [containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n"
    )
}
