//! `cargo xtask verifier`: whether kernels' verifiers accept the fast path's programs, on this machine's own kernel and
//! on Debian 12's.
//!
//! The other kernel runs under qemu, on an emulated processor: the verifier does not care, it boots in seconds, and it
//! needs no `/dev/kvm` (some virtual machines have one that cannot run an unmodified kernel). One folder with
//! bpftool, busybox, the programs and [`CHECK`] is both that kernel's initramfs and, on this one, the root of `chroot`; so
//! both are asked the same thing. The programs are the very files that cargo has built into weft.
//!
//! Every run also offers each kernel a program that it must refuse: a check that cannot fail shows nothing.

mod console;
mod run;

use crate::{
    step::{cargo, need_root, quietly},
    tools,
};
use anyhow::{Context, Result, bail};
use console::{Report, Verdict};
use std::{
    env, fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;
use weft_lab::{Tools, cannot_run};

/// What is run on each kernel.
const CHECK: &str = include_str!("check.sh");

/// What the check needs, in the folder of unpacked packages as in the root that is made of it: two programs, the
/// libraries of the second, and what loads these.
const FILES: [&str; 7] = [
    "bin/busybox",
    "usr/sbin/bpftool",
    "usr/lib/x86_64-linux-gnu/libelf.so.1",
    "lib/x86_64-linux-gnu/libz.so.1",
    "lib/x86_64-linux-gnu/libcap.so.2",
    "lib/x86_64-linux-gnu/libc.so.6",
    "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
];
const LIBRARY_DIR: &str = "lib/x86_64-linux-gnu";

/// The program that must be refused: its name, and its source.
const CONTROL: &str = "must_be_refused";
const CONTROL_SOURCE: &str = "xtask/src/verifier/must_be_refused.c";

/// `cargo xtask verifier`
pub fn run() -> Result<()> {
    need_root("verifier")?;
    tools::install(tools::Want::Verifier)?;
    let system = Tools::from_env().dir().join(tools::VERIFIER);
    if let Err(reason) = usable(&system) {
        // As a step of the tests, the other steps go on.
        if env::var_os("WEFT_CANNOT_RUN").is_none() {
            return Err(reason);
        }
        cannot_run("verifier", &reason);
        return Ok(());
    }
    let objects = objects()?;
    let names: Vec<String> = objects.iter().map(|object| name(object)).collect();
    // Gone when it is dropped, with the initramfs.
    let place = TempDir::with_prefix("weft-verifier.")?;
    let root = place.path().join("root");
    make_root(&system, &objects, &root)?;
    let here = run::on_this_kernel(&root)?;
    let there = run::under_qemu(&system, &root, &place.path().join("initramfs"))?;
    let mut refused = 0;
    for output in [here, there] {
        refused += judge(&Report::parse(&output)?, &names)?;
    }
    if refused == 0 { Ok(()) } else { bail!("refused: {refused} of {} loads", 2 * names.len()) }
}

/// Whether this machine can run Debian's kernel for PCs.
fn usable(system: &Path) -> Result<()> {
    if env::consts::ARCH != "x86_64" {
        bail!("Debian 12's kernel is only tried on x86-64, and this is {}", env::consts::ARCH);
    }
    if !system.exists() {
        bail!("there is no {}: see CANNOT FETCH above", system.display());
    }
    Ok(())
}

/// The programs as weft has them built in: what the build of its crate has left. A file whose source is gone is of
/// an earlier build.
fn objects() -> Result<Vec<PathBuf>> {
    let messages = quietly(&mut cargo(&["build", "--package", "weft-kernel", "--message-format", "json"]))?;
    let folder = out_dir(&messages).context("cargo does not say where weft-kernel's programs are")?;
    let mut objects = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let object = entry?.path();
        let is_ours = object.extension().is_some_and(|e| e == "o")
            && Path::new("bpf").join(name(&object)).with_extension("c").exists();
        if is_ours {
            objects.push(object);
        }
    }
    objects.sort();
    if objects.is_empty() {
        bail!("no programs in {}", folder.display())
    }
    Ok(objects)
}

/// Where weft-kernel's build script puts its results, as cargo says it (JSON messages, one a line).
fn out_dir(messages: &str) -> Option<PathBuf> {
    let mut scripts = messages.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(
        |message: &serde_json::Value| {
            message["reason"] == "build-script-executed"
                && message["package_id"].as_str().is_some_and(|id| id.contains("/weft-kernel#"))
        },
    );
    Some(PathBuf::from(scripts.next()?["out_dir"].as_str()?))
}

fn name(object: &Path) -> String {
    object.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Makes the folder that both kernels start from.
fn make_root(system: &Path, objects: &[PathBuf], root: &Path) -> Result<()> {
    for folder in ["programs", "proc", "bpf", "log"] {
        fs::create_dir_all(root.join(folder))?;
    }
    symlink(LIBRARY_DIR, root.join("lib64"))?;
    for file in FILES {
        let (from, to) = (system.join(file), root.join(file));
        to.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::copy(&from, &to).with_context(|| from.display().to_string())?;
    }
    for object in objects {
        fs::copy(object, root.join("programs").join(name(object)))
            .with_context(|| object.display().to_string())?;
    }
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let mut compile = Command::new(clang);
    compile.args(["-O2", "-g", "-target", "bpf", "-I", "bpf", "-c", CONTROL_SOURCE, "-o"]);
    quietly(compile.arg(root.join("programs").join(CONTROL)))?;
    let init = root.join("init");
    fs::write(&init, CHECK)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Prints what a kernel said, and returns how many of the programs it refused.
fn judge(report: &Report, names: &[String]) -> Result<usize> {
    let mut refused = 0;
    for name in names {
        match report.of(name)? {
            Verdict::Accepted { instructions } => {
                let count = instructions.map_or_else(|| "?".to_owned(), |n| n.to_string());
                println!("Linux {}: {name}: accepted, {count} instructions verified", report.kernel);
            }
            Verdict::Refused { log } => {
                println!("Linux {}: {name}: REFUSED\n{log}", report.kernel);
                refused += 1;
            }
        }
    }
    match report.of(CONTROL)? {
        Verdict::Refused { .. } => {
            println!("Linux {}: {CONTROL}: refused", report.kernel);
            Ok(refused)
        }
        Verdict::Accepted { .. } => bail!(
            "Linux {} accepted a program that reads past a frame's end: its other verdicts mean nothing",
            report.kernel
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(control: &str, program: &str) -> Result<usize> {
        let text =
            format!("weft: kernel 6.1\nweft: {control} {CONTROL} 1\nweft: {program} to_wire 5\nweft: done\n");
        judge(&Report::parse(&text)?, &["to_wire".to_owned()])
    }

    #[test]
    fn a_refused_program_is_counted() {
        assert_eq!(said("refused", "accepted").unwrap(), 0);
        assert_eq!(said("refused", "refused").unwrap(), 1);
    }

    #[test]
    fn a_kernel_that_accepts_everything_is_not_believed() {
        let error = said("accepted", "accepted").unwrap_err();
        assert!(error.to_string().contains("mean nothing"), "{error}");
    }

    #[test]
    fn the_build_scripts_folder_is_found_among_cargos_messages() {
        let messages = "{\"reason\":\"build-script-executed\",\"package_id\":\"registry+x#etcd@1\",\"out_dir\":\"/a\"}\n\
                        {\"reason\":\"build-script-executed\",\"package_id\":\"path+file:///w/crates/weft-kernel#0.1.0\",\
                        \"out_dir\":\"/b\"}\n";
        assert_eq!(out_dir(messages), Some(PathBuf::from("/b")));
        assert_eq!(out_dir("not JSON\n"), None);
    }
}
