//! `weft store`: check, back up and restore the cluster's records, and move the cluster to another store.
//!
//! A store is named as for the daemon, and the daemon's own settings hold where nothing is given. The embedded store of this
//! host is read from its file when no daemon runs, and through the daemon, which serves it, when one does.

use super::variable;
use crate::{
    cli::Format,
    config::{DaemonFlags, HostConfig, HostFlags, Layers},
    exit::Failure,
    output,
};
use clap::{Args, Subcommand};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use weft_agent::{
    AgentError,
    api::{Client, ErrorKind},
};
use weft_model::schema;
use weft_store::{
    Backup, BackupError, Embedded, FillError, Finding, JoinToken, OpenOptions, Store, StoreError,
    StoreOptions, StoreUrl,
};

/// A call may take this long: a whole store is listed in one.
const PATIENCE: Duration = Duration::from_mins(1);

/// `weft store …`
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Look whether all records can be read and fit together; of a file, also whether it is whole
    Check {
        /// A store's URL, or the path of an embedded store's file that no daemon uses [default: the daemon's store]
        #[arg(value_name = "URL|PATH")]
        store: Option<String>,
        /// How to print the findings
        #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
        format: Format,
        /// How to reach it.
        #[command(flatten)]
        access: Access,
    },
    /// Write all records, as of one revision, to a file (mode 0600); the store stays in use
    Backup {
        /// The file
        file: PathBuf,
        /// The store [default: the daemon's]
        #[arg(long, value_name = "URL")]
        store: Option<StoreUrl>,
        /// How to reach it.
        #[command(flatten)]
        access: Access,
    },
    /// Make a store hold what is in a backup and nothing else
    Restore {
        /// The file
        file: PathBuf,
        /// The store [default: the daemon's]
        #[arg(long, value_name = "URL")]
        to: Option<StoreUrl>,
        /// Remove the records that are there
        #[arg(long)]
        force: bool,
        /// How to reach it.
        #[command(flatten)]
        access: Access,
    },
    /// Move the cluster to another store: running daemons follow by themselves, traffic goes on
    Copy(Box<CopyFlags>),
}

/// How to reach a store.
#[derive(Args, Debug, Default)]
pub struct Access {
    /// An option of the store, as the daemon's --cluster-store-opt
    #[arg(long = "opt", value_name = "KEY=VALUE")]
    options: Vec<StoreOptions>,
    /// A file with the join token, for weft://
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<PathBuf>,
    /// Where this host's daemon keeps its things.
    #[command(flatten)]
    host: HostFlags,
}

/// `weft store copy`
#[derive(Args, Debug)]
pub struct CopyFlags {
    /// The store that the cluster uses
    #[arg(value_name = "FROM")]
    from: StoreUrl,
    /// The store that it is to use, still without records; each daemon must reach it by this URL
    #[arg(value_name = "TO")]
    to: StoreUrl,
    /// An option of FROM, as the daemon's --cluster-store-opt
    #[arg(long = "from-opt", value_name = "KEY=VALUE")]
    from_options: Vec<StoreOptions>,
    /// An option of TO; each daemon uses it too, so its files must be on each host
    #[arg(long = "to-opt", value_name = "KEY=VALUE")]
    to_options: Vec<StoreOptions>,
    /// A file with the join token of FROM, for weft://
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<PathBuf>,
    /// A file with the join token of TO, for weft://
    #[arg(long, value_name = "FILE")]
    to_join_token_file: Option<PathBuf>,
    /// Give up a move that was broken off: the cluster goes on with FROM
    #[arg(long)]
    give_up: bool,
    /// Where this host's daemon keeps its things.
    #[command(flatten)]
    host: HostFlags,
}

/// `weft store …`; `socket` is the daemon's, if one was named.
pub async fn run(command: StoreCommand, socket: Option<PathBuf>) -> Result<(), Failure> {
    match command {
        StoreCommand::Check { store, format, access } => {
            let path = store.as_ref().filter(|text| text.parse::<StoreUrl>().is_err()).map(PathBuf::from);
            let url = match &path {
                // What looks like a URL is one that makes no sense, rather than a file.
                Some(path) if path.to_string_lossy().contains("://") => return Err(not_a_store(path)),
                Some(_) => None,
                None => store.as_ref().and_then(|text| text.parse().ok()),
            };
            let (store, whole) = match &path {
                Some(path) => file(path).await?,
                None => (open(url, access, socket).await?, None),
            };
            check(&*store, whole, format).await
        }
        StoreCommand::Backup { file, store, access } => {
            let backup = Backup::take(&*open(store, access, socket).await?).await?;
            backup.write(&file)?;
            let head = &backup.head;
            output::print(&format!(
                "{}: {} records of {} at revision {}\n",
                file.display(),
                head.records,
                head.store,
                head.revision
            ))
        }
        StoreCommand::Restore { file, to, force, access } => {
            let backup = Backup::read(&file)?;
            let store = open(to, access, socket).await?;
            let filled = weft_store::restore(&*store, &backup.records, force).await?;
            output::print(&format!(
                "{}: {} records as of revision {} of {}; {} records that were there are removed\n\
                 leases are not restored: each node says by itself that it lives, once its daemon runs with this store\n",
                store.address(),
                filled.records,
                backup.head.revision,
                backup.head.store,
                filled.removed
            ))
        }
        StoreCommand::Copy(flags) => copy(*flags, socket).await,
    }
}

/// Moves the cluster, or gives that up.
async fn copy(flags: CopyFlags, socket: Option<PathBuf>) -> Result<(), Failure> {
    if flags.to == StoreUrl::Local {
        return Err(Failure::new(
            ErrorKind::Invalid,
            "\"local\" is another store on each host: name the store by the URL that all daemons use",
        )
        .hint("weft://HOST:PORT is the embedded store of the daemon on that host"));
    }
    let options = flags.to_options.iter().cloned().try_fold(StoreOptions::default(), StoreOptions::and);
    let options = options.map_err(|e| Failure::new(ErrorKind::Invalid, format!("--to-opt: {e}")))?;
    // With the prefix that holds: daemons take the URL as it stands.
    let to_url = options.check(&flags.to).map_err(|e| Failure::new(ErrorKind::Invalid, e.to_string()))?;
    let from = Access {
        options: flags.from_options,
        join_token_file: flags.join_token_file,
        host: flags.host.clone(),
    };
    let to =
        Access { options: flags.to_options, join_token_file: flags.to_join_token_file, host: flags.host };
    let from = open(Some(flags.from), from, socket.clone()).await?;
    let to = open(Some(flags.to), to, socket).await?;
    if flags.give_up {
        let was_closed = weft_store::reopen(&*from, &*to).await?;
        let word = if was_closed { "is open again" } else { "was not closed" };
        return output::print(&format!("{} {word}\n", from.address()));
    }
    let (url, options) = (to_url.to_string(), options.to_string());
    let filled = weft_store::copy(&*from, &*to, &url, &options).await.map_err(|error| {
        let failure = Failure::from(error);
        let hint = "run it again to finish the move, or with --give-up to stay with the old store";
        if failure.hint.is_none() { failure.hint(hint) } else { failure }
    })?;
    output::print(&format!(
        "{} records moved from {} to {}\n\
         daemons that run follow by themselves; set cluster-store = \"{url}\" on every host before the old store goes\n",
        filled.records,
        from.address(),
        to.address()
    ))
}

/// Opens a store: the one named, or the daemon's.
async fn open(
    url: Option<StoreUrl>,
    access: Access,
    socket: Option<PathBuf>,
) -> Result<Arc<dyn Store>, Failure> {
    let layers = Layers::read(access.host.config.as_deref(), &variable)?;
    let host = HostConfig::resolve(&access.host, &layers)?;
    let flags = DaemonFlags {
        cluster_store: url,
        cluster_store_opt: access.options,
        join_token_file: access.join_token_file,
        host: access.host,
        ..DaemonFlags::default()
    };
    let (mut url, options) = layers.store(&flags)?;
    let mut join_token = layers.join_token(&flags)?;
    if url == StoreUrl::Local
        && let Some(server) = serving(socket.unwrap_or_else(|| host.socket())).await
    {
        let path = host.state_dir.join(JoinToken::FILE);
        join_token = JoinToken::load(&path).map_err(|e| Failure::new(ErrorKind::Denied, e.to_string()))?;
        url = StoreUrl::Remote { server };
    }
    let opening = OpenOptions { state_dir: host.state_dir, join_token, options, timeout: PATIENCE };
    Ok(weft_store::open(&url, &opening).await.map_err(AgentError::from)?.store)
}

/// Where this host's daemon serves its embedded store; `None`: no daemon answers.
async fn serving(socket: PathBuf) -> Option<String> {
    let status = Client::new(socket).status().await.ok()?;
    status.node.advertise.map(|address| address.to_string())
}

/// Opens an embedded store's file, and looks whether it is whole.
async fn file(path: &Path) -> Result<(Arc<dyn Store>, Option<bool>), Failure> {
    if !path.is_file() {
        return Err(not_a_store(path));
    }
    let store = Embedded::open(path).await.map_err(AgentError::from)?;
    let whole = store.check_file().await.map_err(AgentError::from)?;
    Ok((Arc::new(store), Some(whole)))
}

fn not_a_store(path: &Path) -> Failure {
    Failure::new(ErrorKind::NotFound, format!("{} is neither a store's URL nor a file", path.display()))
        .hint("an embedded store's file is store.redb in its daemon's state directory")
}

/// Tells what is wrong with a store.
async fn check(store: &dyn Store, whole: Option<bool>, format: Format) -> Result<(), Failure> {
    let listing = store.list(schema::ROOT).await.map_err(AgentError::from)?;
    let findings = weft_store::check(&listing);
    output::print(&match format {
        Format::Table => {
            let file = match whole {
                Some(true) => "the file is whole\n",
                Some(false) => "the file was damaged, and has been mended from what is left of it\n",
                None => "",
            };
            let records = listing.records.len();
            let found: String = findings.iter().map(line).collect();
            format!(
                "{}: {records} records at revision {}, {} that do not fit\n{file}{found}",
                store.address(),
                listing.revision,
                findings.len()
            )
        }
        Format::Json => output::json(&findings)?,
    })?;
    match (findings.len(), whole) {
        (0, None | Some(true)) => Ok(()),
        (0, Some(false)) => Err(Failure::new(ErrorKind::Invalid, "the file was damaged")
            .hint("its disk may be failing: take a backup now")),
        (found, _) => {
            Err(Failure::new(ErrorKind::Invalid, format!("{found} records do not fit with the others")))
        }
    }
}

fn line(finding: &Finding) -> String {
    format!("{}: {}\n    {}\n", finding.key, finding.wrong, finding.advice)
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        AgentError::from(error).into()
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let kind = match &error {
            BackupError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                ErrorKind::NotFound
            }
            BackupError::File { .. } => ErrorKind::Internal,
            BackupError::Damaged { .. } => ErrorKind::Invalid,
            BackupError::Store(error) => return error.clone().into(),
        };
        Self::new(kind, error.to_string())
    }
}

impl From<FillError> for Failure {
    fn from(error: FillError) -> Self {
        let text = error.to_string();
        match error {
            FillError::NotEmpty { .. } => Self::new(ErrorKind::Conflict, text)
                .hint("name a store, or a prefix of one, that nobody uses; `weft store restore --force` removes what is there"),
            FillError::MovedElsewhere { .. } => {
                Self::new(ErrorKind::Conflict, text).hint("use that store from now on")
            }
            FillError::Contended(_) => Self::new(ErrorKind::Conflict, text),
            FillError::Different { .. } => Self::new(ErrorKind::Internal, text),
            FillError::Store(error) => error.into(),
        }
    }
}
