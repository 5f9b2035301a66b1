//! The gateway's rules: the nftables table `inet weft` of the host's namespace.
//!
//! Subnets and published ports are read back from the notes of the rules that they made: nothing is remembered.

use crate::nftables::{
    Chain, ChainKind, Family, Hook, HookPoint, Lifetime, Policy, Protocol, Rule, SeenTable, Table, Term,
    Verdict, ct,
};
use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};
use weft_model::{PortProtocol, PublishedPort};
use weft_plan::{GATEWAY_PORTS, Gateway, Published};

/// The table's name.
pub(super) const TABLE: &str = "weft";

/// Before routing, behind connection tracking (-200): no published port needs what is dropped here.
const BEFORE_NAT: i32 = -150;
const DESTINATION_NAT: i32 = -100;
const FILTER: i32 = 0;
const SOURCE_NAT: i32 = 100;

/// What the note of a subnet's rule begins with.
const SUBNET: &str = "out of ";

/// The rules for a gateway.
pub(super) fn table(gateway: &Gateway) -> Table {
    let chain = |name: &str, kind, point, priority, rules| Chain {
        name: name.to_owned(),
        hook: Hook { kind, point, priority, policy: Policy::Accept },
        rules,
    };
    let published: Vec<Rule> = gateway.published.iter().flat_map(lead_in).collect();
    let chains = vec![
        chain("received", ChainKind::Filter, HookPoint::Prerouting, BEFORE_NAT, loopback_is_the_hosts()),
        chain("published", ChainKind::Nat, HookPoint::Prerouting, DESTINATION_NAT, published.clone()),
        chain("published-here", ChainKind::Nat, HookPoint::Output, DESTINATION_NAT, published),
        chain("through", ChainKind::Filter, HookPoint::Forward, FILTER, only_answers_and_published()),
        chain("leaving", ChainKind::Nat, HookPoint::Postrouting, SOURCE_NAT, leave_as_the_host(gateway)),
    ];
    Table {
        family: Family::Inet,
        name: TABLE.to_owned(),
        lifetime: Lifetime::Unlimited,
        sets: vec![],
        chains,
    }
}

fn input() -> Term {
    Term::InputLike(GATEWAY_PORTS.to_owned())
}

fn output() -> Term {
    Term::OutputLike(GATEWAY_PORTS.to_owned())
}

fn loopback() -> Option<IpNet> {
    "127.0.0.0/8".parse().ok()
}

/// `route_localnet` lets frames for loopback addresses in: none come from sandboxes.
fn loopback_is_the_hosts() -> Vec<Rule> {
    let drop = |net| Rule::new([input(), Term::Destination(net)], Verdict::Drop);
    loopback().map(drop).into_iter().collect()
}

/// Into sandboxes go answers and what was sent to a published port, whoever translated it; nothing from one sandbox to
/// another.
fn only_answers_and_published() -> Vec<Rule> {
    let answers = Term::ConnectionState(ct::ESTABLISHED | ct::RELATED);
    vec![
        Rule::new([output(), answers], Verdict::Accept),
        Rule::new([output(), Term::DestinationTranslated], Verdict::Accept),
        Rule::new([output()], Verdict::Drop),
    ]
}

fn leave_as_the_host(gateway: &Gateway) -> Vec<Rule> {
    let outward = gateway.subnets.iter().map(|net| {
        let terms = [Term::Source(*net), Term::OutputNotLike(GATEWAY_PORTS.to_owned())];
        Rule::new(terms, Verdict::Masquerade).noted(format!("{SUBNET}{net}"))
    });
    // A sandbox that calls a published port of its own host: the answer must come back through the host.
    let back_in = Rule::new([input(), output(), Term::DestinationTranslated], Verdict::Masquerade);
    // A call from a loopback address of the host: no sandbox could answer to that.
    let from_loopback = |net| Rule::new([Term::Source(net), output()], Verdict::Masquerade);
    outward.chain([back_in]).chain(loopback().map(from_loopback)).collect()
}

/// The rules of published ports: one where the numbers stay the same, else one for each port.
fn lead_in(published: &Published) -> Vec<Rule> {
    let Published { port, to } = published;
    let protocol = match port.protocol {
        PortProtocol::Tcp => Protocol::Tcp,
        PortProtocol::Udp => Protocol::Udp,
        PortProtocol::Sctp => Protocol::Sctp,
    };
    let rule = |first: u16, last: u16, to_port| {
        let mut terms = match port.host_ip.filter(|ip| !ip.is_unspecified()) {
            Some(ip) => vec![Term::Destination(IpNet::from(ip))],
            None => vec![Term::IsIpv4(to.is_ipv4()), Term::DestinationIsLocal],
        };
        if to.is_ipv6() && port.host_ip.is_none_or(|ip| ip.is_unspecified()) {
            // There is no way out for what comes from there.
            terms.push(Term::DestinationNot(IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST))));
        }
        terms.extend([Term::Protocol(protocol), Term::DestinationPort(first..=last)]);
        Rule::new(terms, Verdict::DestinationNat(*to, to_port)).noted(note(published))
    };
    let last = port.host_port.saturating_add(port.count.saturating_sub(1));
    if port.host_port == port.container_port {
        return vec![rule(port.host_port, last, None)];
    }
    let pairs = (port.host_port..=last).zip(port.container_port..=u16::MAX);
    pairs.map(|(from, to)| rule(from, from, Some(to))).collect()
}

/// `tcp 192.0.2.1 8080 80 1 10.213.0.2`: protocol, host's address or `*`, host's port, sandbox's port, how many, sandbox.
fn note(Published { port, to }: &Published) -> String {
    let address = port.host_ip.map_or_else(|| "*".to_owned(), |ip| ip.to_string());
    let PublishedPort { protocol, host_port, container_port, count, .. } = port;
    format!("{protocol} {address} {host_port} {container_port} {count} {to}")
}

fn noted(text: &str) -> Option<Published> {
    let words: Vec<&str> = text.split(' ').collect();
    let [protocol, address, host_port, container_port, count, to] = words[..] else { return None };
    let port = PublishedPort {
        protocol: protocol.parse().ok()?,
        host_ip: if address == "*" { None } else { Some(address.parse().ok()?) },
        host_port: host_port.parse().ok()?,
        container_port: container_port.parse().ok()?,
        count: count.parse().ok()?,
    };
    Some(Published { port, to: to.parse().ok()? })
}

/// The subnets that a table was made for.
pub(super) fn subnets_in(table: &SeenTable) -> BTreeSet<IpNet> {
    let rules = table.chains.iter().flat_map(|chain| &chain.rules);
    rules.filter_map(|rule| rule.note()?.strip_prefix(SUBNET)?.parse().ok()).collect()
}

/// The published ports that a table was made for.
pub(super) fn published_in(table: &SeenTable) -> BTreeSet<Published> {
    let rules = table.chains.iter().flat_map(|chain| &chain.rules);
    rules.filter_map(|rule| noted(rule.note()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(
        host_ip: Option<&str>,
        host_port: u16,
        container_port: u16,
        count: u16,
        to: &str,
    ) -> Published {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        let protocol = PortProtocol::Udp;
        let port = PublishedPort { protocol, host_ip, host_port, container_port, count };
        Published { port, to: to.parse().unwrap() }
    }

    #[test]
    fn a_published_port_is_read_back_from_its_note() {
        for published in [
            published(None, 8080, 80, 1, "10.213.0.2"),
            published(Some("192.0.2.1"), 1, 1, 65535, "10.213.0.2"),
            published(Some("2001:db8::1"), 53, 53, 1, "fd12::2"),
        ] {
            assert_eq!(noted(&note(&published)), Some(published));
        }
        assert_eq!(noted("tcp * 80"), None);
    }

    #[test]
    fn a_range_with_the_same_numbers_is_one_rule_and_one_with_others_one_for_each_port() {
        assert_eq!(lead_in(&published(None, 8000, 8000, 100, "10.213.0.2")).len(), 1);
        let rules = lead_in(&published(None, 8000, 65534, 2, "10.213.0.2"));
        let to = |port| Verdict::DestinationNat("10.213.0.2".parse().unwrap(), Some(port));
        assert_eq!(rules.iter().map(|rule| rule.verdict).collect::<Vec<_>>(), [to(65534), to(65535)]);
    }

    #[test]
    fn each_subnet_is_translated_where_it_leaves_the_host() {
        let subnets = ["10.213.0.0/20", "fd12::/64"].map(|net| net.parse().unwrap()).into();
        let gateway = Gateway { subnets, published: BTreeSet::new(), sound: true };
        let sources = leave_as_the_host(&gateway).into_iter().filter_map(|rule| match rule.terms[0] {
            Term::Source(net) => Some(net.to_string()),
            _ => None,
        });
        assert_eq!(sources.collect::<Vec<_>>(), ["10.213.0.0/20", "fd12::/64", "127.0.0.0/8"]);
    }
}
