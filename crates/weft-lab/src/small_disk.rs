//! A disk so small that a test can fill it.

use crate::LabError;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// A tmpfs at a folder. Dropping it takes it off, and what is on it is gone.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of this many bytes at `folder`, which must be there. Needs root.
    pub fn mount(folder: &Path, bytes: u64) -> Result<Self, LabError> {
        let size = format!("size={bytes}");
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).map_err(|e| {
            LabError::File { path: folder.to_owned(), reason: format!("no tmpfs there: {e}") }
        })?;
        Ok(Self(folder.to_owned()))
    }

    /// A file's path on it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Leaves not a byte of room.
    pub fn fill(&self) -> Result<(), LabError> {
        let mut bytes = 1 << 20;
        for number in 0.. {
            let path = self.filler(number);
            while let Err(error) = std::fs::write(&path, vec![0; bytes]) {
                match error.kind() {
                    ErrorKind::StorageFull if bytes == 1 => return Ok(()),
                    ErrorKind::StorageFull => bytes /= 2,
                    _ => return Err(LabError::File { path, reason: error.to_string() }),
                }
            }
        }
        Ok(())
    }

    /// Takes away what [`SmallDisk::fill`] has put there.
    pub fn free(&self) -> Result<(), LabError> {
        for number in 0.. {
            let path = self.filler(number);
            match std::fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                Err(error) => return Err(LabError::File { path, reason: error.to_string() }),
            }
        }
        Ok(())
    }

    fn filler(&self, number: u32) -> PathBuf {
        self.path(&format!("fill-{number}"))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}
