//! The real kernel of this host.
//!
//! It keeps two netlink sockets, one in the host's namespace and one in the overlay namespace, and does its work on
//! blocking threads, one piece at a time: observations and changes never overlap.

use crate::{
    Kernel, KernelError, Namespace, Snooped, events,
    events::Events,
    filter,
    mdb::{self, Mdb},
    netlink::Netlink,
};
use async_trait::async_trait;
use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use weft_model::Vni;
use weft_plan::{Features, HostState, Op};

/// How a host's kernel is used.
#[derive(Clone, Debug)]
pub struct LinuxOptions {
    /// The overlay namespace's name, below `/run/netns`.
    pub overlay_netns: String,
}

impl Default for LinuxOptions {
    fn default() -> Self {
        Self { overlay_netns: "weft".to_owned() }
    }
}

/// The kernel of the host whose namespace the daemon runs in.
pub struct Linux {
    host: Arc<Mutex<Host>>,
    events: Events,
    memberships: Events,
    features: Features,
}

impl Linux {
    /// Takes the calling thread's namespace as the host's, and makes the overlay namespace or adopts the one that is
    /// there with all that is in it. Nothing that is as it should be is changed.
    pub fn new(options: &LinuxOptions) -> Result<Self, KernelError> {
        let host = Host::new(&options.overlay_netns)?;
        let events = Events::subscribe(&host.overlay_namespace, &[events::LINK, events::NEIGHBOUR])?;
        let memberships = Events::subscribe(&host.overlay_namespace, &[events::MULTICAST])?;
        let features = host.features;
        Ok(Self { host: Arc::new(Mutex::new(host)), events, memberships, features })
    }

    async fn on_host<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&mut Host) -> T + Send + 'static,
    ) -> Result<T, KernelError> {
        let host = Arc::clone(&self.host);
        let work = move || work(&mut host.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(work).await.map_err(|e| KernelError::netlink(doing, &e.to_string(), 0))
    }
}

#[async_trait]
impl Kernel for Linux {
    async fn observe(&self) -> Result<HostState, KernelError> {
        self.on_host("observe", Host::observe).await?
    }

    async fn apply(&self, ops: &[Op]) -> Vec<Result<(), KernelError>> {
        let owned = ops.to_vec();
        match self.on_host("apply", move |host| host.apply(&owned)).await {
            Ok(outcomes) => outcomes,
            Err(error) => ops.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn changed(&self) -> Result<(), KernelError> {
        self.events.wait().await
    }

    fn features(&self) -> Features {
        self.features
    }

    async fn above_the_rate(&self) -> Result<u64, KernelError> {
        self.on_host("count the frames above the rate", |host| {
            if host.features.filter { filter::dropped(host) } else { Ok(0) }
        })
        .await?
    }

    async fn memberships(&self) -> Result<BTreeMap<Vni, Snooped>, KernelError> {
        self.on_host("look at the multicast memberships", Host::memberships).await?
    }

    async fn memberships_changed(&self) -> Result<(), KernelError> {
        self.memberships.wait().await
    }
}

/// The two namespaces and a socket in each.
pub(crate) struct Host {
    pub underlay_namespace: Namespace,
    pub underlay: Netlink,
    pub overlay_name: String,
    pub overlay_namespace: Namespace,
    pub overlay: Netlink,
    pub mdb: Mdb,
    pub features: Features,
    /// When bridges began to snoop that this daemon made or changed.
    pub began_to_snoop: HashMap<Vni, Instant>,
    /// The tap devices of ports, by the ports' names, as last seen or made.
    pub taps: HashMap<String, String>,
}

impl Host {
    fn new(overlay_name: &str) -> Result<Self, KernelError> {
        let underlay_namespace = Namespace::current()?;
        let overlay_namespace = Namespace::create_named(overlay_name)?;
        if overlay_namespace.is_same(&underlay_namespace)? {
            let path = overlay_namespace.path().display().to_string();
            let reason = "this is the host's own namespace; the overlay needs one of its own".to_owned();
            return Err(KernelError::Namespace { path, reason });
        }
        overlay_namespace.run(switch_off_what_weft_does_not_use)??;
        let mut host = Self {
            underlay: Netlink::open(&underlay_namespace)?,
            overlay: Netlink::open(&overlay_namespace)?,
            mdb: Mdb::open(&overlay_namespace)?,
            features: Features { groups: mdb::is_there_for_vxlan()?, filter: filter::is_possible()? },
            began_to_snoop: HashMap::new(),
            underlay_namespace,
            overlay_name: overlay_name.to_owned(),
            overlay_namespace,
            taps: HashMap::new(),
        };
        host.overlay.bring_up_loopback()?;
        Ok(host)
    }

    /// Gives the overlay namespace its name again when somebody took it away (`ip netns del`). The namespace and all
    /// that is in it live on as long as this process holds it, so no container notices.
    pub(crate) fn keep_overlay_namespace(&mut self) -> Result<(), KernelError> {
        if !self.overlay_namespace.is_named(&self.overlay_name)? {
            tracing::warn!(
                name = self.overlay_name,
                "the overlay namespace had lost its name: it has it again"
            );
            self.overlay_namespace.name_again(&self.overlay_name)?;
        }
        Ok(())
    }
}

/// In the calling thread's namespace: no device gets IPv6 unless it needs it, and bridged frames do not pass
/// through iptables. `/proc/sys/net` shows the namespace of the thread that looks.
fn switch_off_what_weft_does_not_use() -> Result<(), KernelError> {
    let settings = [
        ("ipv6/conf/all/disable_ipv6", "1"),
        ("ipv6/conf/default/disable_ipv6", "1"),
        ("bridge/bridge-nf-call-iptables", "0"),
        ("bridge/bridge-nf-call-ip6tables", "0"),
        ("bridge/bridge-nf-call-arptables", "0"),
    ];
    settings.iter().try_for_each(|(name, value)| set_sysctl(&Path::new("/proc/sys/net").join(name), value))
}

/// Sets a sysctl of the calling thread's namespace, if it is not set so already. What is not there (in kernels without
/// IPv6, without `br_netfilter`) needs no setting.
pub(crate) fn set_sysctl(path: &Path, value: &str) -> Result<(), KernelError> {
    let outcome = match fs::read_to_string(path) {
        Ok(found) if found.trim() == value => Ok(()),
        Ok(_) => fs::write(path, value),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    };
    outcome.map_err(|e| {
        let doing = format!("set {} to {value}", path.display());
        KernelError::netlink(&doing, &e.to_string(), e.raw_os_error().unwrap_or(0))
    })
}
