//! One simulated host.

use crate::{Arrivals, Calls, Counted, FakeKernel, Shape};
use anyhow::{Context, Result};
use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};
use weft_agent::{AgentOptions, Carrier, Datapath, Running, Unchanging, World, start_in};
use weft_kernel::Kernel;
use weft_store::{JoinToken, OpenOptions, Store, StoreOptions, StoreUrl, open};

/// How a call to the store may take, on a machine that plays a thousand hosts.
const PATIENCE: Duration = Duration::from_mins(2);

/// How hosts reach the store.
#[derive(Clone, Debug)]
pub struct Door {
    /// Where it is.
    pub url: StoreUrl,
    /// For the embedded store of a daemon.
    pub token: Option<JoinToken>,
    /// Below it each host has its state directory.
    pub dir: PathBuf,
}

impl Door {
    /// Opens the store, on a connection of its own.
    pub async fn open(&self) -> Result<Arc<dyn Store>> {
        let options = OpenOptions {
            state_dir: self.dir.clone(),
            join_token: self.token.clone(),
            options: StoreOptions::default(),
            timeout: PATIENCE,
        };
        Ok(open(&self.url, &options).await?.store)
    }
}

/// A host: an agent over a fake kernel.
pub struct Host {
    number: usize,
    kernel: Arc<FakeKernel>,
    running: Running,
}

impl Host {
    /// Starts host `number`; returns when its kernel holds what the store says at that time.
    pub async fn start(
        shape: &Shape,
        number: usize,
        door: &Door,
        arrivals: &Arc<Arrivals>,
        calls: &Arc<Calls>,
    ) -> Result<Self> {
        let node = Shape::node(number)?;
        let state_dir = door.dir.join(&node.name);
        // As if it had made its endpoints itself: it has noted their networks.
        let networks = shape.networks_of(number).map(Shape::network_id).collect::<Result<BTreeSet<_>>>()?;
        std::fs::create_dir_all(&state_dir)?;
        std::fs::write(state_dir.join("networks.json"), serde_json::to_vec(&networks)?)?;
        let options = AgentOptions {
            cluster_store: door.url.clone(),
            store_options: StoreOptions::default(),
            advertise: None,
            join_token: None,
            node_name: node.name.clone(),
            run_dir: state_dir.clone(),
            state_dir,
            overlay_netns: node.name.clone(),
            datapath: Datapath::Auto,
            vxlan_port: node.vxlan_port,
            gateway_subnet: None,
            vni_range: "4096-16777215".parse().context("a range of VNIs")?,
            dns_domain: None,
            // A look at its own kernel is no affair of the cluster's, and each real host has a core for it.
            reconcile_interval: Duration::from_mins(1),
            lease_ttl: Duration::from_mins(1),
            store_timeout: PATIENCE,
        };
        let kernel = Arc::new(FakeKernel::new(Arc::clone(arrivals)));
        let store = Arc::new(Counted::new(door.open().await?, Arc::clone(calls)));
        let carrier = Carrier { kernel: Arc::clone(&kernel) as Arc<dyn Kernel>, datapath: "none".to_owned() };
        let world = World {
            store,
            kernel: |_: &_| Ok(carrier),
            machine: Arc::new(Unchanging(node)),
            goes_on_taking: true,
        };
        let running = start_in(options, world).await?;
        Ok(Self { number, kernel, running })
    }

    /// Its number.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Its kernel.
    pub fn kernel(&self) -> &FakeKernel {
        &self.kernel
    }

    /// Its agent.
    pub fn agent(&self) -> &weft_agent::Agent {
        self.running.agent()
    }

    /// Ends it.
    pub async fn stop(self) -> Result<()> {
        Ok(self.running.stop().await?)
    }
}
