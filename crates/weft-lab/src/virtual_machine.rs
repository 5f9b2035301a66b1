//! A virtual machine on a host of a lab: Debian's kernel under qemu, with a tap device of the host's as its interface.
//!
//! It has busybox and nothing else. It gives its interface the address it is told, pings one other, says so on its console,
//! and then serves [`VirtualMachine::PAGE`] by HTTP. It is emulated, so a machine that is itself virtual can have it.

use crate::{Host, LabError, Process, Tools, run, until};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// How long it may take to boot and to ping: an emulated processor is slow.
const BOOTS_WITHIN: Duration = Duration::from_mins(2);

/// The modules of the kernel's that an interface of the kind virtio needs, in the order of loading.
const MODULES: [&str; 8] = [
    "virtio/virtio_ring",
    "virtio/virtio",
    "virtio/virtio_pci_modern_dev",
    "virtio/virtio_pci_legacy_dev",
    "virtio/virtio_pci",
    "net/failover",
    "net/net_failover",
    "net/virtio_net",
];

/// What it runs as its first process.
const INIT: &str = r#"#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc && $bb mount -t sysfs sys /sys
for module in $($bb cat /modules); do $bb insmod "/$module"; done
for word in $($bb cat /proc/cmdline); do
	case $word in
	address=*) address=${word#address=} ;;
	peer=*) peer=${word#peer=} ;;
	esac
done
$bb ip addr add "$address" dev eth0 && $bb ip link set eth0 up
$bb ping -c 3 -W 5 "$peer" && echo "machine: $peer answers"
$bb httpd -f -h /page
"#;

/// A virtual machine.
#[derive(Debug)]
pub struct VirtualMachine {
    process: Process,
    console: PathBuf,
}

/// What its interface is.
#[derive(Clone, Copy, Debug)]
pub struct VirtualInterface<'a> {
    /// The tap device of the host's.
    pub tap: &'a str,
    /// Its MAC address.
    pub mac: &'a str,
    /// Its address with the length of the prefix.
    pub address: &'a str,
    /// Its MTU.
    pub mtu: u32,
}

impl VirtualMachine {
    /// What it serves by HTTP.
    pub const PAGE: &str = "a page of a virtual machine";

    /// Whether there is what it takes; else what is missing.
    pub fn can_run(tools: &Tools) -> Result<(), LabError> {
        tools.virtual_machine().map(drop)
    }

    /// Boots it on `host`; returns when `peer` has answered it.
    pub fn boot(
        tools: &Tools,
        host: &Host,
        interface: VirtualInterface<'_>,
        peer: &str,
    ) -> Result<Self, LabError> {
        let system = tools.virtual_machine()?;
        let image = image(&system, &host.dir.join("machine"))?;
        let console = host.log("machine");
        let process =
            Process::spawn("qemu", &mut command(&system, host, interface, peer, &image)?, &console)?;
        let machine = Self { process, console };
        let answered = format!("machine: {peer} answers");
        let (outcome, _) = until("the virtual machine's ping", BOOTS_WITHIN, || {
            // Firmware prints what is not UTF-8.
            let told = String::from_utf8_lossy(&fs::read(&machine.console).unwrap_or_default()).into_owned();
            if told.contains(&answered) {
                return Ok(Ok(()));
            }
            if !machine.process.is_alive() {
                return Ok(Err(LabError::Command { command: "qemu".to_owned(), reason: told }));
            }
            Err(machine.process.log_tail(5))
        })?;
        outcome.map(|()| machine)
    }

    /// Whether it runs.
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// Switches it off.
    pub fn power_off(&self) -> Result<(), LabError> {
        self.process.kill()
    }
}

impl Drop for VirtualMachine {
    fn drop(&mut self) {
        if let Err(error) = self.power_off() {
            eprintln!("weft-lab: a virtual machine does not end: {error}");
        }
    }
}

/// Packs its file system, in `folder`.
fn image(system: &Path, folder: &Path) -> Result<PathBuf, LabError> {
    let root = folder.join("root");
    let write = |name: &str, bytes: &[u8]| {
        let path = root.join(name);
        fs::write(&path, bytes).map_err(LabError::file(&path))
    };
    for name in ["bin", "proc", "sys", "page"] {
        let path = root.join(name);
        fs::create_dir_all(&path).map_err(LabError::file(&path))?;
    }
    let copy =
        |from: &Path, name: &str| fs::copy(from, root.join(name)).map(drop).map_err(LabError::file(from));
    copy(&system.join("bin/busybox"), "bin/busybox")?;
    let modules = modules_of(system)?;
    let mut names = Vec::new();
    for module in MODULES {
        let name = module.rsplit('/').next().unwrap_or(module);
        // Kernels differ in where a module is, and in what is built in.
        for place in [format!("drivers/{module}.ko"), format!("net/core/{name}.ko")] {
            let from = modules.join(place);
            if from.is_file() {
                copy(&from, &format!("{name}.ko"))?;
                names.push(format!("{name}.ko\n"));
            }
        }
    }
    write("modules", names.concat().as_bytes())?;
    write("page/index.html", VirtualMachine::PAGE.as_bytes())?;
    write("init", INIT.as_bytes())?;
    let init = root.join("init");
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).map_err(LabError::file(&init))?;
    let image = folder.join("initramfs");
    let pack = "cd \"$1\" && find . | \"$2\" cpio -o -H newc > \"$3\"";
    run(Command::new("sh").args(["-c", pack, "sh"]).arg(&root).arg(system.join("bin/busybox")).arg(&image))?;
    Ok(image)
}

fn command(
    system: &Path,
    host: &Host,
    interface: VirtualInterface<'_>,
    peer: &str,
    image: &Path,
) -> Result<Command, LabError> {
    let VirtualInterface { tap, mac, address, mtu } = interface;
    // qemu runs on the libraries that were unpacked with it, by their own loader.
    let libraries = system.join("lib/x86_64-linux-gnu");
    let more = system.join("usr/lib/x86_64-linux-gnu");
    let path = format!("{}:{}", libraries.display(), more.display());
    let mut command = host.command(&libraries.join("ld-linux-x86-64.so.2").display().to_string());
    command.args(["--library-path", &path]).arg(system.join("usr/bin/qemu-system-x86_64"));
    command.env("QEMU_MODULE_DIR", more.join("qemu"));
    for firmware in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(system.join(firmware));
    }
    command.args(["-no-user-config", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]);
    command.args(["-machine", "accel=tcg", "-cpu", "max", "-m", "256"]);
    command.arg("-kernel").arg(kernel_of(system)?).arg("-initrd").arg(image);
    command.arg("-append").arg(format!("console=ttyS0 quiet panic=-1 address={address} peer={peer}"));
    command.arg("-netdev").arg(format!("tap,id=net,ifname={tap},script=no,downscript=no"));
    command.arg("-device").arg(format!("virtio-net-pci,netdev=net,mac={mac},host_mtu={mtu},romfile="));
    Ok(command)
}

/// The kernel in a folder of unpacked packages.
fn kernel_of(system: &Path) -> Result<PathBuf, LabError> {
    only_entry(&system.join("boot"), "vmlinuz-")
}

fn modules_of(system: &Path) -> Result<PathBuf, LabError> {
    Ok(only_entry(&system.join("lib/modules"), "")?.join("kernel"))
}

/// The first entry of a folder that begins with `prefix`; these folders have one.
fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf, LabError> {
    let entries = fs::read_dir(folder).map_err(LabError::file(folder))?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    let begins = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix));
    let missing = || LabError::Missing { program: "a kernel".to_owned(), path: folder.to_owned() };
    paths.find(begins).ok_or_else(missing)
}
