//! A daemon for the tests of plugins: it notes what it is asked and answers what it was told to.

use crate::daemon::Daemon;
use std::cell::RefCell;
use weft_agent::api::{
    AttachRequest, ClientError, DetachRequest, EndpointView, ErrorBody, ErrorKind, NetworkSpec, NetworkView,
    Status,
};
use weft_model::{
    AddressDriver, Container, EndpointId, MacAddr, Network, NetworkId, NodeId, Outside, Subnet, Vni,
};

/// See the module.
pub(crate) struct FakeDaemon {
    pub node: NodeId,
    pub network: RefCell<Option<NetworkView>>,
    pub attached: RefCell<Vec<AttachRequest>>,
    pub detached: RefCell<Vec<DetachRequest>>,
    pub created: RefCell<Vec<NetworkSpec>>,
    /// Every request but for networks fails like this.
    pub fails: Option<ErrorKind>,
    /// A network cannot be made, since another is faster.
    pub is_slow: bool,
}

impl FakeDaemon {
    /// One in whose cluster there is a network "net" on 10.9.0.0/24, or none.
    pub fn new(has_network: bool) -> Self {
        let node = NodeId::random();
        let network =
            has_network.then(|| network_of(&node, "net", &[Subnet::new("10.9.0.0/24".parse().unwrap())]));
        Self {
            node,
            network: RefCell::new(network),
            attached: RefCell::default(),
            detached: RefCell::default(),
            created: RefCell::default(),
            fails: None,
            is_slow: false,
        }
    }

    pub fn failing(kind: ErrorKind) -> Self {
        Self { fails: Some(kind), ..Self::new(true) }
    }

    fn outcome(&self) -> Result<(), ClientError> {
        self.fails.map_or(Ok(()), |kind| Err(error(kind)))
    }

    /// Puts endpoints of these containers, each with an `eth0`, on the network.
    pub fn with_endpoints(self, containers: &[&str]) -> Self {
        if let Some(network) = self.network.borrow_mut().as_mut() {
            let requests = containers.iter().map(|id| AttachRequest {
                engine: weft_agent::api::AttachingEngine::Cni,
                container: Some(Container::new(*id, *id)),
                interface: Some("eth0".to_owned()),
                ..AttachRequest::default()
            });
            network.endpoints = requests.map(|request| endpoint(&self.node, &request)).collect();
        }
        self
    }
}

pub(crate) fn error(kind: ErrorKind) -> ClientError {
    ClientError::Daemon(ErrorBody { error: format!("{kind:?}"), hint: None, kind })
}

pub(crate) fn network_of(node: &NodeId, name: &str, subnets: &[Subnet]) -> NetworkView {
    let network = Network {
        id: NetworkId::random(),
        name: Some(name.parse().unwrap()),
        vni: Vni::new(4096).unwrap(),
        subnets: subnets.to_vec(),
        mtu: None,
        internal: false,
        direct: false,
        labels: [].into(),
        options: [].into(),
        address_driver: AddressDriver::Weft,
        created_by: node.clone(),
        created: 0,
    };
    NetworkView { network, effective_mtu: None, endpoints: vec![] }
}

/// The endpoint that a request makes: at 10.9.0.2, led out at 172.16.0.2 where that was asked for.
fn endpoint(node: &NodeId, request: &AttachRequest) -> EndpointView {
    let id = EndpointId::random();
    let outside = request.outside.as_ref().map(|asked| Outside {
        id: id.clone(),
        interface: "out0".to_owned(),
        ipv4: "172.16.0.2/20".parse().unwrap(),
        ipv6: None,
        ports: asked.ports.clone(),
    });
    EndpointView {
        id,
        network: NetworkId::random(),
        network_name: "net".to_owned(),
        node: node.clone(),
        node_name: "h1".to_owned(),
        vtep: None,
        engine: request.engine.name().to_owned(),
        container: request.container.clone(),
        mac: request.mac.unwrap_or(MacAddr([2, 0x42, 10, 9, 0, 2])),
        addresses: vec!["10.9.0.2/24".parse().unwrap()],
        sandbox: Some(request.netns.clone()),
        interface: request.interface.clone(),
        outside,
        name_server: Some("127.0.0.11".parse().unwrap()),
        created: 0,
    }
}

impl Daemon for FakeDaemon {
    async fn attach(&self, request: &AttachRequest) -> Result<EndpointView, ClientError> {
        self.outcome()?;
        self.attached.borrow_mut().push(request.clone());
        Ok(endpoint(&self.node, request))
    }

    async fn detach(&self, request: &DetachRequest) -> Result<(), ClientError> {
        self.outcome()?;
        self.detached.borrow_mut().push(request.clone());
        Ok(())
    }

    async fn check(&self, request: &DetachRequest) -> Result<EndpointView, ClientError> {
        self.outcome()?;
        let (netns, interface) = (request.netns.clone(), request.interface.clone());
        Ok(endpoint(&self.node, &AttachRequest { netns, interface, ..AttachRequest::default() }))
    }

    async fn network(&self, _: &str) -> Result<NetworkView, ClientError> {
        self.network.borrow().clone().ok_or_else(|| error(ErrorKind::NotFound))
    }

    async fn create_network(&self, spec: &NetworkSpec) -> Result<NetworkView, ClientError> {
        self.created.borrow_mut().push(spec.clone());
        let name = spec.name.as_ref().map(ToString::to_string).unwrap_or_default();
        let mut network = network_of(&self.node, &name, &spec.subnets);
        network.network.vni = spec.vni.unwrap_or(network.network.vni);
        *self.network.borrow_mut() = Some(network.clone());
        if self.is_slow { Err(error(ErrorKind::Conflict)) } else { Ok(network) }
    }

    async fn status(&self) -> Result<Status, ClientError> {
        self.outcome()?;
        let text = serde_json::json!({
            "version": "0.1.0",
            "node": {"id": self.node, "name": "h1", "this": true, "alive": true, "vteps": [], "vxlan_port": 4789,
                "underlay_mtu": 1500, "advertise": null, "version": "0.1.0", "endpoints": 0, "started": 0},
            "store": {"address": "local", "connected": true, "error": null, "revision": 1, "applied": 1, "join_token_file": null},
            "networks": 1, "nodes": 1, "nodes_alive": 1, "endpoints": 0, "datapath": "kernel", "drops": {},
            "kernel_objects": 0, "problems": [], "drift_repaired": {}, "engines": [],
        });
        Ok(serde_json::from_value(text).unwrap())
    }
}
