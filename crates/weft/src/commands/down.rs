//! `weft down`: takes this host out of the cluster and leaves nothing of weft in its kernel.
//!
//! With a daemon that answers, the daemon leaves: it removes its records, its kernel objects and itself. What is left
//! to do, or all there is to do when no daemon runs, is done here, under the lock of the state directory, so that no
//! daemon that is alive (or starts meanwhile) loses its devices.

use super::{require_root, variable};
use crate::{
    cli::DownFlags,
    config::{HostConfig, Layers},
    exit::Failure,
    output,
};
use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{task::spawn_blocking, time::timeout};
use weft_agent::{
    LOCK_FILE,
    api::{Client, ClientError, ErrorKind},
};

/// How long a daemon that has left the cluster may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// `weft down`; `socket` is the one that was named, if one was.
pub async fn run(flags: DownFlags, socket: Option<PathBuf>) -> Result<(), Failure> {
    require_root("down")?;
    let layers = Layers::read(flags.host.config.as_deref(), &variable)?;
    let host = HostConfig::resolve(&flags.host, &layers)?;
    let own = host.socket();
    if let Some(other) = socket.filter(|socket| *socket != own) {
        // A daemon with its own directories and namespace (a lab's, say): what else there is on this host is not
        // its business.
        Client::new(other.clone()).down().await?;
        return output::print(&format!(
            "the daemon at {} has left the cluster and removes its devices as it ends\n",
            other.display()
        ));
    }

    let _lock = match Client::new(own).down().await {
        Ok(()) => {
            output::print("left the cluster: the records of this node and its endpoints are removed\n")?;
            wait_for_end(&host.state_dir).await?
        }
        Err(error @ ClientError::NoDaemon { .. }) => {
            let lock = lock_now(&host.state_dir, &error)?;
            output::print("no daemon runs here: records of this node that are in the store stay there\n")?;
            lock
        }
        Err(error) => return Err(error.into()),
    };
    let overlay = &host.overlay_netns;
    // "Gone", not "removed": a daemon that has left did most of it itself, and then there was nothing to do.
    weft_kernel::remove_everything(overlay).await?;
    output::print(&format!("gone: network namespace {overlay} and all devices in it\n"))?;
    output::print(&remove_files(&host, flags.purge)?)
}

/// The lock, once the daemon has ended. `None`: there is no state directory, so no daemon uses it.
async fn wait_for_end(state_dir: &Path) -> Result<Option<File>, Failure> {
    let Some(file) = open_lock(state_dir)? else { return Ok(None) };
    let waiting = spawn_blocking(move || file.lock().map(|()| file));
    match timeout(ENDS_WITHIN, waiting).await {
        Ok(Ok(Ok(file))) => Ok(Some(file)),
        Ok(Ok(Err(error))) => Err(failed(&state_dir.join(LOCK_FILE), &error)),
        Ok(Err(error)) => Err(Failure::new(ErrorKind::Internal, error.to_string())),
        Err(_) => Err(Failure::new(
            ErrorKind::Internal,
            format!("the daemon has left the cluster, but has not ended within {} s", ENDS_WITHIN.as_secs()),
        )
        .hint("end it, then run `weft down` again")),
    }
}

/// The lock, if no daemon has it. One that has it and does not answer must not lose its devices.
fn lock_now(state_dir: &Path, silence: &ClientError) -> Result<Option<File>, Failure> {
    let Some(file) = open_lock(state_dir)? else { return Ok(None) };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(Failure::new(
            ErrorKind::Conflict,
            format!("{silence}, but one is running on {}", state_dir.display()),
        )
        .hint("give the --run-dir that it has, or end it first")),
        Err(TryLockError::Error(error)) => Err(failed(&state_dir.join(LOCK_FILE), &error)),
    }
}

fn open_lock(state_dir: &Path) -> Result<Option<File>, Failure> {
    let path = state_dir.join(LOCK_FILE);
    match File::open(&path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(&path, &e)),
    }
}

/// Removes the sockets that a killed daemon left, the run directory if that empties it, and with `purge` the state
/// directory. Returns what is to be said about it.
fn remove_files(host: &HostConfig, purge: bool) -> Result<String, Failure> {
    let mut lines = Vec::new();
    for socket in [host.socket(), host.docker_plugin_socket.clone()] {
        if removed(&socket, fs::remove_file(&socket))? {
            lines.push(format!("removed: {}", socket.display()));
        }
    }
    match fs::remove_dir(&host.run_dir) {
        // Something else is in there: that is for its owner to remove.
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
        result => {
            removed(&host.run_dir, result)?;
        }
    }
    let state_dir = &host.state_dir;
    if !purge {
        if state_dir.exists() {
            lines.push(format!("stays: {} (--purge removes it)", state_dir.display()));
        }
    } else if state_dir.join(LOCK_FILE).exists() {
        fs::remove_dir_all(state_dir).map_err(|e| failed(state_dir, &e))?;
        lines.push(format!("removed: {}", state_dir.display()));
    } else if state_dir.exists() {
        // Whatever that directory is, no daemon has ever used it.
        return Err(Failure::new(
            ErrorKind::Invalid,
            format!("{} is not removed: it is no state directory of weft's", state_dir.display()),
        ));
    }
    lines.push(
        "stays: networks of driver weft that Docker knows (`docker network ls --filter driver=weft`)".into(),
    );
    Ok(lines.join("\n") + "\n")
}

/// Whether something was removed; what was not there is no failure.
fn removed(path: &Path, result: io::Result<()>) -> Result<bool, Failure> {
    match result {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(failed(path, &e)),
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        _ => ErrorKind::Internal,
    };
    Failure::new(kind, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn host(folder: &TempDir) -> HostConfig {
        let host = HostConfig {
            state_dir: folder.path().join("state"),
            run_dir: folder.path().join("run"),
            overlay_netns: "weft-test".to_owned(),
            docker_plugin_socket: folder.path().join("plugin.sock"),
        };
        fs::create_dir(&host.state_dir).unwrap();
        fs::create_dir(&host.run_dir).unwrap();
        fs::write(host.state_dir.join(LOCK_FILE), "").unwrap();
        host
    }

    #[test]
    fn sockets_go_and_the_state_stays_unless_purged() {
        let folder = TempDir::new().unwrap();
        let host = host(&folder);
        fs::write(host.socket(), "").unwrap();
        fs::write(&host.docker_plugin_socket, "").unwrap();
        let text = remove_files(&host, false).unwrap();
        assert!(text.contains(&format!("removed: {}\n", host.socket().display())), "{text}");
        assert!(text.contains(&format!("stays: {} (--purge", host.state_dir.display())), "{text}");
        assert!(!host.run_dir.exists() && !host.docker_plugin_socket.exists() && host.state_dir.exists());

        let text = remove_files(&host, true).unwrap();
        assert!(text.contains(&format!("removed: {}\n", host.state_dir.display())), "{text}");
        assert!(!host.state_dir.exists());
        remove_files(&host, true).unwrap();
    }

    #[test]
    fn a_directory_that_is_not_wefts_is_not_purged() {
        let folder = TempDir::new().unwrap();
        let host = host(&folder);
        fs::remove_file(host.state_dir.join(LOCK_FILE)).unwrap();
        fs::write(host.state_dir.join("letter"), "dear").unwrap();
        let failure = remove_files(&host, true).unwrap_err();
        assert!(failure.message.contains("no state directory of weft's"), "{failure}");
        assert!(host.state_dir.join("letter").exists());
    }

    #[test]
    fn what_others_keep_in_the_run_directory_stays() {
        let folder = TempDir::new().unwrap();
        let host = host(&folder);
        fs::write(host.run_dir.join("other"), "").unwrap();
        remove_files(&host, false).unwrap();
        assert!(host.run_dir.join("other").exists());
    }

    #[tokio::test]
    async fn a_daemon_that_runs_without_answering_keeps_its_devices() {
        let folder = TempDir::new().unwrap();
        let host = host(&folder);
        let daemon = File::open(host.state_dir.join(LOCK_FILE)).unwrap();
        daemon.lock().unwrap();
        let silence = Client::new(host.socket()).down().await.unwrap_err();
        let failure = lock_now(&host.state_dir, &silence).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Conflict);
        assert!(failure.message.contains("but one is running on"), "{failure}");
        drop(daemon);
        assert!(lock_now(&host.state_dir, &silence).unwrap().is_some());
    }

    #[tokio::test]
    async fn the_end_of_the_daemon_is_waited_for() {
        let folder = TempDir::new().unwrap();
        let host = host(&folder);
        let daemon = File::open(host.state_dir.join(LOCK_FILE)).unwrap();
        daemon.lock().unwrap();
        let mut waiting = Box::pin(wait_for_end(&host.state_dir));
        assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err(), "it still runs");
        drop(daemon);
        assert!(waiting.await.unwrap().is_some());
        assert!(wait_for_end(Path::new("/nonexistent")).await.unwrap().is_none());
    }
}
