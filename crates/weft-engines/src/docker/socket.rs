//! The socket on which dockerd finds weft.

use super::EngineError;
use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};
use tokio::net::UnixListener;

/// A bound plugin socket. Its file goes when the value does.
#[derive(Debug)]
pub(super) struct PluginSocket {
    /// Accepts dockerd's connections.
    pub listener: UnixListener,
    /// What unlinks the file at the end.
    pub file: SocketFile,
}

/// A socket's file, unlinked on drop.
#[derive(Debug)]
pub(super) struct SocketFile(pub PathBuf);

impl PluginSocket {
    /// Binds the socket with mode 0600. One that a dead process left is replaced, one that is served is not.
    pub fn bind(path: &Path) -> Result<Self, EngineError> {
        if UnixStream::connect(path).is_ok() {
            return Err(EngineError::SocketInUse(path.to_owned()));
        }
        Self::replace(path)
            .map_err(|error| EngineError::Socket { path: path.to_owned(), reason: error.to_string() })
    }

    fn replace(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        match fs::symlink_metadata(path) {
            Ok(file) if !file.file_type().is_socket() => {
                return Err(io::Error::other("a file that is not a socket is in its place"));
            }
            _ => {}
        }
        // Bound beside its place and moved there when it has its mode: nobody else can open it in between, and
        // dockerd never finds a socket that does not answer.
        let beside = path.with_extension("new");
        remove(&beside)?;
        let listener = UnixListener::bind(&beside)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
        fs::rename(&beside, path)?;
        Ok(Self { listener, file: SocketFile(path.to_owned()) })
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            tracing::warn!(socket = %self.0.display(), %error, "the Docker plugin socket could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugins/weft.sock");
        let first = PluginSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let message = PluginSocket::bind(&path).unwrap_err().to_string();
        assert!(message.contains("served by another process"), "{message}");

        // As after a kill -9: the file stays, nobody listens.
        std::mem::forget(first.file);
        drop(first.listener);
        let second = PluginSocket::bind(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(second);
        assert!(!path.exists(), "the socket is unlinked at the end");
    }

    #[tokio::test]
    async fn a_file_in_its_place_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weft.sock");
        fs::write(&path, "mine").unwrap();
        let message = PluginSocket::bind(&path).unwrap_err().to_string();
        assert!(message.contains("not a socket"), "{message}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
