//! A lab for a test: of a name no other run has, gone when the test ends, its evidence kept when the test fails.

use crate::{Daemon, Lab, LabError, LabOptions, NetNs, output};
use std::{
    fs,
    io::Write,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    process::{Command, id},
    thread,
};

/// A lab that is taken down on drop. When the test panics, logs and the kernel's tables are kept first, in
/// `$WEFT_EVIDENCE/LAB` (`/tmp/weft-evidence/LAB`).
#[derive(Debug)]
pub struct Fixture {
    lab: Lab,
}

impl Fixture {
    /// Brings a lab up whose name is `options.name` (8 characters at most) and this process's pid. Labs that an
    /// earlier run of the same tests left behind, because it was killed, are taken down first.
    pub fn up(mut options: LabOptions) -> Result<Self, LabError> {
        sweep(&options.name)?;
        options.name = format!("{}-{}", options.name, id());
        let mut fixture = Self { lab: Lab::plan(options)? };
        if let Err(error) = fixture.lab.build() {
            fixture.keep_evidence();
            return Err(error);
        }
        Ok(fixture)
    }

    /// Copies the logs, and writes down what the namespaces hold.
    fn keep_evidence(&self) {
        let top =
            std::env::var_os("WEFT_EVIDENCE").map_or_else(|| "/tmp/weft-evidence".into(), PathBuf::from);
        let dir = top.join(self.lab.name());
        if let Err(error) = self.collect(&dir) {
            eprintln!("weft-lab: the evidence is not complete: {error}");
        }
        eprintln!("weft-lab: logs and tables are in {}", dir.display());
    }

    fn collect(&self, dir: &Path) -> Result<(), LabError> {
        fs::create_dir_all(dir).map_err(LabError::file(dir))?;
        for host in &self.lab.hosts {
            copy_files(&host.dir, dir, &format!("{}-", host.name))?;
        }
        copy_files(&self.lab.dir(), dir, "")?;
        for store in ["etcd", "consul"] {
            copy_files(&self.lab.dir().join(store), dir, "")?;
        }
        let hosts = self.lab.hosts.iter().map(|h| h.namespace.clone());
        let overlays = self.lab.daemons.iter().map(Daemon::overlay);
        let containers = self.lab.containers.iter().map(|c| c.namespace.clone());
        for namespace in hosts.chain(overlays).chain(containers).filter(NetNs::exists) {
            let path = dir.join(format!("{}.txt", namespace.name()));
            fs::write(&path, tables(&namespace)?).map_err(LabError::file(&path))?;
        }
        Ok(())
    }
}

impl Deref for Fixture {
    type Target = Lab;
    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl DerefMut for Fixture {
    fn deref_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if thread::panicking() {
            self.keep_evidence();
        }
        if let Err(error) = self.lab.down() {
            eprintln!("weft-lab: {} is not gone: {error}", self.lab.name());
        }
    }
}

/// Says loudly that a test cannot run here, and why; in CI (`CI` set) that is a failure. It is written past the
/// test harness, which would swallow it, and into the file `$WEFT_CANNOT_RUN` for the summary at the end.
///
/// # Panics
/// In CI.
#[allow(clippy::panic)]
pub fn cannot_run(test: &str, reason: &dyn std::fmt::Display) {
    let line = format!("CANNOT RUN: {test}: {reason}\n");
    let _no_terminal = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("WEFT_CANNOT_RUN") {
        let file = fs::File::options().create(true).append(true).open(&path);
        if let Err(error) = file.and_then(|mut f| f.write_all(line.as_bytes())) {
            eprintln!("weft-lab: {}: {error}", PathBuf::from(path).display());
        }
    }
    assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "{line}");
}

/// Takes down labs `NAME-PID` whose maker is gone.
fn sweep(name: &str) -> Result<(), LabError> {
    for mut lab in Lab::list()? {
        let ours =
            lab.name().rsplit_once('-').is_some_and(|(n, pid)| n == name && pid.parse::<u32>().is_ok());
        if ours && !lab.maker.as_ref().is_some_and(crate::Process::is_alive) {
            lab.down()?;
        }
    }
    Ok(())
}

/// Copies logs, captures and descriptions from one folder, not from those below it.
fn copy_files(from: &Path, to: &Path, prefix: &str) -> Result<(), LabError> {
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let path = entry.path();
        let wanted = path.extension().is_some_and(|e| e == "log" || e == "pcap" || e == "json");
        if wanted && path.is_file() {
            let copy = to.join(format!("{prefix}{}", entry.file_name().to_string_lossy()));
            fs::copy(&path, &copy).map_err(LabError::file(&path))?;
        }
    }
    Ok(())
}

/// What the kernel holds in a namespace.
fn tables(namespace: &NetNs) -> Result<String, LabError> {
    let mut text = String::new();
    for command in ["ip -d -s addr", "ip route", "ip -6 route", "ip neigh", "bridge fdb", "ip -s -s link"] {
        let mut words = command.split(' ');
        let program = words.next().unwrap_or("ip");
        let said = output(Command::new(program).args(["-n", namespace.name()]).args(words))?;
        text.extend(["# ", command, "\n", &String::from_utf8_lossy(&said.stdout), "\n"]);
    }
    Ok(text)
}
