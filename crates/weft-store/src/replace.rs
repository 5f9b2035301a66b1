//! Files of which there is the old one or the new one, and never a part: a crash or a full disk loses no more than the new one.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Writes a file of this mode (of which the umask takes its part), whole or not at all. It is on disk when this returns.
pub fn replace_file(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let written = write(&beside, mode, bytes).and_then(|()| std::fs::rename(&beside, path));
    if let Err(error) = written {
        // What there is of it takes room that others need.
        return match std::fs::remove_file(&beside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(io::Error::other(format!("{error}; and {} cannot be removed: {e}", beside.display())))
            }
            _ => Err(error),
        };
    }
    // The name has to survive a power failure too.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn write(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    // One that a crash has left may have another mode.
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_file_is_replaced_whole_and_its_mode_is_the_one_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.b");
        std::fs::write(folder.path().join("a.b.new"), "left by a crash").unwrap();
        for text in ["one", "two"] {
            replace_file(&path, 0o600, text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_full_disk_leaves_the_old_file_and_no_part_of_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let disk = weft_lab::SmallDisk::mount(folder.path(), 1 << 20).unwrap();
        let path = disk.path("file");
        replace_file(&path, 0o600, b"old").unwrap();
        disk.fill().unwrap();
        let error = replace_file(&path, 0o600, &vec![7; 100_000]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert!(!disk.path("file.new").exists());
        disk.free().unwrap();
        replace_file(&path, 0o600, &vec![7; 100_000]).unwrap();
    }
}
