//! Tap devices: what a virtual machine has in place of an interface. A port's far end and the tap stay both in the host's
//! namespace, where QEMU and libvirt open the tap by its name, and every frame that comes in at one goes out at the other.
//!
//! They are joined by traffic control alone (a `u32` filter that takes every frame, with the action `mirred redirect`, at
//! the ingress of each): all kernels have it, frames with segments pass as they are, and no firewall of the host's sees a
//! frame, for a redirection at the ingress comes before it. A bridge would meet `br_netfilter` and Docker's FORWARD; a
//! macvtap cannot be opened by name.
//!
//! What weft made is known by its alias, `weft endpoint` and ten digits; a tap that was there before stays when it is let
//! go. weft's filters have a preference of their own ([`PREFERENCE`]). Source: tc-mirred(8), tc-u32(8),
//! `Documentation/networking/tuntap.rst`.

use crate::{
    KernelError, Namespace,
    device::{Device, link},
    linux::{Host, set_sysctl},
    netlink::{Netlink, Request},
    removal::is_far_end,
};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags},
    tc::{
        TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType,
        TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcMirror, TcMirrorActionType,
        TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
    },
};
use nix::libc;
use std::{collections::HashMap, fs::File, io, os::fd::AsRawFd, path::Path};
use weft_model::{Mtu, Vni};
use weft_plan::{HostState, Key, Object, Port};

/// The preference of weft's filters: "we" in ASCII.
const PREFERENCE: u16 = 0x7765;
/// All protocols (`linux/if_ether.h`).
const ETH_P_ALL: u16 = 3;
/// Where taps are made.
const TUN: &str = "/dev/net/tun";
/// The longest name of a device, without the end of the string.
const NAME_MAX: usize = 15;

/// A port's tap, as it was seen.
pub(crate) struct Joined {
    /// Its name.
    pub tap: String,
    /// Its MTU and the far end's. `None`: they are not joined in both directions, or one is down.
    pub mtu: Option<u32>,
}

/// A tap that weft made, as it was seen.
struct Made {
    name: String,
    /// Its device group: the VNI.
    group: u32,
    mtu: u32,
}

/// The tap devices of the host's namespace that belong to ports, by port.
#[derive(Default)]
pub(crate) struct Taps {
    /// By a port's name: its tap.
    joined: HashMap<String, Joined>,
    /// Taps that weft made, by the name of their port.
    made: HashMap<String, Made>,
}

impl Taps {
    /// Looks at the host's namespace. Costs one listing of devices where there are no taps.
    pub fn observe(host: &mut Netlink) -> Result<Self, KernelError> {
        let devices = host.devices()?;
        let taps: HashMap<u32, &Device> =
            devices.iter().filter(|d| is_tap(d)).map(|d| (d.index, d)).collect();
        let mut seen = Self::default();
        if taps.is_empty() {
            return Ok(seen);
        }
        for tap in taps.values() {
            if let Some(port) = tap.alias.as_deref().and_then(port_of_alias) {
                let (name, group, mtu) = (tap.name.clone(), tap.group, tap.mtu);
                seen.made.insert(port, Made { name, group, mtu });
            }
        }
        for far_end in devices.iter().filter(|d| d.kind == "veth" && is_far_end(&d.name)) {
            let Some(tap) = host.redirection(far_end.index)?.and_then(|index| taps.get(&index)) else {
                continue;
            };
            let both = host.redirection(tap.index)? == Some(far_end.index);
            let sound = both && tap.up && far_end.up && tap.mtu == far_end.mtu;
            let joined = Joined { tap: tap.name.clone(), mtu: sound.then_some(tap.mtu) };
            seen.joined.insert(port_of_far_end(&far_end.name), joined);
        }
        Ok(seen)
    }

    /// The tap that `port` is joined with, if that is as it should be.
    pub fn of(&self, port: &str, mtu: Mtu) -> Option<String> {
        let joined = self.joined.get(port)?;
        (joined.mtu == Some(mtu.get())).then(|| joined.tap.clone())
    }

    /// Adds the taps of weft's whose ports are not there, each as a port that is down: so it is put right or removed.
    pub fn add_orphans(&self, state: &mut HostState) {
        for (port, tap) in &self.made {
            // Of one whose group somebody has changed the network is not known: 1 makes it one to be removed.
            let vni = Vni::new(tap.group).or_else(|_| Vni::new(1));
            let (Ok(vni), Ok(mtu)) = (vni, Mtu::new(tap.mtu)) else { continue };
            let gone = || Object::Port(Port { mtu, up: false, bridged: false, tap: None, far_end: None });
            state.entry(Key::Port(vni, port.clone())).or_insert_with(gone);
        }
    }

    /// The names of the taps by port, for what comes after.
    pub fn into_names(self) -> HashMap<String, String> {
        let made = self.made.into_iter().map(|(port, tap)| (port, tap.name));
        let joined = self.joined.into_iter().map(|(port, joined)| (port, joined.tap));
        made.chain(joined).collect()
    }
}

/// A port's far end and a tap, to be joined.
#[derive(Clone, Copy)]
pub(crate) struct Joint<'a> {
    pub vni: Vni,
    pub port: &'a str,
    pub far_end: &'a str,
    pub tap: &'a str,
    /// See [`weft_model::Tap::owner`].
    pub owner: Option<u32>,
    pub mtu: Mtu,
}

/// Makes the tap if it is not there, and joins it with the port's far end. What is so already is left alone.
pub(crate) fn join(host: &mut Host, joint: &Joint<'_>) -> Result<(), KernelError> {
    let Joint { port, far_end, tap: name, mtu, .. } = *joint;
    let (tap, made) = match host.underlay.device(name)? {
        Some(tap) => (tap, false),
        None => (make(host, joint)?, true),
    };
    let refuse =
        |reason: &str| Err(KernelError::netlink(&format!("join tap device {name}"), reason, libc::EEXIST));
    if !is_tap(&tap) {
        return refuse("a device of that name is in the host's namespace, and it is not a tap device");
    }
    if let Some(other) = tap.alias.as_deref().and_then(port_of_alias).filter(|other| other != port) {
        return refuse(&format!("it belongs to another endpoint, whose port is {other}"));
    }
    let outcome = tie(host, &tap, far_end, mtu);
    if outcome.is_ok() {
        host.taps.insert(port.to_owned(), name.to_owned());
    } else if made {
        host.underlay.delete_device(name)?;
    }
    outcome
}

/// Joins the two in both directions, far end and tap up, without addresses of the host's own.
fn tie(host: &mut Host, tap: &Device, far_end: &str, mtu: Mtu) -> Result<(), KernelError> {
    let far_end = host.underlay.existing_device(far_end)?;
    for device in [tap, &far_end] {
        let path = Path::new("/proc/sys/net/ipv6/conf").join(&device.name).join("disable_ipv6");
        host.underlay_namespace.run(|| set_sysctl(&path, "1"))??;
    }
    for (from, to) in [(tap, &far_end), (&far_end, tap)] {
        host.underlay.redirect(from, to)?;
        let mut message = link(from.index, vec![LinkAttribute::Mtu(mtu.get())]);
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        if !from.up || from.mtu != mtu.get() {
            host.underlay.set_device(&format!("set device {} up", from.name), message)?;
        }
    }
    Ok(())
}

/// Lets the tap of `port` go, if it has one: removes it if weft made it, else only what weft did to it.
pub(crate) fn release(host: &mut Host, port: &str) -> Result<(), KernelError> {
    let Some(tap) = host.taps.get(port) else { return Ok(()) };
    if let Some(tap) = host.underlay.device(&tap.clone())?.filter(is_tap) {
        let_go(&mut host.underlay, &tap, |made_for| made_for == port)?;
    }
    host.taps.remove(port);
    Ok(())
}

/// Lets every tap of the namespace go.
pub(crate) fn release_all(namespace: &Namespace) -> Result<(), KernelError> {
    let mut netlink = Netlink::open(namespace)?;
    for tap in netlink.devices()?.iter().filter(|device| is_tap(device)) {
        let_go(&mut netlink, tap, |_| true)?;
    }
    Ok(())
}

fn let_go(netlink: &mut Netlink, tap: &Device, ours: impl Fn(&str) -> bool) -> Result<(), KernelError> {
    match tap.alias.as_deref().and_then(port_of_alias) {
        Some(port) if ours(&port) => netlink.delete_device(&tap.name),
        _ => netlink.end_redirection(tap),
    }
}

fn make(host: &mut Host, joint: &Joint<'_>) -> Result<Device, KernelError> {
    let Joint { vni, port, tap: name, owner, .. } = *joint;
    let made = host.underlay_namespace.run(|| make_persistent(name, owner))?;
    made.map_err(|e| {
        let hint = match e.kind() {
            io::ErrorKind::NotFound => ": load the module tun",
            _ => "",
        };
        let doing = format!("make tap device {name} by {TUN}");
        KernelError::netlink(&doing, &format!("{e}{hint}"), e.raw_os_error().unwrap_or(0))
    })?;
    let tap = host.underlay.existing_device(name)?;
    // The alias first: what has it is found and removed after a daemon's end in between.
    host.underlay.set_alias(&tap, &format!("weft endpoint {}", port.trim_start_matches("weft-")))?;
    let group = link(tap.index, vec![LinkAttribute::Group(vni.get())]);
    host.underlay.set_device(&format!("note the network of tap device {name}"), group)?;
    host.underlay.existing_device(name)
}

fn is_tap(device: &Device) -> bool {
    // A tun device, which carries packets, is of the same kind.
    device.kind == "tun" && device.ethernet
}

fn port_of_alias(alias: &str) -> Option<String> {
    alias.strip_prefix("weft endpoint ").map(|digits| format!("weft-{digits}"))
}

fn port_of_far_end(name: &str) -> String {
    name.replacen("weftc", "weft-", 1)
}

impl Netlink {
    /// The device that weft's filter sends every frame to that comes in at the device with this index.
    fn redirection(&mut self, index: u32) -> Result<Option<u32>, KernelError> {
        let message = RouteNetlinkMessage::GetTrafficFilter(filter(index));
        let answer = self.dump("list the filters of a device", &message)?;
        Ok(answer.iter().find_map(|message| match message {
            RouteNetlinkMessage::NewTrafficFilter(found)
                if found.header.info >> 16 == u32::from(PREFERENCE) =>
            {
                target(found)
            }
            _ => None,
        }))
    }

    /// Sends every frame that comes in at `from` out at `to`.
    fn redirect(&mut self, from: &Device, to: &Device) -> Result<(), KernelError> {
        if self.redirection(from.index)? == Some(to.index) {
            return Ok(());
        }
        self.remove_filter(from)?;
        let mut qdisc = filter(from.index);
        qdisc.header.parent = TcHandle::CLSACT;
        qdisc.header.handle = TcHandle { major: u16::MAX, minor: 0 };
        qdisc.header.info = 0;
        qdisc.attributes.push(TcAttribute::Kind("clsact".to_owned()));
        let doing = format!("let filters at device {}", from.name);
        let message = RouteNetlinkMessage::NewQueueDiscipline(qdisc);
        match self.request(Request::new(doing, NLM_F_CREATE | NLM_F_EXCL, message)) {
            // There is one already, of this or of the older kind: a filter can be at either.
            Err(e) if matches!(e.errno(), libc::EEXIST | libc::EINVAL) => {}
            other => drop(other?),
        }
        let mut all = filter(from.index);
        all.attributes.push(TcAttribute::Kind(TcFilterU32::KIND.to_owned()));
        all.attributes.push(TcAttribute::Options(vec![
            TcOption::U32(TcFilterU32Option::Selector(every_frame())),
            TcOption::U32(TcFilterU32Option::Action(vec![redirection_to(to.index)])),
        ]));
        let doing = format!("redirect the frames of device {} to {}", from.name, to.name);
        let message = RouteNetlinkMessage::NewTrafficFilter(all);
        self.request(Request::new(doing, NLM_F_CREATE | NLM_F_EXCL, message)).map(drop)
    }

    fn remove_filter(&mut self, device: &Device) -> Result<(), KernelError> {
        let doing = format!("end the redirection at device {}", device.name);
        match self.request(Request::new(
            doing,
            0,
            RouteNetlinkMessage::DelTrafficFilter(filter(device.index)),
        )) {
            // Nothing was ever attached there: the kernel says so in either way.
            Err(e) if !e.is_absent() && e.errno() != libc::EINVAL => Err(e),
            _ => Ok(()),
        }
    }

    /// Removes weft's filter, and the place for filters if nobody else has one there.
    fn end_redirection(&mut self, device: &Device) -> Result<(), KernelError> {
        self.remove_filter(device)?;
        for side in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
            let mut message = TcMessage::with_index(index_of(device.index));
            message.header.parent = TcHandle { major: u16::MAX, minor: side };
            let left =
                self.dump("list the filters of a device", &RouteNetlinkMessage::GetTrafficFilter(message))?;
            if !left.is_empty() {
                return Ok(());
            }
        }
        let mut qdisc = TcMessage::with_index(index_of(device.index));
        qdisc.header.parent = TcHandle::CLSACT;
        let doing = format!("remove the place for filters of device {}", device.name);
        match self.request(Request::new(doing, 0, RouteNetlinkMessage::DelQueueDiscipline(qdisc))) {
            Err(e) if !e.is_absent() && e.errno() != libc::EINVAL => Err(e),
            _ => Ok(()),
        }
    }
}

/// A message about weft's filter at the ingress of a device.
fn filter(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index_of(index));
    message.header.parent = TcHandle { major: u16::MAX, minor: TcHandle::MIN_INGRESS };
    message.header.info = u32::from(PREFERENCE) << 16 | u32::from(ETH_P_ALL.to_be());
    message
}

/// The kernel's numbers of interfaces are positive.
fn index_of(index: u32) -> i32 {
    i32::try_from(index).unwrap_or(0)
}

/// One key that asks for nothing.
fn every_frame() -> TcU32Selector {
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = 1;
    selector.keys = vec![TcU32Key::default()];
    selector
}

fn redirection_to(index: u32) -> TcAction {
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = index;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    action
}

/// Where a filter's action sends frames; a device that has gone has the number 0.
fn target(filter: &TcMessage) -> Option<u32> {
    let options = filter.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    let actions = options.flatten().filter_map(|option| match option {
        TcOption::U32(TcFilterU32Option::Action(actions)) => Some(actions),
        _ => None,
    });
    let parts = actions.flatten().flat_map(|action| &action.attributes).filter_map(|part| match part {
        TcActionAttribute::Options(options) => Some(options),
        _ => None,
    });
    parts.flatten().find_map(|option| match option {
        TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror)) => {
            Some(mirror.ifindex).filter(|to| *to > 0)
        }
        _ => None,
    })
}

/// What the kernel wants to know of a tap to make: `struct ifreq` (netdevice(7)) with `ifr_flags`.
#[repr(C)]
struct Wanted {
    name: [u8; NAME_MAX + 1],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// Makes a tap that stays when its maker ends, in the calling thread's namespace. The kernel makes none by netlink.
fn make_persistent(name: &str, owner: Option<u32>) -> io::Result<()> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name has more than 15 bytes, or none"));
    }
    let tun = File::options().read(true).write(true).open(TUN)?;
    let flags = libc::c_short::try_from(libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR);
    let flags = flags.map_err(io::Error::other)?;
    let mut wanted = Wanted { name: [0; NAME_MAX + 1], flags, rest: [0; 22] };
    wanted.name[..name.len()].copy_from_slice(name.as_bytes());
    ioctl::make(&tun, &wanted)?;
    if let Some(owner) = owner {
        ioctl::set_owner(&tun, owner)?;
    }
    ioctl::persist(&tun)
}

/// The three requests to the tun driver that weft makes (`linux/if_tun.h`).
#[allow(unsafe_code)]
mod ioctl {
    use super::{AsRawFd, File, Wanted, io};

    nix::ioctl_write_ptr_bad!(tun_set_iff, nix::request_code_write!(b'T', 202, size_of::<i32>()), Wanted);
    nix::ioctl_write_int_bad!(tun_set_persist, nix::request_code_write!(b'T', 203, size_of::<i32>()));
    nix::ioctl_write_int_bad!(tun_set_owner, nix::request_code_write!(b'T', 204, size_of::<i32>()));

    pub fn make(tun: &File, wanted: &Wanted) -> io::Result<()> {
        // SAFETY: `Wanted` is laid out as the kernel's `struct ifreq`, all 40 bytes of it are there, and the kernel only
        // reads and writes them during the call. (It writes the name back, which is the same for a name without a pattern.)
        unsafe { tun_set_iff(tun.as_raw_fd(), wanted) }?;
        Ok(())
    }

    pub fn persist(tun: &File) -> io::Result<()> {
        // SAFETY: the argument is a number, no pointer.
        unsafe { tun_set_persist(tun.as_raw_fd(), 1) }?;
        Ok(())
    }

    pub fn set_owner(tun: &File, owner: u32) -> io::Result<()> {
        // SAFETY: as above. Numbers of users have 32 bits; the kernel takes them as such.
        unsafe { tun_set_owner(tun.as_raw_fd(), owner.cast_signed()) }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ports_tap_is_known_by_its_alias_and_its_far_end_by_its_name() {
        assert_eq!(port_of_alias("weft endpoint 0123456789").as_deref(), Some("weft-0123456789"));
        assert_eq!(port_of_alias("vm"), None);
        assert_eq!(port_of_far_end("weftc0123456789"), "weft-0123456789");
    }

    #[test]
    fn a_filter_tells_where_its_frames_go() {
        let mut message = filter(7);
        message.attributes = vec![TcAttribute::Options(vec![TcOption::U32(TcFilterU32Option::Action(
            vec![redirection_to(9)],
        ))])];
        assert_eq!(target(&message), Some(9));
        message.attributes = vec![TcAttribute::Options(vec![TcOption::U32(TcFilterU32Option::Action(
            vec![redirection_to(0)],
        ))])];
        assert_eq!(target(&message), None, "the device has gone");
    }

    #[test]
    fn a_request_for_a_tap_has_the_size_of_an_ifreq() {
        assert_eq!(size_of::<Wanted>(), size_of::<libc::ifreq>());
        assert!(make_persistent("a-name-that-is-too-long", None).is_err());
    }
}
