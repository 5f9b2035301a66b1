//! Running commands as steps that tell what they do.

use anyhow::{Context, Result, bail};
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// Changes into the workspace's folder, wherever the chore was called from.
pub fn go_to_workspace() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no folder above it")?;
    env::set_current_dir(root).with_context(|| root.display().to_string())
}

/// `cargo` as the one that runs this chore.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

/// Runs a command with its output shown; fails with it.
pub fn run(command: &mut Command) -> Result<()> {
    let text = text(command);
    let status = command.status().with_context(|| text.clone())?;
    if status.success() { Ok(()) } else { bail!("`{text}`: {status}") }
}

/// Runs a command with its output kept; on failure its output is the error.
pub fn quietly(command: &mut Command) -> Result<String> {
    let text = text(command);
    let output = command.output().with_context(|| text.clone())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    bail!("`{text}`: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim());
}

fn text(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Builds `weft` and returns the program's path.
pub fn build_weft() -> Result<PathBuf> {
    run(&mut cargo(&["build", "--package", "weft"]))?;
    Ok(built("debug")?.join("weft"))
}

/// The folder of the optimised programs of these packages: the one that is given, or what is built now.
pub fn optimised(given: Option<&Path>, packages: &[&str]) -> Result<PathBuf> {
    if let Some(dir) = given {
        return dir.canonicalize().with_context(|| dir.display().to_string());
    }
    let packages: Vec<&str> = packages.iter().flat_map(|package| ["--package", package]).collect();
    run(&mut cargo(&[&["build", "--release"], &packages[..]].concat()))?;
    built("release")
}

/// The folder of the programs of a profile.
fn built(profile: &str) -> Result<PathBuf> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let dir = target.join(profile);
    dir.canonicalize().with_context(|| dir.display().to_string())
}

/// Fails unless this is root.
pub fn need_root(chore: &str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!("`cargo xtask {chore}` must run as root: it makes network namespaces");
}
