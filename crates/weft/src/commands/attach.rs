//! `weft attach` and `weft detach`: any network namespace on a network, without an engine.

use crate::{
    cli::{AttachFlags, DetachFlags, Format},
    exit::Failure,
    output,
};
use std::{
    io,
    path::{Path, PathBuf},
    slice,
};
use weft_agent::api::{AttachRequest, Client, DetachRequest, ErrorKind};

/// Where `ip netns add` puts the namespaces that have names.
const NAMED: &str = "/run/netns";

/// `weft attach`
pub async fn attach(flags: AttachFlags, client: &Client) -> Result<(), Failure> {
    let netns = namespace(&flags.netns)?;
    if !netns.exists() {
        return Err(Failure::new(
            ErrorKind::NotFound,
            format!("there is no network namespace {}", netns.display()),
        )
        .hint("`ip netns list` shows those that have names"));
    }
    let request = AttachRequest {
        network: flags.network,
        netns: text(netns)?,
        addresses: flags.ip,
        mac: flags.mac,
        interface: flags.interface,
        name: flags.name,
    };
    let endpoint = client.attach(&request).await?;
    output::print(&match flags.format {
        Format::Table => output::endpoints(slice::from_ref(&endpoint)),
        Format::Json => output::json(&endpoint)?,
    })
}

/// `weft detach`
pub async fn detach(flags: DetachFlags, client: &Client) -> Result<(), Failure> {
    // Not checked for existence: what is left of a namespace that is gone must be removable.
    let request = DetachRequest { network: flags.network, netns: text(namespace(&flags.netns)?)? };
    Ok(client.detach(&request).await?)
}

/// The namespace's path, the same however it is written: a bare name is one of `ip netns`; links on the way to it
/// (/var/run) are followed. The last part is not: /proc/PID/ns/net is a link to something that has no path.
fn namespace(given: &Path) -> Result<PathBuf, Failure> {
    let bare = given.components().count() == 1 && given.is_relative() && !given.starts_with(".");
    let path = if bare { Path::new(NAMED).join(given) } else { given.to_owned() };
    let unusable =
        |e: io::Error| Failure::new(ErrorKind::Invalid, format!("--netns {}: {e}", given.display()));
    let path = std::path::absolute(path).map_err(unusable)?;
    Ok(match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(folder)), Some(name)) => folder.join(name),
        _ => path,
    })
}

fn text(path: PathBuf) -> Result<String, Failure> {
    path.into_os_string()
        .into_string()
        .map_err(|path| Failure::new(ErrorKind::Invalid, format!("the path {} is not UTF-8", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn a_bare_name_is_one_of_ip_netns() {
        assert_eq!(namespace(Path::new("blue")).unwrap().file_name().unwrap(), "blue");
        assert!(namespace(Path::new("blue")).unwrap().starts_with("/run/netns"));
    }

    #[test]
    fn a_path_is_made_absolute() {
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(namespace(Path::new("./blue")).unwrap(), here.join("blue"));
        assert_eq!(namespace(Path::new("src/blue")).unwrap(), here.join("src/blue"));
        assert_eq!(namespace(Path::new("/nonexistent/blue")).unwrap(), Path::new("/nonexistent/blue"));
    }

    #[test]
    fn links_on_the_way_do_not_make_it_another_namespace() {
        let folder = TempDir::new().unwrap();
        let real = folder.path().canonicalize().unwrap().join("real");
        std::fs::create_dir(&real).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(namespace(&link.join("blue")).unwrap(), real.join("blue"));
        let own = format!("/proc/{}/ns/net", std::process::id());
        assert_eq!(namespace(Path::new(&own)).unwrap(), Path::new(&own));
    }

    #[tokio::test]
    async fn a_namespace_that_is_not_there_is_not_asked_for() {
        let flags = AttachFlags {
            network: "net".to_owned(),
            netns: "/nonexistent/blue".into(),
            ip: vec![],
            mac: None,
            interface: None,
            name: None,
            format: Format::Table,
        };
        let failure = attach(flags, &Client::new("/nonexistent/weft.sock".into())).await.unwrap_err();
        assert_eq!(failure.message, "there is no network namespace /nonexistent/blue");
        assert_eq!(failure.kind, ErrorKind::NotFound);
    }
}
