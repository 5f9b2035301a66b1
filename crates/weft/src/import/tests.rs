//! What is read from definitions that real engines have written (`testdata`), and from anything else.

use super::*;
use crate::cli::{Cli, Command, NetworkCommand};
use clap::Parser;
use weft_model::{AddressDriver, Network, NetworkId, NetworkName, NodeId, Vni, VniRange};

const SWARM: &[u8] = include_bytes!("testdata/docker-26.1-swarm.json");
const CLASSIC: &[u8] = include_bytes!("testdata/docker-20.10-etcd.json");
const FLANNEL: &str = r#"{"Network":"10.244.0.0/16","SubnetLen":24,"EnableIPv6":true,"IPv6Network":"fd00:244::/56",
    "Backend":{"Type":"vxlan","VNI":300,"Port":8472,"DirectRouting":true}}"#;

fn keys() -> Vec<(String, String)> {
    weft_store::leaves(CLASSIC).unwrap()
}

fn lines(definition: &Definition) -> Vec<String> {
    definition.proposals.iter().map(|proposal| command_line(&proposal.spec)).collect()
}

fn notes(definition: &Definition, name: &str) -> String {
    let named = |p: &&Proposal| p.spec.name.as_ref().is_some_and(|n| n.as_str() == name);
    definition.proposals.iter().find(named).unwrap().notes.join("\n")
}

fn reason(definition: &Definition, name: &str) -> String {
    definition.left.iter().find(|left| left.name == name).unwrap().reason.clone()
}

fn network(spec: &NetworkSpec, vni: u32) -> Network {
    Network {
        id: NetworkId::random(),
        name: spec.name.clone(),
        vni: Vni::new(vni).unwrap(),
        subnets: spec.subnets.clone(),
        mtu: spec.mtu,
        internal: spec.internal,
        direct: spec.direct,
        labels: spec.labels.clone(),
        options: spec.options.clone(),
        address_driver: AddressDriver::Weft,
        created_by: NodeId::random(),
        created: 0,
    }
}

#[test]
fn the_networks_of_a_swarm_are_proposed_as_they_were() {
    let definition = swarm::read(SWARM, Wishes::default()).unwrap();
    let expected = [
        "weft network create --subnet 10.61.0.0/24 --gateway 10.61.0.254 --ip-range 10.61.0.128/25 --mtu 1350 \
         --vni 4300 --internal full",
        "weft network create --subnet 10.60.0.0/24 --label team=a --vni 4097 plain",
        "weft network create --subnet 10.64.0.0/24 --subnet fd00:64::/64 --vni 4101 six",
        "weft network create --subnet 10.62.0.0/24 --subnet 10.63.0.0/24 --vni 4099 two",
    ];
    assert_eq!(lines(&definition), expected);
    assert!(notes(&definition, "full").contains("MTU 1350: Docker's option"));
    assert!(notes(&definition, "two").contains("one VNI, whatever its subnets: not needed any more: 4100"));
    assert!(notes(&definition, "plain").contains("attachable: every network"));
    assert!(reason(&definition, "secret").contains("--unencrypted"));
    assert!(reason(&definition, "ingress").contains("the swarm's own"));
    assert_eq!(reason(&definition, "localbr"), "it is of driver \"bridge\", not \"overlay\"");
    let all = swarm::read(SWARM, Wishes { unencrypted: true }).unwrap();
    assert!(notes(&all, "secret").contains("weft carries them in clear"));
}

#[test]
fn the_networks_of_dockers_own_cluster_store_are_proposed_as_they_were() {
    let definition = docker_classic::read(&keys(), Wishes { unencrypted: true }).unwrap();
    let expected = [
        "weft network create --subnet 10.51.0.0/24 --gateway 10.51.0.254 --ip-range 10.51.0.128/25 \
         --aux-address router=10.51.0.7 --mtu 1350 --vni 300 --internal full",
        "weft network create --subnet 10.50.0.0/24 --label team=a plain",
        "weft network create --subnet 10.0.0.0/24 secret",
        "weft network create --subnet 10.54.0.0/24 --subnet fd00:54::/64 six",
        "weft network create --subnet 10.52.0.0/24 --subnet 10.53.0.0/24 two",
    ];
    assert_eq!(lines(&definition), expected);
    assert_eq!(definition.left, []);
    let error = docker_classic::read(&[], Wishes::default()).unwrap_err().to_string();
    assert!(error.contains("is this the URL of Docker's --cluster-store?"), "{error}");
}

#[test]
fn flannels_network_is_one_segment_for_all_hosts() {
    let name: NetworkName = "pods".parse().unwrap();
    let definition = flannel::read(FLANNEL.as_bytes(), &name, Wishes::default()).unwrap();
    assert_eq!(
        lines(&definition),
        [
            "weft network create --subnet 10.244.0.0/16 --subnet fd00:244::/56 -o weft.direct=true --vni 300 pods"
        ]
    );
    let told = notes(&definition, "pods");
    assert!(told.contains("SubnetLen not carried over") && told.contains("--vxlan-port"), "{told}");
    let plain = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;
    let definition = flannel::read(plain.as_bytes(), &name, Wishes::default()).unwrap();
    assert_eq!(lines(&definition), ["weft network create --subnet 10.5.0.0/16 -o weft.direct=true pods"]);
    let plain = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}"#;
    let definition = flannel::read(plain.as_bytes(), &name, Wishes::default()).unwrap();
    assert_eq!(lines(&definition), ["weft network create --subnet 10.5.0.0/16 pods"]);
    assert!(notes(&definition, "pods").contains("weft carries frames in VXLAN"));
    let secret = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard"}}"#;
    let definition = flannel::read(secret.as_bytes(), &name, Wishes::default()).unwrap();
    assert!(reason(&definition, "pods").contains("encrypted (backend wireguard)"));
    assert!(flannel::read(b"[]", &name, Wishes::default()).is_err());
}

#[test]
fn a_line_says_to_the_command_line_what_the_daemon_is_asked() {
    let wishes = Wishes { unencrypted: true };
    let name: NetworkName = "pods".parse().unwrap();
    let definitions = [
        swarm::read(SWARM, wishes).unwrap(),
        docker_classic::read(&keys(), wishes).unwrap(),
        flannel::read(FLANNEL.as_bytes(), &name, wishes).unwrap(),
    ];
    for proposal in definitions.iter().flat_map(|definition| &definition.proposals) {
        let line = command_line(&proposal.spec);
        let Command::Network(NetworkCommand::Create(flags)) =
            Cli::try_parse_from(line.split(' ')).unwrap().command
        else {
            panic!("{line}")
        };
        assert_eq!(crate::commands::network::spec(*flags).unwrap(), proposal.spec, "{line}");
    }
    let odd =
        NetworkSpec { labels: [("a".to_owned(), "it's $HOME".to_owned())].into(), ..NetworkSpec::default() };
    assert_eq!(command_line(&odd), r"weft network create --label 'a=it'\''s $HOME'");
    let options = [("-x".to_owned(), "1".to_owned())];
    let odd = NetworkSpec {
        labels: options.clone().into(),
        options: options.into(),
        name: Some("odd".parse().unwrap()),
        ..NetworkSpec::default()
    };
    let line = command_line(&odd);
    assert_eq!(line, "weft network create --label=-x=1 -o=-x=1 odd");
    let Command::Network(NetworkCommand::Create(flags)) =
        Cli::try_parse_from(line.split(' ')).unwrap().command
    else {
        panic!("{line}")
    };
    let read = crate::commands::network::spec(*flags).unwrap();
    assert_eq!((read.labels, read.options), (odd.labels, odd.options));
}

#[test]
fn what_is_there_is_left_alone_and_what_differs_is_told() {
    let definition = swarm::read(SWARM, Wishes::default()).unwrap();
    let full = &definition.proposals[0];
    let range: VniRange = "4096-8191".parse().unwrap();
    let fit = |networks: &[Network]| fit::fit(full.clone(), networks, Some(range));
    assert_eq!(fit(&[]), fit::Fit::Make(full.clone()));
    // Whatever its VNI.
    assert_eq!(fit(&[network(&full.spec, 5000)]), fit::Fit::There);
    let mut other = network(&full.spec, 4300);
    other.internal = false;
    other.subnets[0].gateway = Some("10.61.0.1".parse().unwrap());
    let fit::Fit::Other(told) = fit(&[other]) else { panic!() };
    assert!(
        told.contains("internal: true proposed, false there") && told.contains("gateway 10.61.0.1"),
        "{told}"
    );

    let mut stranger = network(&full.spec, 4300);
    stranger.name = Some("stranger".parse().unwrap());
    let fit::Fit::Make(made) = fit(&[stranger]) else { panic!() };
    assert_eq!(made.spec.vni, None);
    assert!(
        made.notes.last().unwrap().contains("VNI 4300 is not kept, weft chooses one: network \"stranger\"")
    );
    let small: VniRange = "5000-6000".parse().unwrap();
    let fit::Fit::Make(made) = fit::fit(full.clone(), &[], Some(small)) else { panic!() };
    assert!(made.notes.last().unwrap().contains("this cluster uses 5000-6000"));
}

/// Random numbers that are the same in every run (xorshift).
fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 33).unwrap()
}

/// A real definition with some bytes changed, cut out or doubled.
fn mutilated(seed: &[u8], state: &mut u64) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random(state) % 4 {
        let at = random(state) % bytes.len().max(1);
        let length = random(state) % 20;
        let end = (at + length).min(bytes.len());
        match random(state) % 4 {
            0 => bytes[at..end].iter_mut().for_each(|b| *b = b"\"{}[]:,0-/nf\\"[length % 13]),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => bytes.truncate(end.max(1)),
        }
    }
    bytes
}

/// What is proposed can be made: the daemon would refuse it for nothing that can be known without the cluster.
fn is_sound(definition: &Definition) {
    for proposal in &definition.proposals {
        assert!(proposal.spec.name.is_some());
        if !proposal.spec.subnets.is_empty() {
            weft_model::Subnet::validate_all(&proposal.spec.subnets).unwrap();
        }
        assert!(!command_line(&proposal.spec).contains('\n') || !proposal.spec.labels.is_empty());
    }
}

#[test]
fn bytes_that_are_no_definition_are_refused_and_nothing_unsound_is_proposed() {
    let name: NetworkName = "pods".parse().unwrap();
    let (wishes, mut state) = (Wishes { unencrypted: true }, 0x2545_f491_4f6c_dd1d_u64);
    for _ in 0..3000 {
        if let Ok(definition) = swarm::read(&mutilated(SWARM, &mut state), wishes) {
            is_sound(&definition);
        }
        if let Ok(definition) = flannel::read(&mutilated(FLANNEL.as_bytes(), &mut state), &name, wishes) {
            is_sound(&definition);
        }
    }
    let keys = keys();
    for _ in 0..3000 {
        let mut keys = keys.clone();
        let at = random(&mut state) % keys.len();
        keys[at].1 = String::from_utf8_lossy(&mutilated(keys[at].1.as_bytes(), &mut state)).into_owned();
        if let Ok(definition) = docker_classic::read(&keys, wishes) {
            is_sound(&definition);
        }
    }
}
