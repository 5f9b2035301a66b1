//! The small values that people write: store URLs and options, interfaces, numbers, names. Each is read as it is shown.

use std::{
    fmt::{Debug, Display},
    str::FromStr,
};
use weft_agent::{Advertise, Datapath};
use weft_model::{EndpointId, MacAddr, Mtu, NetworkId, NetworkName, NodeId, Subnet, Vni, VniRange};
use weft_store::{StoreOptions, StoreUrl};

pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    shown_as_read::<StoreUrl>(text);
    shown_as_read::<StoreOptions>(text);
    shown_as_read::<Advertise>(text);
    shown_as_read::<VniRange>(text);
    shown_as_read::<Vni>(text);
    shown_as_read::<Mtu>(text);
    shown_as_read::<MacAddr>(text);
    shown_as_read::<NetworkName>(text);
    shown_as_read::<NodeId>(text);
    shown_as_read::<NetworkId>(text);
    shown_as_read::<EndpointId>(text);
    drop(text.parse::<Datapath>());
    if let Ok(mac) = text.parse::<MacAddr>() {
        assert_eq!(mac.to_string(), text.to_ascii_lowercase().replace('-', ":"));
    }
    assert!(weft::fuzzing::value(text) <= 3);
    if let Ok(url) = text.parse::<StoreUrl>() {
        // The prefix of a URL with a path is made from both.
        let options: StoreOptions = "kv.path=a/b".parse().expect("an option");
        if let Ok(checked) = options.check(&url) {
            assert_eq!(checked.to_string().parse::<StoreUrl>().as_ref(), Ok(&checked));
        }
    }
    if let Ok(net) = Subnet::parse_net(text) {
        assert_eq!(Subnet::parse_net(&net.to_string()).as_ref(), Ok(&net));
        let subnet = Subnet::new(net);
        if subnet.validate().is_ok() {
            let gateway = subnet.gateway.expect("a new subnet has one");
            assert!(net.contains(&gateway) && gateway != net.network() && subnet.withheld(gateway).is_some());
        }
    }
}

fn shown_as_read<T: FromStr<Err: Display> + Display + PartialEq + Debug>(text: &str) {
    match text.parse::<T>() {
        Ok(value) => {
            let again = value.to_string().parse::<T>().ok();
            assert_eq!(again, Some(value), "from {text:?}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
