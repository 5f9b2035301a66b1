//! Tables of rules are what `nft` says they are, and rules that are altered are noticed.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use lab::{Netns, can_run, run};
use std::net::IpAddr;
use weft_kernel::nftables::{
    Chain, ChainKind, Family, Hook, HookPoint, Lifetime, Nftables, Policy, Protocol, Rule, Table, Term,
    Verdict, ct,
};

const NAT: Hook =
    Hook { kind: ChainKind::Nat, point: HookPoint::Output, priority: -101, policy: Policy::Accept };
const FORWARD: Hook =
    Hook { kind: ChainKind::Filter, point: HookPoint::Forward, priority: 0, policy: Policy::Accept };
const POSTROUTING: Hook =
    Hook { kind: ChainKind::Nat, point: HookPoint::Postrouting, priority: 100, policy: Policy::Accept };

fn table(family: Family, chains: Vec<(&str, Hook, Vec<Rule>)>) -> Table {
    let chains = chains.into_iter().map(|(name, hook, rules)| Chain { name: name.to_owned(), hook, rules });
    let lifetime = Lifetime::Unlimited;
    Table { family, name: "weft".to_owned(), lifetime, sets: vec![], chains: chains.collect() }
}

fn name_service(address: &str, port: u16) -> Table {
    let to = Verdict::DestinationNat(address.parse().unwrap(), Some(port));
    let rule = |protocol| {
        let terms = [
            Term::Destination("127.0.0.11/32".parse().unwrap()),
            Term::Protocol(protocol),
            Term::DestinationPort(53..=53),
        ];
        Rule::new(terms, to)
    };
    table(Family::Ip, vec![("output", NAT, vec![rule(Protocol::Udp), rule(Protocol::Tcp)])])
}

/// `nft list table` without the parts that are not rules, one rule a line.
fn rules_by_nft(netns: &Netns, family: &str) -> Vec<String> {
    let listing = run(&format!("ip netns exec {} nft -n list table {family} weft", netns.name));
    let lines = listing.lines().map(str::trim).filter(|line| line.contains("comment \"weft "));
    lines.map(|line| line.split(" comment ").next().unwrap().to_owned()).collect()
}

#[test]
fn every_term_and_verdict_is_what_nft_calls_it() {
    if !can_run("nft") {
        return;
    }
    let netns = Netns::new("f");
    let mut nftables = Nftables::open(&netns.namespace).unwrap();
    let v4: IpAddr = "10.0.0.2".parse().unwrap();
    let net = |text: &str| text.parse().unwrap();
    let name = || "weft-gw".to_owned();
    let tcp = || Term::Protocol(Protocol::Tcp);
    let forward = vec![
        Rule::new([Term::Source(net("10.0.0.0/20"))], Verdict::Accept),
        Rule::new([Term::SourceNot(net("fd77::/64"))], Verdict::Drop),
        Rule::new([Term::Destination(net("fd77::1/128"))], Verdict::Accept),
        Rule::new([Term::DestinationNot(net("10.1.2.3/32"))], Verdict::Drop),
        Rule::new([Term::Input(name()), Term::OutputNot(name())], Verdict::Accept),
        Rule::new([Term::InputNot(name()), Term::Output(name())], Verdict::Drop),
        Rule::new([Term::InputLike("weftg".to_owned())], Verdict::Accept),
        Rule::new([Term::ConnectionState(ct::ESTABLISHED | ct::RELATED)], Verdict::Accept),
        Rule::new([Term::DestinationTranslated, Term::IsIpv4(true)], Verdict::Accept),
    ];
    let nat = vec![
        Rule::new(
            [Term::DestinationIsLocal, tcp(), Term::DestinationPort(80..=80)],
            Verdict::DestinationNat(v4, Some(8080)),
        ),
        Rule::new([tcp(), Term::DestinationPort(9000..=9010)], Verdict::DestinationNat(v4, None)),
        Rule::new(
            [Term::Protocol(Protocol::Sctp), Term::DestinationPort(1..=2)],
            Verdict::DestinationNat(net_address("fd77::2"), Some(7)),
        ),
    ];
    let masquerade = vec![Rule::new([Term::OutputNot(name())], Verdict::Masquerade)];
    let table = table(
        Family::Inet,
        vec![("forward", FORWARD, forward), ("output", NAT, nat), ("leaving", POSTROUTING, masquerade)],
    );
    nftables.replace(&table).unwrap();
    assert_eq!(
        rules_by_nft(&netns, "inet"),
        [
            "ip saddr 10.0.0.0/20 accept",
            "ip6 saddr != fd77::/64 drop",
            "ip6 daddr fd77::1 accept",
            "ip daddr != 10.1.2.3 drop",
            "iifname \"weft-gw\" oifname != \"weft-gw\" accept",
            "iifname != \"weft-gw\" oifname \"weft-gw\" drop",
            "iifname \"weftg*\" accept",
            "ct state 0x2,0x4 accept",
            "ct status 0x20 meta nfproto 2 accept",
            "fib daddr type 2 tcp dport 80 dnat ip to 10.0.0.2:8080",
            "tcp dport 9000-9010 dnat ip to 10.0.0.2",
            "sctp dport 1-2 dnat ip6 to [fd77::2]:7",
            "oifname != \"weft-gw\" masquerade",
        ]
    );
    let listing = run(&format!("ip netns exec {} nft list table inet weft", netns.name));
    for part in
        ["hook output priority -101", "hook forward priority filter", "hook postrouting priority srcnat"]
    {
        assert!(listing.contains(part), "{listing}");
    }
    assert!(table.is_as_seen(&nftables.observe(Family::Inet, "weft").unwrap().unwrap()));
}

fn net_address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_table_is_replaced_whole_and_removed_as_often_as_one_likes() {
    if !can_run("nft") {
        return;
    }
    let netns = Netns::new("f");
    let mut nftables = Nftables::open(&netns.namespace).unwrap();
    assert_eq!(nftables.observe(Family::Ip, "weft"), Ok(None));
    for port in [1053, 1054] {
        nftables.replace(&name_service("127.0.0.11", port)).unwrap();
        let rule = |protocol| format!("ip daddr 127.0.0.11 {protocol} dport 53 dnat to 127.0.0.11:{port}");
        assert_eq!(rules_by_nft(&netns, "ip"), [rule("udp"), rule("tcp")]);
    }
    // One that the kernel refuses changes nothing, and the reason names the table.
    let mut wrong = name_service("127.0.0.11", 1055);
    wrong.chains[0].hook.kind = ChainKind::Filter;
    let error = nftables.replace(&wrong).unwrap_err().to_string();
    assert!(error.starts_with("write the nftables table weft: "), "{error}");
    assert!(rules_by_nft(&netns, "ip")[0].ends_with(":1054"));
    for _ in 0..2 {
        nftables.remove(Family::Ip, "weft").unwrap();
        assert_eq!(nftables.observe(Family::Ip, "weft"), Ok(None));
    }
}

#[test]
fn whatever_somebody_changes_in_a_table_is_seen() {
    if !can_run("nft") {
        return;
    }
    let netns = Netns::new("f");
    let mut nftables = Nftables::open(&netns.namespace).unwrap();
    let table = name_service("127.0.0.11", 1053);
    let foreign = [
        "add rule ip weft output accept",
        "flush chain ip weft output",
        "add chain ip weft more",
        "delete rule ip weft output handle 2",
        "replace rule ip weft output handle 3 drop",
    ];
    for change in foreign {
        nftables.replace(&table).unwrap();
        let seen = nftables.observe(Family::Ip, "weft").unwrap().unwrap();
        assert!(table.is_as_seen(&seen), "{seen:?}");
        run(&format!("ip netns exec {} nft {change}", netns.name));
        let seen = nftables.observe(Family::Ip, "weft").unwrap().unwrap();
        assert!(!table.is_as_seen(&seen), "{change}: {seen:?}");
    }
    run(&format!("ip netns exec {} nft delete table ip weft", netns.name));
    assert_eq!(nftables.observe(Family::Ip, "weft"), Ok(None));
}

#[test]
fn a_sockets_table_is_nobody_elses_and_goes_with_the_socket() {
    if !can_run("nft") {
        return;
    }
    let netns = Netns::new("f");
    let mut nftables = Nftables::open(&netns.namespace).unwrap();
    let owned = |port| Table { lifetime: Lifetime::OfSocket, ..name_service("127.0.0.11", port) };
    for port in [1053, 1054] {
        nftables.replace(&owned(port)).unwrap();
        assert!(rules_by_nft(&netns, "ip")[0].ends_with(&port.to_string()));
    }
    let mut other = Nftables::open(&netns.namespace).unwrap();
    assert!(other.replace(&owned(1055)).is_err());
    drop(other);
    assert!(owned(1054).is_as_seen(&nftables.observe(Family::Ip, "weft").unwrap().unwrap()));
    drop(nftables);
    let mut other = Nftables::open(&netns.namespace).unwrap();
    // The kernel removes it as soon as it has noticed the end of the socket, in the background.
    lab::wait_for("the table goes", || (other.observe(Family::Ip, "weft") == Ok(None)).then_some(()));
}

#[test]
fn a_rule_in_a_table_of_iptables_is_one_that_iptables_understands() {
    if !can_run("nft") || !can_run("iptables-nft") {
        return;
    }
    let netns = Netns::new("f");
    let iptables = |arguments: &str| run(&format!("ip netns exec {} iptables-nft {arguments}", netns.name));
    iptables("-P FORWARD DROP");
    iptables("-A FORWARD -s 10.9.9.9 -j ACCEPT");
    let mut nftables = Nftables::open(&netns.namespace).unwrap();
    let place = (Family::Ip, "filter", "FORWARD");
    let rules = [
        Rule::new([Term::InputLike("weftg".to_owned())], Verdict::Accept),
        Rule::new([Term::Output("weft-gw".to_owned())], Verdict::Accept),
    ];
    nftables.append(place, &rules).unwrap();
    let marks = rules.each_ref().map(|rule| rule.mark(Family::Ip));
    let ours = |at, mark| format!("-A FORWARD -{at} -m comment --comment \"{mark}\" -j ACCEPT\n");
    let last =
        format!("-s 10.9.9.9/32 -j ACCEPT\n{}{}", ours("i weftg+", &marks[0]), ours("o weft-gw", &marks[1]));
    let listing = iptables("-S FORWARD");
    assert!(listing.ends_with(&last), "{listing}");
    let seen = nftables.observe(Family::Ip, "filter").unwrap().unwrap();
    let chain = seen.chains.iter().find(|chain| chain.name == "FORWARD").unwrap();
    assert_eq!(chain.hook.map(|hook| (hook.point, hook.policy)), Some((HookPoint::Forward, Policy::Drop)));
    let marks = marks.map(Some);
    let ours: Vec<u64> =
        chain.rules.iter().filter(|rule| marks.contains(&rule.mark)).map(|rule| rule.handle).collect();
    assert_eq!((ours.len(), chain.rules.len()), (2, 3));
    nftables.remove_rules(place, &ours).unwrap();
    assert_eq!(iptables("-S FORWARD"), "-P FORWARD DROP\n-A FORWARD -s 10.9.9.9/32 -j ACCEPT\n");
}

#[test]
fn what_bridges_forward_is_told_apart_limited_and_counted() {
    if !can_run("nft") {
        return;
    }
    let netns = Netns::new("n");
    let out = || Term::OutputLike("weft-vx".to_owned());
    let rules = vec![
        Rule::new([out(), Term::Protocol(Protocol::Igmp)], Verdict::Drop),
        Rule::new([out(), Term::Protocol(Protocol::Icmpv6), Term::IcmpType(130..=132)], Verdict::Drop),
        Rule::new(
            [out(), Term::ToMany, Term::Above("senders".to_owned(), 100), Term::Counted],
            Verdict::Drop,
        ),
    ];
    let table = Table {
        sets: vec!["senders".to_owned()],
        ..table(Family::Bridge, vec![("forwarded", FORWARD, rules)])
    };
    let mut nftables = Nftables::open(&netns.namespace).unwrap();
    // Twice: it takes its own place.
    for _ in 0..2 {
        nftables.replace(&table).unwrap();
        let seen = nftables.observe(Family::Bridge, "weft").unwrap().unwrap();
        assert!(table.is_as_seen(&seen), "{seen:?}");
        let counted: Vec<_> = seen.chains[0].rules.iter().map(|rule| rule.packets).collect();
        assert_eq!(counted, [None, None, Some(0)]);
    }
    let told = run(&format!("ip netns exec {} nft list table bridge weft", netns.name));
    for words in [
        "type filter hook forward priority 0; policy accept;",
        "oifname \"weft-vx*\" meta l4proto igmp drop",
        "oifname \"weft-vx*\" icmpv6 type 130-132 drop",
        "update @senders { iif timeout 1m limit rate over 100/second burst 100 packets } counter packets 0 bytes 0 drop",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    nftables.remove(Family::Bridge, "weft").unwrap();
    assert_eq!(nftables.observe(Family::Bridge, "weft").unwrap(), None);
}
