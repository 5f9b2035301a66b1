//! Network namespaces: opening, naming, entering.
//!
//! The kernel keeps a namespace for every thread, so code enters one on a thread of its own and never on a
//! worker of the async runtime. A socket stays in the namespace it was opened in, whoever uses it later.
//! Named namespaces are kept the way `ip netns` does (iproute2's ip-netns(8)): a bind mount of the namespace's
//! file at `/run/netns/NAME`.

use crate::KernelError;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::fstatfs,
};
use std::{
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    os::{fd::AsFd, fd::BorrowedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

/// Where named namespaces are.
pub const NAMED_NAMESPACES: &str = "/run/netns";
/// The namespace of the thread that opens it.
const OWN: &str = "/proc/thread-self/ns/net";
/// The magic number of the filesystem that namespace files are on (`linux/magic.h`).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// A network namespace, held by an open file: it exists at least as long as this value.
#[derive(Clone, Debug)]
pub struct Namespace {
    file: Arc<File>,
    path: PathBuf,
}

impl Namespace {
    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, KernelError> {
        Self::open(Path::new(OWN))
    }

    /// The namespace whose file is at `path`; an error when there is no file or it is something else.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, KernelError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| failed(path, &e))?;
        let kind = fstatfs(&file).map_err(|e| failed(path, &e))?.filesystem_type();
        // The type of the magic number differs between architectures.
        #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
        if i64::from(kind.0) != NSFS_MAGIC {
            return Err(failed(path, &"this file is not a network namespace"));
        }
        Ok(Self { file: Arc::new(file), path: path.to_owned() })
    }

    /// The same; where `inode` is given, an error also when it is another one's path by now.
    pub fn open_if_still(path: impl AsRef<Path>, inode: Option<u64>) -> Result<Self, KernelError> {
        let namespace = Self::open(path)?;
        if inode.is_none_or(|inode| namespace.inode().is_ok_and(|found| found == inode)) {
            return Ok(namespace);
        }
        let reason = "this is another namespace by now: the process that it was of has ended";
        Err(failed(&namespace.path, &reason))
    }

    /// The namespace named `name`, made if there is none.
    pub fn create_named(name: &str) -> Result<Self, KernelError> {
        let path = named_path(name)?;
        prepare_folder()?;
        if let Ok(existing) = Self::open(&path) {
            return Ok(existing);
        }
        on_new_thread(&path, || {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| failed(&path, &e))?;
            pin_own_namespace(&path)
        })?
    }

    /// Removes the name. The namespace itself goes when nothing uses it any more. Succeeds when there is none.
    pub fn delete_named(name: &str) -> Result<(), KernelError> {
        unpin(&named_path(name)?)
    }

    /// Gives this namespace a name, whatever had it before.
    pub(crate) fn name_again(&self, name: &str) -> Result<(), KernelError> {
        let path = named_path(name)?;
        prepare_folder()?;
        unpin(&path)?;
        self.run(|| pin_own_namespace(&path))?.map(|_| ())
    }

    /// Whether `name` is the name of this very namespace.
    pub(crate) fn is_named(&self, name: &str) -> Result<bool, KernelError> {
        let path = named_path(name)?;
        match fs::metadata(&path) {
            Ok(found) => Ok(identity(&found) == self.identity()?),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(failed(&path, &e)),
        }
    }

    /// Whether the two are the same namespace.
    pub fn is_same(&self, other: &Self) -> Result<bool, KernelError> {
        Ok(self.identity()? == other.identity()?)
    }

    /// The number of its file, by which it is told from others.
    pub fn inode(&self) -> Result<u64, KernelError> {
        self.identity().map(|(_, inode)| inode)
    }

    fn identity(&self) -> Result<(u64, u64), KernelError> {
        self.file.metadata().map(|found| identity(&found)).map_err(|e| failed(&self.path, &e))
    }

    /// Runs `work` in this namespace, on a thread of its own, and waits for it. Blocks: not to be called with
    /// long work on a worker of the async runtime.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, KernelError> {
        on_new_thread(&self.path, || {
            setns(&*self.file, CloneFlags::CLONE_NEWNET).map_err(|e| failed(&self.path, &e))?;
            Ok(work())
        })?
    }

    /// The path it was opened at.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Runs `work` in a new namespace without a name, which is gone afterwards.
pub(crate) fn in_throw_away<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, KernelError> {
    let path = Path::new("(a new one)");
    on_new_thread(path, || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| failed(path, &e))?;
        Ok(work())
    })?
}

fn on_new_thread<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, KernelError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("weft-namespace".to_owned());
        let handle = thread.spawn_scoped(scope, work).map_err(|e| failed(path, &e))?;
        handle.join().map_err(|panic| std::panic::resume_unwind(panic))
    })
}

/// Mounts the calling thread's namespace at `path`.
fn pin_own_namespace(path: &Path) -> Result<Namespace, KernelError> {
    // The file is only the place to mount on; a left-over of a crash between the two steps does as well.
    OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(|e| failed(path, &e))?;
    mount(Some(OWN), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|e| failed(path, &e))?;
    Namespace::open(path)
}

fn unpin(path: &Path) -> Result<(), KernelError> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // Not a mount: only the file is there, or not even that.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(e) => return Err(failed(path, &e)),
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(failed(path, &e)),
        _ => Ok(()),
    }
}

/// Makes `/run/netns` and marks it as a shared mount, so that names made here are seen in mount namespaces
/// that were split off, and names removed there do not stay behind.
fn prepare_folder() -> Result<(), KernelError> {
    let folder = Path::new(NAMED_NAMESPACES);
    fs::create_dir_all(folder).map_err(|e| failed(folder, &e))?;
    let share =
        || mount(None::<&str>, folder, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        // Not a mount point yet: it becomes one by being mounted on itself.
        Err(nix::Error::EINVAL) => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(folder), folder, None::<&str>, flags, None::<&str>)
                .and_then(|()| share())
                .map_err(|e| failed(folder, &e))
        }
        other => other.map_err(|e| failed(folder, &e)),
    }
}

fn named_path(name: &str) -> Result<PathBuf, KernelError> {
    let path = Path::new(NAMED_NAMESPACES).join(name);
    let fits = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    if fits { Ok(path) } else { Err(failed(&path, &"this is not a name for a namespace")) }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn failed(path: &Path, reason: &dyn std::fmt::Display) -> KernelError {
    KernelError::Namespace { path: path.display().to_string(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_path_component() {
        for bad in ["", ".", "..", "a/b", "/etc/passwd"] {
            let error = named_path(bad).unwrap_err().to_string();
            assert!(error.contains("not a name"), "{error}");
        }
        assert_eq!(named_path("weft").unwrap(), Path::new("/run/netns/weft"));
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        let error = Namespace::open("/proc/self/status").unwrap_err().to_string();
        assert!(error.contains("/proc/self/status") && error.contains("not a network namespace"), "{error}");
        assert!(Namespace::open("/run/netns/no-such-namespace").is_err());
    }

    #[test]
    fn the_current_namespace_is_itself() {
        let (a, b) = (Namespace::current().unwrap(), Namespace::current().unwrap());
        assert!(a.is_same(&b).unwrap());
    }
}
