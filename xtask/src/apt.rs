//! Debian's packages: installed, or only unpacked into a folder of ours, also from another Debian release.
//!
//! For another release the machine's own sources are copied with the suite changed into an apt configuration of
//! its own, so that whatever mirror this machine uses is used, and the machine's own lists stay as they are.

use crate::step::quietly;
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A Debian release, by its code name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Debian 11.
    Bullseye,
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
    /// Debian 14, which is being made.
    Forky,
}

impl Suite {
    const fn name(self) -> &'static str {
        match self {
            Self::Bullseye => "bullseye",
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        }
    }
}

/// Whether a package is installed.
pub fn is_installed(package: &str) -> bool {
    let status = quietly(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]));
    status.is_ok_and(|s| s == "installed")
}

/// Reads the machine's package lists anew.
pub fn update() -> Result<()> {
    quietly(Command::new("apt-get").args(["-qq", "update"])).map(drop)
}

/// Installs packages without what they only recommend.
pub fn install(packages: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["-qq", "install", "-y", "--no-install-recommends"]).args(packages);
    quietly(&mut command).map(drop)
}

/// The packages and everything that they depend on, down to the C library, whatever this machine has.
pub fn with_dependencies(suite: Suite, packages: &[&str], cache: &Path) -> Result<Vec<String>> {
    let mut command = Command::new("apt-get");
    command.args(configuration(suite, cache)?);
    // Said and not done, for a machine that has nothing.
    command.args([
        "-qq",
        "--simulate",
        "-o",
        "Dir::State::status=/dev/null",
        "--no-install-recommends",
        "install",
    ]);
    Ok(planned(&quietly(command.args(packages))?))
}

/// The packages of the lines `Inst NAME (VERSION …)`.
fn planned(simulation: &str) -> Vec<String> {
    let names = simulation.lines().filter_map(|l| l.strip_prefix("Inst ")?.split_whitespace().next());
    names.map(str::to_owned).collect()
}

/// Downloads packages of a release and unpacks them into `folder`. Nothing is installed or started.
pub fn unpack(suite: Suite, packages: &[String], cache: &Path, folder: &Path) -> Result<()> {
    let downloads = cache.join(format!("download.{}", std::process::id()));
    fs::create_dir_all(&downloads).with_context(|| downloads.display().to_string())?;
    let done = download(suite, packages, cache, &downloads).and_then(|()| {
        for entry in fs::read_dir(&downloads)?.flatten() {
            quietly(Command::new("dpkg").arg("-x").arg(entry.path()).arg(folder))?;
        }
        Ok(())
    });
    fs::remove_dir_all(&downloads).with_context(|| downloads.display().to_string())?;
    done
}

fn download(suite: Suite, packages: &[String], cache: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(configuration(suite, cache)?);
    // The user that apt downloads as may not write here.
    command.args(["-qq", "-o", "APT::Sandbox::User=root", "download"]).args(packages).current_dir(to);
    quietly(&mut command).map(drop)
}

/// The apt options that make it see the packages of a release: none for the machine's own.
fn configuration(suite: Suite, cache: &Path) -> Result<Vec<String>> {
    let own = own_release()?;
    if own == suite.name() {
        return Ok(Vec::new());
    }
    let root = cache.join(format!("apt-{}", suite.name()));
    let (lists, sources) = (root.join("lists"), root.join("sources"));
    for dir in [lists.join("partial"), sources.clone(), root.join("cache/archives/partial")] {
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    }
    let options = vec![
        "-o".to_owned(),
        format!("Dir::State::lists={}", lists.display()),
        "-o".to_owned(),
        format!("Dir::Cache={}", root.join("cache").display()),
        "-o".to_owned(),
        "Dir::Etc::sourcelist=/dev/null".to_owned(),
        "-o".to_owned(),
        format!("Dir::Etc::sourceparts={}", sources.display()),
    ];
    if copy_sources(&own, suite.name(), &sources)? == 0 {
        bail!("this machine's apt sources have no entry for {own} to make one for {} of", suite.name());
    }
    quietly(Command::new("apt-get").args(&options).args(["-qq", "update"]))?;
    Ok(options)
}

fn own_release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release has no VERSION_CODENAME")?.trim_matches('"').to_owned())
}

/// Writes the machine's sources of the release `own` with `other` in its place; returns how many.
fn copy_sources(own: &str, other: &str, to: &Path) -> Result<usize> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|e| e.path()));
    let mut count = 0;
    for (number, file) in files.iter().enumerate() {
        let Ok(text) = fs::read_to_string(file) else { continue };
        let (changed, suffix) = if file.extension().is_some_and(|e| e == "sources") {
            (stanzas(&text, own, other), "sources")
        } else {
            (lines(&text, own, other), "list")
        };
        if !changed.is_empty() {
            let copy = to.join(format!("weft-{number}.{suffix}"));
            fs::write(&copy, changed).with_context(|| copy.display().to_string())?;
            count += 1;
        }
    }
    Ok(count)
}

/// The stanzas of a deb822 file (sources.list(5)) that have the suite `own`, with `other` as their only suite.
fn stanzas(text: &str, own: &str, other: &str) -> String {
    let mut kept = String::new();
    for stanza in text.split("\n\n") {
        let lines: Vec<&str> = stanza.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).collect();
        let suites = lines.iter().find_map(|l| l.strip_prefix("Suites:"));
        if suites.is_some_and(|s| s.split_whitespace().any(|word| word == own)) {
            for line in lines {
                let suite = format!("Suites: {other}");
                kept.push_str(if line.starts_with("Suites:") { &suite } else { line });
                kept.push('\n');
            }
            kept.push('\n');
        }
    }
    kept
}

/// The one-line entries that have the suite `own`, with `other` in its place.
fn lines(text: &str, own: &str, other: &str) -> String {
    let mut kept = String::new();
    for line in text.lines().filter(|l| l.starts_with("deb ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.contains(&own) {
            let words: Vec<&str> = words.into_iter().map(|w| if w == own { other } else { w }).collect();
            kept.push_str(&words.join(" "));
            kept.push('\n');
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stanza_of_the_release_is_copied_and_others_are_left_out() {
        let text = "# a comment\nTypes: deb\nURIs: mirror\nSuites: bookworm bookworm-updates\nSigned-By: key\n\n\
                    Types: deb\nURIs: mirror\nSuites: bookworm-security\n";
        let copy = stanzas(text, "bookworm", "trixie");
        assert_eq!(copy, "Types: deb\nURIs: mirror\nSuites: trixie\nSigned-By: key\n\n");
    }

    #[test]
    fn a_simulation_names_the_packages_that_it_would_install() {
        let text = "Inst libc6 (2.36-9 Debian:12 [amd64])\nInst bpftool (7.1 Debian:12 [amd64]) []\nConf libc6 (2.36-9)\n";
        assert_eq!(planned(text), ["libc6", "bpftool"]);
    }

    #[test]
    fn a_one_line_entry_of_the_release_is_copied_and_others_are_left_out() {
        let text = "deb [arch=amd64] mirror bookworm main\ndeb mirror bookworm-security main\n# deb mirror bookworm x\n";
        assert_eq!(lines(text, "bookworm", "trixie"), "deb [arch=amd64] mirror trixie main\n");
    }
}
