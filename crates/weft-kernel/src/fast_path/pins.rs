//! Where the maps and links of the fast path are kept while no process holds them: files on the BPF filesystem.
//!
//! `/sys/fs/bpf/weft/NAMESPACE/v2/maps/MAP` and `…/links/PROGRAM/DEVICE`, one folder for each overlay namespace, as
//! several hosts may be namespaces of one machine. Removing a link's file detaches its program.

use super::failed;
use crate::KernelError;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::statfs,
};
use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// The BPF filesystem.
const BPFFS: &str = "/sys/fs/bpf";
/// Its magic number (`linux/magic.h`).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// The layout of the maps. Another layout is another folder: old programs never see new entries.
const LAYOUT: &str = "v2";

/// The pins of one overlay namespace.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    folder: PathBuf,
}

impl Pins {
    /// Those of the overlay namespace of that name.
    pub fn of(overlay_netns: &str) -> Self {
        Self { folder: Path::new(BPFFS).join("weft").join(file_name(overlay_netns)) }
    }

    /// Where the map of that name is.
    pub fn map(&self, name: &str) -> PathBuf {
        self.folder.join(LAYOUT).join("maps").join(name)
    }

    /// The folder of a program's links.
    pub fn links(&self, program: &str) -> PathBuf {
        self.folder.join(LAYOUT).join("links").join(program)
    }

    /// Where the link is that holds a program at a device.
    pub fn link(&self, program: &str, device: &str) -> PathBuf {
        self.links(program).join(file_name(device))
    }

    /// The files of a program's links; none when there is no folder.
    pub fn linked(&self, program: &str) -> Result<Vec<PathBuf>, KernelError> {
        list(&self.links(program))
    }

    /// Makes the links of other layouts this one's own, where it has none at that device: what is attached there is then
    /// replaced in place. Were it detached instead, frames on their way over the trunk would meet no program.
    pub fn inherit_links(&self, program: &str) -> Result<(), KernelError> {
        for layout in self.other_layouts()? {
            for link in list(&layout.join("links").join(program))? {
                let ours = self.links(program).join(link.file_name().unwrap_or_default());
                if !ours.exists() {
                    fs::rename(&link, &ours)
                        .map_err(|e| failed(format!("move {} to {}", link.display(), ours.display()), &e))?;
                }
            }
        }
        Ok(())
    }

    /// Makes the folders, on a BPF filesystem that is mounted if it was not.
    pub fn prepare(&self, programs: &[&str]) -> Result<(), KernelError> {
        ensure_mounted()?;
        make_folder(&self.folder.join(LAYOUT).join("maps"))?;
        programs.iter().try_for_each(|program| make_folder(&self.links(program)))
    }

    /// Removes the pins of other layouts than this one's.
    pub fn remove_other_layouts(&self) -> Result<(), KernelError> {
        self.other_layouts()?.iter().try_for_each(|layout| remove_folder(layout))
    }

    pub fn other_layouts(&self) -> Result<Vec<PathBuf>, KernelError> {
        let mut layouts = list(&self.folder)?;
        layouts.retain(|layout| !layout.ends_with(LAYOUT));
        Ok(layouts)
    }

    /// Removes every pin.
    pub fn remove_all(&self) -> Result<(), KernelError> {
        remove_folder(&self.folder)?;
        // Other hosts of this machine may have theirs beside.
        match fs::remove_dir(Path::new(BPFFS).join("weft")) {
            Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                Err(failed("remove the folder of pins", &e))
            }
            _ => Ok(()),
        }
    }
}

/// What is in a folder; nothing when there is none.
fn list(folder: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(format!("list {}", folder.display()), &e)),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    paths.collect::<io::Result<_>>().map_err(|e| failed(format!("list {}", folder.display()), &e))
}

/// Makes a folder, unless it is there.
pub(super) fn make_folder(path: &Path) -> Result<(), KernelError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| failed(format!("make {}", path.display()), &e))
}

/// Removes one pin, if it is there.
pub(super) fn unpin(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(failed(format!("remove {}", path.display()), &e))
        }
        _ => Ok(()),
    }
}

fn remove_folder(path: &Path) -> Result<(), KernelError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(failed(format!("remove {}", path.display()), &e))
        }
        _ => Ok(()),
    }
}

/// Mounts the BPF filesystem where every distribution has it, unless it is there.
pub(super) fn ensure_mounted() -> Result<(), KernelError> {
    let doing = format!("mount the BPF filesystem at {BPFFS}");
    let kind = statfs(BPFFS).map_err(|e| failed(&doing, &e))?.filesystem_type();
    // The type of the magic number differs between architectures.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    if i64::from(kind.0) == BPF_FS_MAGIC {
        return Ok(());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>).map_err(|e| failed(doing, &e))
}

/// The BPF filesystem allows no dots in names.
fn file_name(name: &str) -> String {
    name.replace('%', "%25").replace('.', "%2e")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_dots_have_pins_of_their_own() {
        let pins = Pins::of("weft.two");
        assert_eq!(pins.map("ports"), Path::new("/sys/fs/bpf/weft/weft%2etwo/v2/maps/ports"));
        assert_ne!(pins.link("from_wire", "eth0.7"), pins.link("from_wire", "eth0%2e7"));
    }
}
