//! Network devices as netlink tells of them, and the requests that make, change and remove them.

use crate::{
    KernelError,
    netlink::{Netlink, Request},
};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        AfSpecInet6, AfSpecUnspec, BridgeMulticastRouterType, InfoBridgePort, InfoData, InfoKind,
        InfoPortData, InfoPortKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType,
        LinkMessage,
    },
};
use std::mem::discriminant;
use weft_model::{MacAddr, Mtu};

/// A device of any kind.
// The flags are facts the kernel tells, each independent of the others.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub index: u32,
    pub name: String,
    /// As in `ip -d link`: `bridge`, `vxlan`, `veth`; empty for physical ones.
    pub kind: String,
    pub mac: MacAddr,
    pub mtu: u32,
    pub up: bool,
    /// There is a cable in it, or what its kind takes for one.
    pub carrier: bool,
    /// Its name for people.
    pub alias: Option<String>,
    pub loopback: bool,
    /// Whether its frames have Ethernet headers.
    pub ethernet: bool,
    /// The bridge it is a port of.
    pub master: Option<u32>,
    /// What its bridge has set for it; empty when it is not a port of a bridge.
    pub port: Vec<InfoBridgePort>,
    /// `IFLA_GROUP`: on ports of weft's, the VNI.
    pub group: u32,
    /// The other end of a veth pair, by its index in its own namespace.
    pub link: Option<u32>,
    /// Whether its other part (a tunnel's socket, a veth's far end) is in another namespace.
    pub linked_elsewhere: bool,
    /// `net.ipv6.conf.DEVICE.disable_ipv6`; not on where the kernel has no IPv6.
    pub ipv6_off: bool,
    /// What only its kind has.
    pub data: Option<InfoData>,
}

impl Device {
    pub fn of(message: LinkMessage) -> Self {
        let mut device = Self {
            index: message.header.index,
            name: String::new(),
            kind: String::new(),
            mac: MacAddr::ZERO,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            alias: None,
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            master: None,
            port: Vec::new(),
            group: 0,
            link: None,
            linked_elsewhere: false,
            ipv6_off: false,
            data: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name = name,
                LinkAttribute::Address(bytes) => device.mac = mac_of(&bytes),
                LinkAttribute::Mtu(mtu) => device.mtu = mtu,
                LinkAttribute::IfAlias(alias) => device.alias = Some(alias),
                LinkAttribute::Controller(index) => device.master = Some(index),
                LinkAttribute::Group(group) => device.group = group,
                LinkAttribute::Link(index) => device.link = Some(index),
                LinkAttribute::LinkNetNsId(_) => device.linked_elsewhere = true,
                LinkAttribute::LinkInfo(infos) => infos.into_iter().for_each(|info| device.read(info)),
                LinkAttribute::AfSpecUnspec(families) => device.ipv6_off = is_ipv6_off(&families),
                _ => {}
            }
        }
        device
    }

    fn read(&mut self, info: LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.kind = kind.to_string(),
            LinkInfo::Data(data) => self.data = Some(data),
            LinkInfo::PortData(InfoPortData::BridgePort(attributes)) => self.port = attributes,
            _ => {}
        }
    }

    /// Whether it is a port of `bridge`, set as it should be.
    pub fn is_port_of(&self, bridge: Option<u32>, settings: &PortSettings) -> bool {
        bridge.is_some() && self.master == bridge && self.wrong_of(settings).next().is_none()
    }

    /// The settings that it does not have. One that the kernel does not know at all is not missed, but for learning: without
    /// that it is no port of a bridge.
    fn wrong_of<'a>(&'a self, settings: &'a PortSettings) -> impl Iterator<Item = &'a InfoBridgePort> {
        settings.iter().filter(|want| {
            let same_kind = |has: &&InfoBridgePort| discriminant(*has) == discriminant(*want);
            match self.port.iter().find(same_kind) {
                Some(has) => has != *want,
                None => matches!(want, InfoBridgePort::Learning(_)),
            }
        })
    }

    /// Its MTU; devices can have ones that no IP packet fits.
    pub fn mtu(&self) -> Result<Mtu, KernelError> {
        let doing = || format!("read the MTU of device {}", self.name);
        Mtu::new(self.mtu).map_err(|e| KernelError::netlink(&doing(), &e.to_string(), 0))
    }
}

fn is_ipv6_off(families: &[AfSpecUnspec]) -> bool {
    families.iter().any(|family| match family {
        AfSpecUnspec::Inet6(attributes) => attributes
            .iter()
            .any(|attribute| matches!(attribute, AfSpecInet6::DevConf(conf) if conf.disable_ipv6 != 0)),
        _ => false,
    })
}

/// The Ethernet address in `bytes`; zero when it is not one.
pub(crate) fn mac_of(bytes: &[u8]) -> MacAddr {
    bytes.try_into().map_or(MacAddr::ZERO, MacAddr)
}

/// A message about one device, or about all when `index` is 0.
pub(crate) fn link(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

/// The attributes of a new device's kind.
pub(crate) fn kind(kind: InfoKind, data: InfoData) -> LinkAttribute {
    LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)])
}

fn query(attribute: Option<LinkAttribute>) -> RouteNetlinkMessage {
    let mut attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    attributes.extend(attribute);
    RouteNetlinkMessage::GetLink(link(0, attributes))
}

impl Netlink {
    /// All devices of the namespace.
    pub fn devices(&mut self) -> Result<Vec<Device>, KernelError> {
        let answer = self.dump("list the devices", &query(None))?;
        Ok(answer.into_iter().filter_map(device_in).collect())
    }

    /// The device of that name, if there is one.
    pub fn device(&mut self, name: &str) -> Result<Option<Device>, KernelError> {
        let message = query(Some(LinkAttribute::IfName(name.to_owned())));
        match self.request(Request::new(format!("look at device {name}"), 0, message)) {
            Ok(answer) => Ok(answer.into_iter().find_map(device_in)),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The device of that name; its absence is an error.
    pub fn existing_device(&mut self, name: &str) -> Result<Device, KernelError> {
        let absent = || KernelError::netlink(&format!("look at device {name}"), "it is not there", 0);
        self.device(name)?.ok_or_else(absent)
    }

    /// Makes a device; an error when there is one of that name.
    pub fn create_device(&mut self, name: &str, message: LinkMessage) -> Result<(), KernelError> {
        let message = RouteNetlinkMessage::NewLink(message);
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.request(Request::new(format!("create device {name}"), flags, message)).map(|_| ())
    }

    /// Changes attributes of a device that is there.
    pub fn set_device(&mut self, doing: &str, message: LinkMessage) -> Result<(), KernelError> {
        self.request(Request::new(doing, 0, RouteNetlinkMessage::NewLink(message))).map(|_| ())
    }

    /// Names a device for people. The kernel takes no alias at creation.
    pub fn set_alias(&mut self, device: &Device, alias: &str) -> Result<(), KernelError> {
        let message = link(device.index, vec![LinkAttribute::IfAlias(alias.to_owned())]);
        self.set_device(&format!("describe device {}", device.name), message)
    }

    /// Removes a device, if it is there. The other end of a veth pair goes with it.
    pub fn delete_device(&mut self, name: &str) -> Result<(), KernelError> {
        let message = RouteNetlinkMessage::DelLink(link(0, vec![LinkAttribute::IfName(name.to_owned())]));
        match self.request(Request::new(format!("remove device {name}"), 0, message)) {
            Err(e) if !e.is_absent() => Err(e),
            _ => Ok(()),
        }
    }

    /// Makes these of a device's attributes what they should be: those that are already are left alone, so that
    /// adopting a device changes nothing.
    pub fn settle(&mut self, device: &Device, want: &Settings) -> Result<(), KernelError> {
        let mut attributes = Vec::new();
        if let Some(mac) = want.mac.filter(|mac| *mac != device.mac) {
            attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        }
        if device.mtu != want.mtu.get() {
            attributes.push(LinkAttribute::Mtu(want.mtu.get()));
        }
        if let Some(group) = want.group.filter(|group| *group != device.group) {
            attributes.push(LinkAttribute::Group(group));
        }
        let name = &device.name;
        if !attributes.is_empty() {
            self.set_device(&format!("change device {name}"), link(device.index, attributes))?;
        }
        self.settle_bridging(device, want.bridge)?;
        if device.up != want.up {
            let mut message = link(device.index, Vec::new());
            message.header.flags = if want.up { LinkFlags::Up } else { LinkFlags::empty() };
            message.header.change_mask = LinkFlags::Up;
            let doing = format!("set device {name} {}", if want.up { "up" } else { "down" });
            self.set_device(&doing, message)?;
        }
        Ok(())
    }

    /// Sets the loopback device up, which a new namespace has down.
    pub fn bring_up_loopback(&mut self) -> Result<(), KernelError> {
        let loopback = self.existing_device("lo")?;
        if loopback.up {
            return Ok(());
        }
        let mut message = link(loopback.index, Vec::new());
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.set_device("set device lo up", message)
    }

    /// Makes a device a port of `bridge`, set as it should be before it is up: nothing is ever learned from it.
    fn settle_bridging(&mut self, device: &Device, bridge: Bridging) -> Result<(), KernelError> {
        let want = match bridge {
            Bridging::NoPort => return Ok(()),
            Bridging::Detached => None,
            Bridging::PortOf(bridge, settings) => Some((bridge, settings)),
        };
        let name = &device.name;
        let master = want.map(|(bridge, _)| bridge);
        let enters = device.master != master;
        if enters {
            let master = LinkAttribute::Controller(master.unwrap_or(0));
            self.set_device(&format!("put device {name} into its bridge"), link(device.index, vec![master]))?;
        }
        let Some((_, settings)) = want else { return Ok(()) };
        let wrong: Vec<_> =
            if enters { settings.to_vec() } else { device.wrong_of(settings).cloned().collect() };
        if wrong.is_empty() {
            return Ok(());
        }
        let settings = LinkInfo::PortData(InfoPortData::BridgePort(wrong));
        let port = vec![LinkInfo::PortKind(InfoPortKind::Bridge), settings];
        let message = link(device.index, vec![LinkAttribute::LinkInfo(port)]);
        self.set_device(&format!("set device {name} as a port of its bridge"), message)
    }
}

/// What all of weft's devices have.
pub(crate) struct Settings {
    /// `None`: whatever it is.
    pub mac: Option<MacAddr>,
    pub mtu: Mtu,
    pub up: bool,
    /// `None`: whatever it is.
    pub group: Option<u32>,
    pub bridge: Bridging,
}

/// Which bridge a device is a port of.
#[derive(Clone, Copy)]
pub(crate) enum Bridging {
    /// It is a bridge itself.
    NoPort,
    /// None.
    Detached,
    /// The one with this interface index, set so.
    PortOf(u32, &'static PortSettings),
}

/// What a bridge has set for a port.
pub(crate) type PortSettings = [InfoBridgePort; 2];

/// An endpoint's port. The kernel's limit of groups is for a whole bridge, and one that has reached it ceases to snoop: so no port
/// may come near it alone (Linux 6.3; see `bridge`).
pub(crate) static ENDPOINT_PORT: PortSettings =
    [InfoBridgePort::Learning(false), InfoBridgePort::MulticastMaxGroups(1024)];

/// A VXLAN device's port: all multicast goes there, and the device knows to which hosts.
pub(crate) static VXLAN_PORT: PortSettings =
    [InfoBridgePort::Learning(false), InfoBridgePort::MulticastRouter(BridgeMulticastRouterType::Permanent)];

fn device_in(message: RouteNetlinkMessage) -> Option<Device> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Some(Device::of(message)),
        _ => None,
    }
}
