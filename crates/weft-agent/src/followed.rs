//! The networks whose members this host follows: those that it takes part in.
//!
//! A host that makes an endpoint or claims an address on a network follows the network first, and notes that on disk first
//! of all: a daemon that starts again has to follow every network on which it may have left something, or it would take
//! down what it has. A network that it has nothing on, and that nobody has asked for in [`KEPT`], is given up.

use crate::AgentError;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use weft_model::NetworkId;
use weft_store::replace_file;

/// How long a network without anything of this host's is followed: a container that was stopped may be started again.
pub(crate) const KEPT: Duration = Duration::from_hours(1);

/// The networks, and where they are noted.
#[derive(Default)]
pub(crate) struct Followed {
    /// `None`: nowhere.
    path: Option<PathBuf>,
    /// When each was last asked for. Locked with the snapshot locked, never the other way round.
    networks: Mutex<BTreeMap<NetworkId, Instant>>,
    changed: watch::Sender<()>,
}

impl Followed {
    /// What was noted at `path`; `None` if nothing ever was.
    pub(crate) fn load(path: &Path) -> Result<Option<BTreeSet<NetworkId>>, AgentError> {
        let error = |e: &dyn std::fmt::Display| AgentError::file(path, e);
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| error(&e)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(error(&e)),
        }
    }

    /// These, noted at `path` from now on.
    pub(crate) fn new(path: &Path, networks: BTreeSet<NetworkId>) -> Result<Self, AgentError> {
        let followed = Self::noted(path, networks);
        followed.note(&followed.lock())?;
        Ok(followed)
    }

    /// These, which are noted at `path` already: the disk may be full.
    pub(crate) fn noted(path: &Path, networks: BTreeSet<NetworkId>) -> Self {
        let now = Instant::now();
        let networks = networks.into_iter().map(|network| (network, now)).collect();
        Self { path: Some(path.to_owned()), networks: Mutex::new(networks), ..Self::default() }
    }

    /// Adds a network; it is on disk when this returns.
    pub(crate) fn add(&self, network: &NetworkId) -> Result<(), AgentError> {
        let mut networks = self.lock();
        if let Some(asked) = networks.get_mut(network) {
            *asked = Instant::now();
            return Ok(());
        }
        let mut new = networks.clone();
        new.insert(network.clone(), Instant::now());
        self.note(&new)?;
        *networks = new;
        drop(networks);
        self.changed.send_replace(());
        Ok(())
    }

    /// Gives up the networks that are not `needed` and that nobody has asked for in `kept` ([`KEPT`]), and at once those of
    /// them that do not `exist`.
    pub(crate) fn give_up(
        &self,
        needed: &BTreeSet<NetworkId>,
        exist: &BTreeSet<NetworkId>,
        kept: Duration,
    ) -> Result<(), AgentError> {
        let mut networks = self.lock();
        let mut new = networks.clone();
        new.retain(|id, asked| needed.contains(id) || (exist.contains(id) && asked.elapsed() < kept));
        if new.len() == networks.len() {
            return Ok(());
        }
        self.note(&new)?;
        *networks = new;
        drop(networks);
        self.changed.send_replace(());
        Ok(())
    }

    pub(crate) fn contains(&self, network: &NetworkId) -> bool {
        self.lock().contains_key(network)
    }

    /// All of them.
    pub(crate) fn all(&self) -> BTreeSet<NetworkId> {
        self.lock().keys().cloned().collect()
    }

    /// Changes with them.
    pub(crate) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn note(&self, networks: &BTreeMap<NetworkId, Instant>) -> Result<(), AgentError> {
        let Some(path) = &self.path else { return Ok(()) };
        let bytes = weft_model::encode(&networks.keys().collect::<Vec<_>>());
        replace_file(path, 0o644, &bytes).map_err(|e| AgentError::file(path, e))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NetworkId, Instant>> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_followed_is_on_disk_until_nobody_needs_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("networks.json");
        assert_eq!(Followed::load(&path).unwrap(), None);
        let followed = Followed::new(&path, BTreeSet::new()).unwrap();
        let (used, unused, gone) = (NetworkId::random(), NetworkId::random(), NetworkId::random());
        for network in [&used, &unused, &gone] {
            followed.add(network).unwrap();
        }
        assert_eq!(Followed::load(&path).unwrap().unwrap(), followed.all());
        let (needed, exist) = ([used.clone()].into(), [used.clone(), unused.clone()].into());
        let look = |kept| followed.give_up(&needed, &exist, kept).unwrap();
        look(KEPT);
        assert!(followed.contains(&unused) && !followed.contains(&gone));
        look(Duration::ZERO);
        assert_eq!(followed.all(), BTreeSet::from([used]));
        assert_eq!(Followed::load(&path).unwrap().unwrap(), followed.all());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("networks.json");
        std::fs::write(&path, "{").unwrap();
        assert!(Followed::load(&path).err().unwrap().to_string().contains("networks.json"));
    }
}
