//! `weft attach` and `weft detach`, `weft expose` and `weft unexpose`: any network namespace, a virtual machine or the host
//! itself on a network, without an engine.

use crate::{
    cli::{AttachFlags, DetachFlags, ExposeFlags, Format},
    exit::Failure,
    output,
};
use nix::unistd::User;
use std::{
    io,
    path::{Path, PathBuf},
    slice,
};
use weft_agent::api::{
    AttachRequest, AttachTapRequest, Client, DetachRequest, DetachTapRequest, EndpointView, ErrorKind,
    ExposeRequest, UnexposeRequest,
};

/// Where `ip netns add` puts the namespaces that have names.
const NAMED: &str = "/run/netns";

/// `weft attach`
pub async fn attach(flags: AttachFlags, client: &Client) -> Result<(), Failure> {
    let format = flags.format;
    let endpoint = match (&flags.netns, &flags.tap) {
        (_, Some(tap)) => attach_tap(&flags, tap.clone(), client).await?,
        (Some(netns), None) => attach_namespace(&flags, netns, client).await?,
        // The command line asks for one of them.
        (None, None) => return Err(Failure::new(ErrorKind::Invalid, "--netns or --tap is missing")),
    };
    print(&endpoint, format)
}

/// `weft expose`
pub async fn expose(flags: ExposeFlags, client: &Client) -> Result<(), Failure> {
    let request = ExposeRequest {
        network: flags.network,
        addresses: flags.ip,
        interface: flags.interface,
        name: flags.name,
        aliases: flags.alias,
    };
    print(&client.expose(&request).await?, flags.format)
}

/// `weft unexpose`
pub async fn unexpose(network: String, client: &Client) -> Result<(), Failure> {
    Ok(client.unexpose(&UnexposeRequest { network }).await?)
}

fn print(endpoint: &EndpointView, format: Format) -> Result<(), Failure> {
    output::print(&match format {
        Format::Table => output::endpoints(slice::from_ref(endpoint)),
        Format::Json => output::json(endpoint)?,
    })
}

async fn attach_tap(flags: &AttachFlags, tap: String, client: &Client) -> Result<EndpointView, Failure> {
    let request = AttachTapRequest {
        network: flags.network.clone(),
        tap,
        owner: flags.tap_user.as_deref().map(user).transpose()?,
        addresses: flags.ip.clone(),
        mac: flags.mac,
        name: flags.name.clone(),
        aliases: flags.alias.clone(),
    };
    Ok(client.attach_tap(&request).await?)
}

/// The number of a user, who is given by name or number.
fn user(given: &str) -> Result<u32, Failure> {
    if let Ok(number) = given.parse() {
        return Ok(number);
    }
    match User::from_name(given) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => {
            Err(Failure::new(ErrorKind::NotFound, format!("--tap-user {given}: this host has no such user")))
        }
        Err(e) => Err(Failure::new(ErrorKind::Internal, format!("--tap-user {given}: {e}"))),
    }
}

async fn attach_namespace(
    flags: &AttachFlags,
    netns: &Path,
    client: &Client,
) -> Result<EndpointView, Failure> {
    let netns = namespace(netns)?;
    if !netns.exists() {
        return Err(Failure::new(
            ErrorKind::NotFound,
            format!("there is no network namespace {}", netns.display()),
        )
        .hint("`ip netns list` shows those that have names"));
    }
    let request = AttachRequest {
        network: flags.network.clone(),
        netns: text(netns)?,
        addresses: flags.ip.clone(),
        mac: flags.mac,
        interface: flags.interface.clone(),
        name: flags.name.clone(),
        aliases: flags.alias.clone(),
        ..AttachRequest::default()
    };
    Ok(client.attach(&request).await?)
}

/// `weft detach`
pub async fn detach(flags: DetachFlags, client: &Client) -> Result<(), Failure> {
    let DetachFlags { network, netns, tap } = flags;
    if let Some(tap) = tap {
        return Ok(client.detach_tap(&DetachTapRequest { network, tap }).await?);
    }
    // Not checked for existence: what is left of a namespace that is gone must be removable.
    let netns = text(namespace(&netns.unwrap_or_default())?)?;
    Ok(client.detach(&DetachRequest { network, netns, ..DetachRequest::default() }).await?)
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

    #[test]
    fn a_user_is_given_by_name_or_number() {
        assert_eq!((user("107").unwrap(), user("root").unwrap()), (107, 0));
        let failure = user("nobody-of-that-name").unwrap_err();
        assert_eq!(failure.kind, ErrorKind::NotFound);
        assert!(failure.message.contains("no such user"), "{failure}");
    }

    #[tokio::test]
    async fn a_namespace_that_is_not_there_is_not_asked_for() {
        let flags = AttachFlags {
            network: "net".to_owned(),
            netns: Some("/nonexistent/blue".into()),
            tap: None,
            tap_user: None,
            ip: vec![],
            mac: None,
            interface: None,
            name: None,
            alias: vec![],
            format: Format::Table,
        };
        let failure = attach(flags, &Client::new("/nonexistent/weft.sock".into())).await.unwrap_err();
        assert_eq!(failure.message, "there is no network namespace /nonexistent/blue");
        assert_eq!(failure.kind, ErrorKind::NotFound);
    }
}
