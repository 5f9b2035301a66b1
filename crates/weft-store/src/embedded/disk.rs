//! The file beneath the embedded store: it takes its room on the disk before anything is written there, so that a full disk
//! refuses a write before it has begun.
//!
//! redb lengthens its file and then writes into the new part. A file that is only said to be longer has holes, and a
//! write into a hole fails in the middle of a transaction when the disk is full. So the room is allocated first
//! (fallocate(2)); what is inside the file can then be written at any time.

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
};
use redb::{BackendError, StorageBackend, backends::FileBackend};
use std::{
    fs::File,
    io,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The length that the file could not get for want of room on the disk; 0: it got what it wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanting(Arc<AtomicU64>);

impl Wanting {
    /// Asks the disk for the room again, without any effect on what is in the file. An error while there is none.
    pub fn ask(&self, path: &std::path::Path) -> io::Result<()> {
        let length = self.0.load(Ordering::SeqCst);
        if length > 0 {
            let file = File::options().write(true).open(path)?;
            allocate(&file, length)?;
            self.0.store(0, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// See the module.
#[derive(Debug)]
pub struct Disk {
    backend: FileBackend,
    /// The same file.
    file: File,
    wanting: Wanting,
}

impl Disk {
    /// Takes an open file.
    pub fn new(file: File, wanting: Wanting) -> Result<Self, redb::DatabaseError> {
        let same = file.try_clone()?;
        Ok(Self { backend: FileBackend::new(file)?, file: same, wanting })
    }
}

/// Gives the file room up to `length`, beyond its end, without making it longer.
fn allocate(file: &File, length: u64) -> io::Result<()> {
    let present = file.metadata()?.len();
    let (Ok(offset), Ok(more)) = (i64::try_from(present), i64::try_from(length.saturating_sub(present)))
    else {
        return Err(io::ErrorKind::FileTooLarge.into());
    };
    if more == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, more) {
        // A file system that cannot tell: then the writes will.
        Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
        Err(error) => {
            // What it got in part goes back.
            file.set_len(present)?;
            Err(error.into())
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        if let Err(error) = allocate(&self.file, length) {
            self.wanting.0.store(length, Ordering::SeqCst);
            return Err(error);
        }
        self.backend.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.backend.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.query_lock_range(start, end)
    }
}
