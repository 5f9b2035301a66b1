//! The cgroups that engines make for a lab's containers.

use crate::{LabError, until};
use std::{fs, path::Path, time::Duration};

/// Removes the cgroup `name` and those below it, in every hierarchy that has it.
pub(crate) fn remove(name: &str) -> Result<(), LabError> {
    let top = Path::new("/sys/fs/cgroup");
    let mut roots = vec![top.to_owned()];
    roots.extend(fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path()));
    for group in roots.iter().map(|root| root.join(name)).filter(|group| group.is_dir()) {
        // A cgroup's last process may still be on its way out.
        until(&format!("the removal of {}", group.display()), Duration::from_secs(5), || {
            remove_tree(&group).map_err(|e| e.to_string())
        })?;
    }
    Ok(())
}

/// Removes a cgroup and those below it. The files in it are the kernel's and go with it.
fn remove_tree(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)?.flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}
