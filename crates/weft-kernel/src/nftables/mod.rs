//! Tables of packet filter rules (nftables), spoken to by netlink; no `nft` program is needed.
//!
//! A [`Table`] is a value: chains made of rules, rules made of few typed terms and a verdict. [`Nftables::replace`]
//! puts it in place of the one of that name in one transaction, so no packet ever meets half of it. Every rule carries
//! a mark made of its content as its comment; [`Nftables::observe`] reads the marks back, and so a rule that somebody
//! removed, altered or added is seen ([`Table::is_as_seen`]).
//!
//! Source: nft(8), `linux/netfilter/nf_tables.h`. A table with [`Lifetime::OfSocket`] needs Linux 5.12.

use ipnet::IpNet;
use netlink_bindings::nftables::PushRuleAttrs;
use std::{net::IpAddr, ops::RangeInclusive};

mod encode;
mod socket;

pub use socket::Nftables;

/// What kind of packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Frames of any kind that a bridge forwards, takes in or sends.
    Bridge,
}

/// How long a table is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifetime {
    /// Until somebody removes it.
    #[default]
    Unlimited,
    /// Until the [`Nftables`] that made it is dropped, in whatever way the process ends; nobody else can change it.
    OfSocket,
}

/// A table of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What it sees.
    pub family: Family,
    /// Its name; unique in its family and namespace.
    pub name: String,
    /// How long it is there.
    pub lifetime: Lifetime,
    /// Its sets of interfaces, by name, which rules with [`Term::Above`] fill.
    pub sets: Vec<String>,
    /// Its chains.
    pub chains: Vec<Chain>,
}

impl Table {
    /// Whether what was seen is this table.
    pub fn is_as_seen(&self, seen: &SeenTable) -> bool {
        self.chains.len() == seen.chains.len()
            && self.chains.iter().all(|chain| {
                let same_name = |seen: &&SeenChain| seen.name == chain.name;
                seen.chains.iter().find(same_name).is_some_and(|seen| self.is_chain_as_seen(chain, seen))
            })
    }

    fn is_chain_as_seen(&self, chain: &Chain, seen: &SeenChain) -> bool {
        let marks = chain.rules.iter().map(|rule| rule.mark(self.family));
        let there = seen.rules.iter().map(|rule| rule.mark.clone().unwrap_or_default());
        seen.hook == Some(chain.hook) && marks.eq(there)
    }
}

/// A chain of rules that packets pass at a hook, in the order of its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name; unique in the table.
    pub name: String,
    /// Where packets meet it.
    pub hook: Hook,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// Where packets meet a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// What its rules may do.
    pub kind: ChainKind,
    /// On which part of a packet's way.
    pub point: HookPoint,
    /// Chains at one point are passed from the lowest to the highest; destination NAT is at -100, source NAT at 100, filters
    /// at 0.
    pub priority: i32,
    /// What happens to packets that no rule decides on.
    pub policy: Policy,
}

/// What a chain's rules may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Accept or drop.
    Filter,
    /// Translate addresses: only the first packet of a connection comes here.
    Nat,
}

/// On which part of a packet's way; the numbers are the kernel's `nf_inet_hooks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookPoint {
    /// Just received.
    Prerouting = 0,
    /// For this host.
    Input = 1,
    /// On its way through.
    Forward = 2,
    /// Made by this host.
    Output = 3,
    /// About to leave.
    Postrouting = 4,
}

/// What happens to packets that no rule of a chain decides on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// They go on.
    Accept,
    /// They end here.
    Drop,
}

/// A rule: what all its terms hold for gets the verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The conditions; all must hold.
    pub terms: Vec<Term>,
    /// What happens then.
    pub verdict: Verdict,
    /// Words for people that are read back with the rule's mark.
    pub note: Option<String>,
}

impl Rule {
    /// A rule.
    pub fn new(terms: impl Into<Vec<Term>>, verdict: Verdict) -> Self {
        Self { terms: terms.into(), verdict, note: None }
    }

    /// The same with a note: at most 100 bytes.
    #[must_use]
    pub fn noted(self, note: String) -> Self {
        Self { note: Some(note), ..self }
    }

    /// What is written into the kernel's rule as its comment: the same for the same rule in the same family.
    pub fn mark(&self, family: Family) -> String {
        let mut bytes = Vec::new();
        let _ = encode::expressions(PushRuleAttrs::new(&mut bytes), family, self);
        let note = self.note.as_ref().map(|note| format!(" {note}")).unwrap_or_default();
        format!("weft {:016x}{note}", fnv1a(&bytes))
    }
}

/// The hash of Fowler, Noll and Vo (1a, 64 bits): told apart is what people alter, not what they forge.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// One condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    /// The source address is in this network.
    Source(IpNet),
    /// The source address is not in it.
    SourceNot(IpNet),
    /// The destination address is in this network.
    Destination(IpNet),
    /// The destination address is not in it.
    DestinationNot(IpNet),
    /// The destination address is one of this host's.
    DestinationIsLocal,
    /// The packet is of this address family (where the table sees both).
    IsIpv4(bool),
    /// The protocol above IP, and above IPv6's extension headers. In tables of bridges, of frames that are IP.
    Protocol(Protocol),
    /// The ICMP message's type is in this range. Wants a [`Term::Protocol`] before it.
    IcmpType(RangeInclusive<u8>),
    /// The destination port is in this range. Wants a [`Term::Protocol`] before it.
    DestinationPort(RangeInclusive<u16>),
    /// It came in by this interface.
    Input(String),
    /// It did not come in by it.
    InputNot(String),
    /// It came in by an interface whose name begins like this.
    InputLike(String),
    /// It leaves by such an interface.
    OutputLike(String),
    /// It does not leave by such an interface.
    OutputNotLike(String),
    /// It leaves by this interface.
    Output(String),
    /// It does not leave by it.
    OutputNot(String),
    /// Its connection is in one of these states (of [`ct`]).
    ConnectionState(u32),
    /// Its connection's destination was translated.
    DestinationTranslated,
    /// The frame is a broadcast or multicast. In tables of bridges.
    ToMany,
    /// More such packets came in by its interface than so many a second, of which one second's may come at once. What is known
    /// of the interfaces is kept in this set of the table.
    Above(String, u32),
    /// Counts what has come so far: see [`SeenRule::packets`].
    Counted,
}

/// States of a connection, to be or-ed in [`Term::ConnectionState`].
pub mod ct {
    /// Belongs to none and makes none.
    pub const INVALID: u32 = 1;
    /// Packets were seen both ways.
    pub const ESTABLISHED: u32 = 2;
    /// Made by another: an ICMP error.
    pub const RELATED: u32 = 4;
    /// The first packet.
    pub const NEW: u32 = 8;
}

/// Protocols above IP; the numbers are IANA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// IGMP.
    Igmp = 2,
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// ICMP for IPv6.
    Icmpv6 = 58,
    /// SCTP.
    Sctp = 132,
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, past the rest of this chain. Chains of others may still drop it.
    Accept,
    /// It ends here, whatever others say.
    Drop,
    /// Its source becomes the address of the interface that it leaves by. In chains of kind NAT, postrouting.
    Masquerade,
    /// Its destination becomes this; without a port, the port stays. In chains of kind NAT, prerouting and output.
    DestinationNat(IpAddr, Option<u16>),
}

/// A table as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenTable {
    /// Its chains.
    pub chains: Vec<SeenChain>,
}

/// A chain as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenChain {
    /// Its name.
    pub name: String,
    /// Where packets meet it; `None`: nowhere by itself, or in a way that weft does not use.
    pub hook: Option<Hook>,
    /// Its rules.
    pub rules: Vec<SeenRule>,
}

/// A rule as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenRule {
    /// The kernel's number for it.
    pub handle: u64,
    /// Its comment: see [`Rule::mark`].
    pub mark: Option<String>,
    /// What its [`Term::Counted`] has counted.
    pub packets: Option<u64>,
}

impl SeenRule {
    /// The note in its mark, if it is a rule of weft's that has one.
    pub fn note(&self) -> Option<&str> {
        self.mark.as_deref()?.strip_prefix("weft ")?.split_once(' ').map(|(_, note)| note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(port: u16) -> Rule {
        let to = Verdict::DestinationNat(IpAddr::from([10, 0, 0, 2]), Some(80));
        Rule::new([Term::Protocol(Protocol::Tcp), Term::DestinationPort(port..=port)], to)
    }

    #[test]
    fn a_rules_mark_follows_from_all_of_it() {
        let marks = [
            rule(80).mark(Family::Ip),
            rule(81).mark(Family::Ip),
            Rule { verdict: Verdict::Drop, ..rule(80) }.mark(Family::Ip),
        ];
        assert_eq!(marks[0], rule(80).mark(Family::Ip));
        for (number, mark) in marks.iter().enumerate() {
            assert!(!marks[number + 1..].contains(mark), "{marks:?}");
        }
    }

    #[test]
    fn a_table_is_as_seen_only_with_all_its_rules_and_no_others() {
        let hook =
            Hook { kind: ChainKind::Nat, point: HookPoint::Output, priority: -100, policy: Policy::Accept };
        let chain = Chain { name: "out".to_owned(), hook, rules: vec![rule(80), rule(81)] };
        let (family, lifetime) = (Family::Ip, Lifetime::Unlimited);
        let table = Table { family, name: "t".to_owned(), lifetime, sets: vec![], chains: vec![chain] };
        let seen_rule = |port| SeenRule { handle: 1, mark: Some(rule(port).mark(Family::Ip)), packets: None };
        let seen = |rules, hook| {
            let chain = SeenChain { name: "out".to_owned(), hook, rules };
            SeenTable { chains: vec![chain] }
        };
        assert!(table.is_as_seen(&seen(vec![seen_rule(80), seen_rule(81)], Some(hook))));
        let foreign = SeenRule { handle: 9, mark: None, packets: None };
        for other in [
            seen(vec![seen_rule(80)], Some(hook)),
            seen(vec![seen_rule(81), seen_rule(80)], Some(hook)),
            seen(vec![seen_rule(80), seen_rule(81), foreign], Some(hook)),
            seen(vec![seen_rule(80), seen_rule(81)], None),
            SeenTable::default(),
        ] {
            assert!(!table.is_as_seen(&other), "{other:?}");
        }
    }
}
