//! A host's own view of the machine: its host name, its own /run, its own changes to /etc.
//!
//! Docker engines on one machine would share /run/docker (where plugins are found and sandboxes are kept) and the
//! host name (two engines of one name refuse each other), and they write to /etc/docker. A room is a mount and
//! a host name namespace, held open by a sleeping process. Two directories of /run stay the machine's: the
//! lab's own, and /run/netns, so that what a daemon in the room names there is seen by `ip netns` outside.

use crate::{
    Host, LabError, Process,
    process::{kill_all, pids_where},
    until,
};
use serde::{Deserialize, Serialize};
use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, process::Command, time::Duration};

/// Makes the room, says so, and holds it. Mounts are made private one by one, except for /run/netns, so that
/// what is mounted in the room does not show outside, but for the names of namespaces.
const HOLD: &str = r#"
set -e
hostname "$1"; new="$2/room"
cut -d' ' -f5 /proc/self/mountinfo | while read -r m; do
  case "$m" in /run/netns*) ;; *) mount -n --make-private "$m" 2>/dev/null || true ;; esac
done
mkdir -p "$new"
mount -n -t tmpfs weft-lab "$new"
mkdir "$new/run" "$new/etc" "$new/work"
mount -n -t overlay weft-lab -o "lowerdir=/etc,upperdir=$new/etc,workdir=$new/work" /etc
mount -n -t tmpfs weft-lab "$new/run"
for d in netns weft-lab; do
  mkdir "$new/run/$d"
  mount -n --rbind "/run/$d" "$new/run/$d"
done
mount -n --move "$new/run" /run
echo "ready $$"
exec sleep infinity
"#;

/// Whether the process has made its room. A host may have several, which write to one log: each says who it is.
pub(crate) fn is_ready(holder: &Process) -> Result<(), String> {
    let log = holder.log_tail(5);
    let said = format!("ready {}", holder.pid);
    if log.lines().any(|line| line == said) { Ok(()) } else { Err(log) }
}

/// A room, held by a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Room {
    holder: Process,
}

impl Room {
    /// Opens a room on a host.
    pub fn open(host: &Host) -> Result<Self, LabError> {
        let mut command = host.namespace.command("unshare");
        command.args(["--mount", "--uts", "--propagation", "unchanged", "sh", "-c", HOLD, "room"]);
        command.arg(host.namespace.name()).arg(&host.dir);
        let holder = Process::spawn("room", &mut command, &host.log("room"))?;
        until(&format!("the room of {}", host.name), Duration::from_secs(10), || is_ready(&holder))?;
        Ok(Self { holder })
    }

    /// A command that runs in it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let pid = self.holder.pid.to_string();
        command.args(["--target", &pid, "--net", "--mount", "--uts", "--"]).arg(program);
        command
    }

    /// Kills what runs in it, and with that removes its mounts. No error if it is closed.
    pub fn close(&self) -> Result<(), LabError> {
        if !self.holder.is_alive() {
            return Ok(());
        }
        let path = PathBuf::from(format!("/proc/{}/ns/mnt", self.holder.pid));
        // Held open until the end: else the number would be another mount namespace's as soon as this one's last process has
        // gone (`ip -n` makes one), and whoever is in that would be killed as well.
        let held = fs::File::open(&path).map_err(LabError::file(&path))?;
        let inode = held.metadata().map_err(LabError::file(&path))?.ino();
        kill_all(&format!("the room of {}", self.holder.log.display()), || {
            pids_where(|proc| fs::metadata(proc.join("ns/mnt")).is_ok_and(|m| m.ino() == inode))
        })
    }
}
