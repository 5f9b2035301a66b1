//! The kernel with a fast path: everything that [`Linux`] does, and the programs and maps along with it.

use super::{Counters, plane::Plane, uplink::Uplink};
use crate::{
    Kernel, KernelError, Linux, LinuxOptions, Namespace, Snooped,
    events::{self, Events},
};
use async_trait::async_trait;
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};
use weft_model::{DirectLink, Vni};
use weft_plan::{Features, HostState, Op};

/// The kernel of the host whose namespace the daemon runs in, with the fast path.
pub struct FastPath {
    linux: Linux,
    plane: Arc<Mutex<Plane>>,
    /// The host's addresses: the uplink is where the VTEP's is.
    addresses: Events,
}

impl FastPath {
    /// As [`Linux::new`]; and loads the programs, in the place of those that an earlier daemon has left.
    pub fn new(options: &LinuxOptions) -> Result<Self, KernelError> {
        let linux = Linux::new(options)?;
        let plane = Plane::open(&options.overlay_netns)?;
        let addresses =
            Events::subscribe(&Namespace::current()?, &[events::IPV4_ADDRESS, events::IPV6_ADDRESS])?;
        Ok(Self { linux, plane: Arc::new(Mutex::new(plane)), addresses })
    }

    async fn on_plane<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&mut Plane) -> T + Send + 'static,
    ) -> Result<T, KernelError> {
        let plane = Arc::clone(&self.plane);
        let work = move || work(&mut plane.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| KernelError::FastPath { doing: doing.to_owned(), reason: e.to_string() })
    }
}

#[async_trait]
impl Kernel for FastPath {
    async fn observe(&self) -> Result<HostState, KernelError> {
        let mut state = self.linux.observe().await?;
        self.on_plane("observe", |plane| plane.observe(&mut state).map(|()| state)).await?
    }

    async fn apply(&self, ops: &[Op]) -> Vec<Result<(), KernelError>> {
        let owned: Arc<[Op]> = ops.into();
        let removals = Arc::clone(&owned);
        let prepared = self.on_plane("apply", move |plane| plane.before(&removals)).await;
        if let Err(error) = prepared.and_then(|outcome| outcome) {
            return ops.iter().map(|_| Err(error.clone())).collect();
        }
        let mut outcomes = self.linux.apply(ops).await;
        let follow = move |plane: &mut Plane| {
            plane.after(&owned, &mut outcomes);
            outcomes
        };
        match self.on_plane("apply", follow).await {
            Ok(outcomes) => outcomes,
            Err(error) => ops.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn changed(&self) -> Result<(), KernelError> {
        tokio::select! {
            changed = self.linux.changed() => changed,
            moved = self.addresses.wait() => moved,
        }
    }

    async fn direct_link(&self, vtep: IpAddr) -> Result<Option<DirectLink>, KernelError> {
        self.on_plane("look for the link", move |plane| Uplink::direct_link(&mut plane.host, vtep)).await?
    }

    fn features(&self) -> Features {
        self.linux.features()
    }

    async fn above_the_rate(&self) -> Result<u64, KernelError> {
        self.linux.above_the_rate().await
    }

    async fn memberships(&self) -> Result<BTreeMap<Vni, Snooped>, KernelError> {
        self.linux.memberships().await
    }

    async fn memberships_changed(&self) -> Result<(), KernelError> {
        self.linux.memberships_changed().await
    }

    async fn counters(&self) -> Result<Option<Counters>, KernelError> {
        self.on_plane("count", |plane| plane.count()).await?.map(Some)
    }
}
