//! Runs the check: on this kernel in a mount namespace of its own, on another one as the first process under qemu.

use super::{LIBRARY_DIR, console::end};
use crate::step::quietly;
use anyhow::{Context, Result, bail};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// It takes seconds; a slow machine is given its time.
const PATIENCE: Duration = Duration::from_mins(3);

/// Runs the check on this kernel. What it mounts and pins goes with its namespace.
pub fn on_this_kernel(root: &Path) -> Result<String> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "chroot"]).arg(root).arg("/init");
    watch("the check on this kernel", &mut command, PATIENCE)
}

/// Boots the kernel that is in `system` with `root` as its initramfs (made at `image`), and returns what its console shows.
pub fn under_qemu(system: &Path, root: &Path, image: &Path) -> Result<String> {
    let pack = "cd \"$1\" && find . | \"$2\" cpio -o -H newc > \"$3\"";
    let busybox = system.join("bin/busybox");
    quietly(Command::new("sh").args(["-c", pack, "sh"]).arg(root).arg(busybox).arg(image))?;
    // qemu runs on the libraries that were unpacked with it, by their own loader.
    let libraries = system.join(LIBRARY_DIR);
    let more = system.join("usr").join(LIBRARY_DIR);
    let path = format!("{}:{}", libraries.display(), more.display());
    let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
    command.args(["--library-path", &path]).arg(system.join("usr/bin/qemu-system-x86_64"));
    command.env("QEMU_MODULE_DIR", more.join("qemu"));
    for firmware in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(system.join(firmware));
    }
    command.args(["-no-user-config", "-nodefaults", "-display", "none", "-nic", "none", "-serial", "stdio"]);
    command.args(["-machine", "accel=tcg", "-cpu", "max", "-m", "512"]);
    command.arg("-kernel").arg(kernel(system)?).arg("-initrd").arg(image);
    // A panic ends it, too.
    command.args(["-no-reboot", "-append", "console=ttyS0 quiet panic=-1"]);
    watch("the check under qemu", &mut command, PATIENCE)
}

/// The only kernel in a folder of unpacked packages.
fn kernel(system: &Path) -> Result<PathBuf> {
    let boot = system.join("boot");
    let entries = fs::read_dir(&boot).with_context(|| boot.display().to_string())?;
    let mut kernels: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    kernels.retain(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-")));
    match kernels.as_slice() {
        [kernel] => Ok(kernel.clone()),
        _ => bail!("{} has {} kernels instead of one", boot.display(), kernels.len()),
    }
}

/// A process of ours, which does not outlive us.
struct Ours(Child);

impl Drop for Ours {
    fn drop(&mut self) {
        // Fails for one that has ended.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Runs a command to its end, or for as long as `patience` lasts, and returns what it prints.
fn watch(what: &str, command: &mut Command, patience: Duration) -> Result<String> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = Ours(child.with_context(|| what.to_owned())?);
    let mut output = BufReader::new(child.0.stdout.take().context("no output")?);
    let (sender, lines) = mpsc::channel();
    let reader = thread::spawn(move || -> std::io::Result<()> {
        // Firmware and kernels print what is not UTF-8.
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line)? > 0 {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
            line.clear();
        }
        Ok(())
    });
    let (deadline, mut text) = (Instant::now() + patience, String::new());
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => text.push_str(&line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                bail!("{what} takes longer than {patience:?}:\n{}", end(&text))
            }
        }
    }
    reader.join().map_err(|_| anyhow::anyhow!("{what}: its reader failed"))??;
    let status = child.0.wait()?;
    if status.success() { Ok(text) } else { bail!("{what}: {status}:\n{}", end(&text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, patience: Duration) -> Result<String> {
        watch("the check", Command::new("sh").args(["-c", script]), patience)
    }

    #[test]
    fn a_check_that_hangs_is_ended_and_its_last_words_are_told() {
        let start = Instant::now();
        let error = shell("echo hello; exec sleep 600", Duration::from_millis(300)).unwrap_err();
        assert_eq!(error.to_string(), "the check takes longer than 300ms:\nhello");
        assert!(start.elapsed() < Duration::from_mins(1));
    }

    #[test]
    fn a_check_that_fails_is_an_error_with_its_last_words() {
        let error = shell("echo panic; exit 3", PATIENCE).unwrap_err();
        assert_eq!(error.to_string(), "the check: exit status: 3:\npanic");
        assert_eq!(shell("echo fine", PATIENCE).unwrap(), "fine\n");
    }
}
