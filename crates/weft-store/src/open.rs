//! From a store's URL to the store.

use crate::{Consul, Embedded, Etcd, JoinToken, Remote, Store, StoreError, StoreOptions, StoreUrl, remote};
use std::{path::PathBuf, sync::Arc, time::Duration};
use weft_model::schema;

/// The embedded store's file in the state directory.
pub const EMBEDDED_FILE: &str = "store.redb";

/// What opening a store needs to know besides its URL.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Where the embedded store's file lives. Made if absent.
    pub state_dir: PathBuf,
    /// For another daemon's store.
    pub join_token: Option<JoinToken>,
    /// What else the store must be told, TLS and a user among it.
    pub options: StoreOptions,
    /// The most that a call to a store may take; 5 s is a good value.
    pub timeout: Duration,
}

/// An open store.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The same store if it is this daemon's own: it can be served to others.
    pub embedded: Option<Arc<Embedded>>,
}

/// Opens the store. A store on the network that is down does not make this fail, so that a daemon can start
/// without it; [`probe`] asks.
pub async fn open(url: &StoreUrl, options: &OpenOptions) -> Result<Opened, StoreError> {
    // First of all, so that options which make no sense change nothing.
    let url = &options.options.check(url).map_err(|e| StoreError::Invalid(e.to_string()))?;
    match url {
        StoreUrl::Etcd { endpoints, prefix } => {
            let store = Etcd::connect_with(endpoints, prefix, options.timeout, &options.options).await?;
            Ok(Opened { store: Arc::new(store), embedded: None })
        }
        StoreUrl::Consul { endpoints, prefix } => {
            let store = Consul::connect_with(endpoints, prefix, options.timeout, &options.options)?;
            Ok(Opened { store: Arc::new(store), embedded: None })
        }
        StoreUrl::Remote { server } => {
            let token = options.join_token.as_ref().ok_or_else(|| StoreError::Denied {
                store: url.to_string(),
                reason: format!("no join token was given; {}", remote::where_the_token_is()),
            })?;
            let tls = options.options.tls().map_err(|e| StoreError::Invalid(e.to_string()))?;
            let store = Remote::connect(server, token, tls.as_ref(), options.timeout)?;
            Ok(Opened { store: Arc::new(store), embedded: None })
        }
        StoreUrl::Local => {
            let path = options.state_dir.join(EMBEDDED_FILE);
            std::fs::create_dir_all(&options.state_dir).map_err(|e| StoreError::Storage {
                path: path.display().to_string(),
                reason: format!("cannot make its directory: {e}"),
            })?;
            let embedded = Arc::new(Embedded::open(path).await?);
            Ok(Opened { store: embedded.clone(), embedded: Some(embedded) })
        }
    }
}

/// Whether the store answers and lets us in.
pub async fn probe(store: &dyn Store) -> Result<(), StoreError> {
    store.get(schema::META).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pin;

    fn options(state_dir: &std::path::Path) -> OpenOptions {
        OpenOptions {
            state_dir: state_dir.to_owned(),
            join_token: None,
            options: StoreOptions::default(),
            timeout: Duration::from_secs(2),
        }
    }

    #[tokio::test]
    async fn a_local_store_is_made_in_the_state_directory() {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = folder.path().join("a/b");
        let opened = open(&StoreUrl::Local, &options(&state_dir)).await.unwrap();
        probe(&*opened.store).await.unwrap();
        assert_eq!(opened.embedded.unwrap().path(), state_dir.join("store.redb"));
    }

    #[tokio::test]
    async fn options_that_make_no_sense_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = folder.path().join("a");
        let options = OpenOptions { options: "kv.user=weft".parse().unwrap(), ..options(&state_dir) };
        let error = open(&StoreUrl::Local, &options).await.err().unwrap();
        assert!(error.to_string().contains("kv.user means nothing to the store local"), "{error}");
        assert!(!state_dir.exists());
    }

    #[tokio::test]
    async fn another_daemons_store_needs_a_join_token() {
        let folder = tempfile::tempdir().unwrap();
        let error =
            open(&"weft://127.0.0.1:1".parse().unwrap(), &options(folder.path())).await.err().unwrap();
        assert!(error.to_string().contains("/var/lib/weft/join-token"), "{error}");
    }

    #[tokio::test]
    async fn stores_that_are_down_open_and_the_probe_names_them() {
        let folder = tempfile::tempdir().unwrap();
        // A port that was free a moment ago and that nobody listens on.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let join_token = Some(JoinToken::random(Pin([0; 32])).unwrap());
        let options = OpenOptions { join_token, ..options(folder.path()) };
        for scheme in ["etcd", "consul", "weft"] {
            let url = format!("{scheme}://127.0.0.1:{port}");
            let opened = open(&url.parse().unwrap(), &options).await.unwrap();
            let error = probe(&*opened.store).await.unwrap_err();
            assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
            assert!(error.to_string().contains(&url) && error.to_string().contains("refused"), "{error}");
        }
    }
}
