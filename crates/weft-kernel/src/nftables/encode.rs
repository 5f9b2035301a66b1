//! Tables as the kernel's messages (`linux/netfilter/nf_tables.h`), each term as the expressions that `nft` makes of it.

use super::{Chain, ChainKind, Family, Hook, HookPoint, Lifetime, Policy, Rule, Table, Term, Verdict};
use ipnet::IpNet;
use netlink_bindings::{
    nftables::{
        Chained, CmpOps, CtKeys, FibFlags, MetaKeys, Nfgenmsg, PayloadBase, PushExprListAttrs, PushRuleAttrs,
        Registers, SetFlags, TableFlags, VerdictCode,
    },
    traits::Pusher,
};
use nix::libc;
use std::net::IpAddr;

/// Values are compared in this register, and addresses handed to NAT; it holds 16 bytes.
const REGISTER: u32 = Registers::Reg1 as u32;
/// The port for NAT.
const PORT_REGISTER: u32 = Registers::Reg2 as u32;
/// `linux/netlink.h`: the subsystem that a batch is for, `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
/// `NFT_FIB_RESULT_ADDRTYPE`: the crate's enum begins at 0, the kernel's at 1.
const FIB_ADDRESS_TYPE: u32 = 3;
/// `RTN_LOCAL` of `linux/rtnetlink.h`.
const TYPE_LOCAL: u32 = 2;
/// `IPS_DST_NAT` of `linux/netfilter/nf_conntrack_common.h`.
const STATUS_DESTINATION_NAT: u32 = 1 << 5;
/// `NFT_NAT_DNAT`.
const NAT_DESTINATION: u32 = 1;
/// Of `linux/netfilter/nf_tables.h`: `NFTA_EXPR_*`, `NFTA_DYNSET_*` and `NFTA_LIMIT_*`.
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DYNSET_NAME: u16 = 1;
const DYNSET_OP: u16 = 3;
const DYNSET_KEY: u16 = 4;
const DYNSET_TIMEOUT: u16 = 6;
const DYNSET_EXPRESSION: u16 = 7;
/// `NFT_DYNSET_OP_UPDATE`: what is there stays, with its time to live renewed.
const DYNSET_UPDATE: u32 = 1;
const LIMIT_RATE: u16 = 1;
const LIMIT_UNIT: u16 = 2;
const LIMIT_BURST: u16 = 3;
const LIMIT_FLAGS: u16 = 5;
/// `NFT_LIMIT_F_INV`: true above the rate.
const LIMIT_INVERTED: u32 = 1;
const NESTED: u16 = 0x8000;
/// How `nft` shows a set's keys: its number for interfaces.
const TYPE_INTERFACE: u32 = 20;
/// An interface that has sent nothing for a minute is not remembered, in milliseconds.
const FORGOTTEN_AFTER: u64 = 60_000;
/// The tag of a comment in user data, for tables, chains and rules alike (libnftnl's `udata.h`).
const UDATA_COMMENT: u8 = 0;
/// Offsets in the IPv4 and IPv6 headers, in bytes.
const SOURCE_OFFSETS: (u32, u32) = (12, 8);
const DESTINATION_OFFSETS: (u32, u32) = (16, 24);
/// An interface's name as the kernel compares it: with zeros to its end.
const NAME_SIZE: usize = 16;

impl Family {
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
            Self::Bridge => 7,
        }
    }
}

pub(super) fn header(family: Family) -> Nfgenmsg {
    Nfgenmsg { nfgen_family: family.number(), ..Nfgenmsg::new() }
}

/// The header of the messages that begin and end a transaction.
pub(super) fn batch_header() -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.set_res_id(SUBSYSTEM);
    header
}

/// The messages that put `table` in place of whatever has its name. A table that is to be removed must be there, hence the
/// first.
pub(super) fn replacement(batch: &mut Chained<'_>, table: &Table) {
    let (header, name) = (header(table.family), table.name.as_bytes());
    new_table(batch, table);
    batch.request().op_deltable_do(&header).encode().push_name_bytes(name);
    new_table(batch, table);
    for (number, set) in (1..).zip(&table.sets) {
        new_set(batch, table, set, number);
    }
    for chain in &table.chains {
        new_chain(batch, table, chain);
    }
    for chain in &table.chains {
        for rule in &chain.rules {
            let mut request = batch.request().set_create().set_append().op_newrule_do(&header);
            new_rule(request.encode(), table.family, &table.name, &chain.name, rule);
        }
    }
}

fn new_table(batch: &mut Chained<'_>, table: &Table) {
    let flags = match table.lifetime {
        Lifetime::Unlimited => 0,
        Lifetime::OfSocket => TableFlags::Owner as u32,
    };
    let mut request = batch.request().set_create().op_newtable_do(&header(table.family));
    request.encode().push_name_bytes(table.name.as_bytes()).push_flags(flags);
}

/// A set of interfaces by index, filled by rules. What has not been seen for a while leaves it by itself.
fn new_set(batch: &mut Chained<'_>, table: &Table, name: &str, number: u32) {
    let mut request = batch.request().set_create().op_newset_do(&header(table.family));
    request
        .encode()
        .push_table_bytes(table.name.as_bytes())
        .push_name_bytes(name.as_bytes())
        .push_flags(SetFlags::Timeout as u32 | SetFlags::Eval as u32)
        .push_key_type(TYPE_INTERFACE)
        .push_key_len(4)
        .push_id(number);
}

fn new_chain(batch: &mut Chained<'_>, table: &Table, chain: &Chain) {
    let Hook { kind, point, priority, policy } = chain.hook;
    let kind = match kind {
        ChainKind::Filter => c"filter",
        ChainKind::Nat => c"nat",
    };
    let mut request = batch.request().set_create().op_newchain_do(&header(table.family));
    request
        .encode()
        .push_table_bytes(table.name.as_bytes())
        .push_name_bytes(chain.name.as_bytes())
        .nested_hook()
        .push_num(point as u32)
        .push_priority(priority)
        .end_nested()
        .push_policy(policy.number())
        .push_type(kind);
}

impl Policy {
    /// `NF_DROP` and `NF_ACCEPT`.
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
        }
    }
}

impl HookPoint {
    pub(super) fn of(number: u32) -> Option<Self> {
        let all = [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting];
        all.into_iter().find(|point| *point as u32 == number)
    }
}

pub(super) fn new_rule(
    attributes: PushRuleAttrs<&mut Vec<u8>>,
    family: Family,
    table: &str,
    chain: &str,
    rule: &Rule,
) {
    let attributes = attributes.push_table_bytes(table.as_bytes()).push_chain_bytes(chain.as_bytes());
    expressions(attributes, family, rule).push_userdata(&comment(&rule.mark(family)));
}

/// A comment as user data: tag, length, text and a zero.
fn comment(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    let mut data = vec![UDATA_COMMENT, length];
    data.extend(text.as_bytes().iter().take(usize::from(length) - 1));
    data.push(0);
    data
}

/// The comment in user data.
pub(super) fn comment_in(mut data: &[u8]) -> Option<String> {
    while let [tag, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *tag == UDATA_COMMENT {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
        data = &rest[value.len()..];
    }
    None
}

/// A rule's expressions, as an attribute of the rule.
pub(super) fn expressions<P: Pusher>(
    attributes: PushRuleAttrs<P>,
    family: Family,
    rule: &Rule,
) -> PushRuleAttrs<P> {
    let list = attributes.nested_expressions();
    let list = rule.terms.iter().fold(list, |list, term| self::term(list, family, term));
    verdict(list, &rule.verdict).end_nested()
}

fn term<P: Pusher>(list: PushExprListAttrs<P>, family: Family, term: &Term) -> PushExprListAttrs<P> {
    use CmpOps::{Eq, Neq};
    let by_address = |list, net: &IpNet, offsets: (u32, u32), op| {
        let list = if family == Family::Inet { is_ipv4(list, net.addr().is_ipv4()) } else { list };
        address(list, net, offsets, op)
    };
    match term {
        Term::Source(net) => by_address(list, net, SOURCE_OFFSETS, Eq),
        Term::SourceNot(net) => by_address(list, net, SOURCE_OFFSETS, Neq),
        Term::Destination(net) => by_address(list, net, DESTINATION_OFFSETS, Eq),
        Term::DestinationNot(net) => by_address(list, net, DESTINATION_OFFSETS, Neq),
        Term::DestinationIsLocal => {
            let list = list
                .nested_elem()
                .nested_data_fib()
                .push_dreg(REGISTER)
                .push_result(FIB_ADDRESS_TYPE)
                .push_flags(FibFlags::Daddr as u32)
                .end_nested()
                .end_nested();
            compare(list, Eq, &TYPE_LOCAL.to_ne_bytes())
        }
        Term::IsIpv4(v4) => is_ipv4(list, *v4),
        Term::Protocol(protocol) => compare(meta(list, MetaKeys::L4Proto), Eq, &[*protocol as u8]),
        Term::IcmpType(types) => {
            let list = payload(list, PayloadBase::TransportHeader, 0, 1);
            within(list, [*types.start()], [*types.end()])
        }
        Term::DestinationPort(ports) => {
            let list = payload(list, PayloadBase::TransportHeader, 2, 2);
            within(list, ports.start().to_be_bytes(), ports.end().to_be_bytes())
        }
        Term::Input(name) => compare(meta(list, MetaKeys::Iifname), Eq, &interface(name)),
        Term::InputNot(name) => compare(meta(list, MetaKeys::Iifname), Neq, &interface(name)),
        // Fewer bytes than a name has: what follows does not matter.
        Term::InputLike(start) => compare(meta(list, MetaKeys::Iifname), Eq, start.as_bytes()),
        Term::OutputLike(start) => compare(meta(list, MetaKeys::Oifname), Eq, start.as_bytes()),
        Term::OutputNotLike(start) => compare(meta(list, MetaKeys::Oifname), Neq, start.as_bytes()),
        Term::Output(name) => compare(meta(list, MetaKeys::Oifname), Eq, &interface(name)),
        Term::OutputNot(name) => compare(meta(list, MetaKeys::Oifname), Neq, &interface(name)),
        Term::ConnectionState(states) => connection(list, CtKeys::State, *states),
        Term::DestinationTranslated => connection(list, CtKeys::Status, STATUS_DESTINATION_NAT),
        // The first bit on the wire of the destination's MAC address.
        Term::ToMany => compare(and(payload(list, PayloadBase::LinkLayerHeader, 0, 1), &[1]), Eq, &[1]),
        Term::Above(set, rate) => above(meta(list, MetaKeys::Iif), set, *rate),
        Term::Counted => list.nested_elem().push_name(c"counter").end_nested(),
    }
}

/// `update @SET { REGISTER limit rate over RATE/second burst RATE packets }`. The crate has neither expression: their attributes
/// are written here.
fn above<P: Pusher>(list: PushExprListAttrs<P>, set: &str, rate: u32) -> PushExprListAttrs<P> {
    let mut limit = Vec::new();
    attribute(&mut limit, LIMIT_RATE, &u64::from(rate).to_be_bytes());
    attribute(&mut limit, LIMIT_UNIT, &1u64.to_be_bytes());
    attribute(&mut limit, LIMIT_BURST, &rate.to_be_bytes());
    attribute(&mut limit, LIMIT_FLAGS, &LIMIT_INVERTED.to_be_bytes());
    let mut expression = Vec::new();
    attribute(&mut expression, EXPRESSION_NAME, b"limit\0");
    attribute(&mut expression, EXPRESSION_DATA | NESTED, &limit);
    let mut data = Vec::new();
    attribute(&mut data, DYNSET_NAME, &[set.as_bytes(), b"\0"].concat());
    attribute(&mut data, DYNSET_OP, &DYNSET_UPDATE.to_be_bytes());
    attribute(&mut data, DYNSET_KEY, &REGISTER.to_be_bytes());
    attribute(&mut data, DYNSET_TIMEOUT, &FORGOTTEN_AFTER.to_be_bytes());
    attribute(&mut data, DYNSET_EXPRESSION | NESTED, &expression);
    let mut element = list.nested_elem().push_name(c"dynset");
    attribute(element.as_vec_mut(), EXPRESSION_DATA | NESTED, &data);
    element.end_nested()
}

/// None here is longer than some tens of bytes.
fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(u16::try_from(4 + value.len()).unwrap_or(u16::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn is_ipv4<P: Pusher>(list: PushExprListAttrs<P>, v4: bool) -> PushExprListAttrs<P> {
    let family = if v4 { Family::Ip } else { Family::Ip6 };
    compare(meta(list, MetaKeys::Nfproto), CmpOps::Eq, &[family.number()])
}

fn interface(name: &str) -> [u8; NAME_SIZE] {
    let mut bytes = [0; NAME_SIZE];
    for (to, from) in bytes.iter_mut().zip(name.bytes().take(NAME_SIZE - 1)) {
        *to = from;
    }
    bytes
}

fn address<P: Pusher>(
    list: PushExprListAttrs<P>,
    net: &IpNet,
    (v4, v6): (u32, u32),
    op: CmpOps,
) -> PushExprListAttrs<P> {
    let (offset, network, mask) = match net {
        IpNet::V4(net) => (v4, net.network().octets().to_vec(), net.netmask().octets().to_vec()),
        IpNet::V6(net) => (v6, net.network().octets().to_vec(), net.netmask().octets().to_vec()),
    };
    let mut list = payload(list, PayloadBase::NetworkHeader, offset, length(&mask));
    if net.prefix_len() < net.max_prefix_len() {
        list = and(list, &mask);
    }
    compare(list, op, &network)
}

/// Whether any of the bits is set.
fn connection<P: Pusher>(list: PushExprListAttrs<P>, key: CtKeys, bits: u32) -> PushExprListAttrs<P> {
    let list = list
        .nested_elem()
        .nested_data_ct()
        .push_dreg(REGISTER)
        .push_key(key as u32)
        .end_nested()
        .end_nested();
    compare(and(list, &bits.to_ne_bytes()), CmpOps::Neq, &[0; 4])
}

fn meta<P: Pusher>(list: PushExprListAttrs<P>, key: MetaKeys) -> PushExprListAttrs<P> {
    list.nested_elem().nested_data_meta().push_dreg(REGISTER).push_key(key as u32).end_nested().end_nested()
}

fn payload<P: Pusher>(
    list: PushExprListAttrs<P>,
    base: PayloadBase,
    offset: u32,
    length: u32,
) -> PushExprListAttrs<P> {
    list.nested_elem()
        .nested_data_payload()
        .push_dreg(REGISTER)
        .push_base(base as u32)
        .push_offset(offset)
        .push_len(length)
        .end_nested()
        .end_nested()
}

fn and<P: Pusher>(list: PushExprListAttrs<P>, mask: &[u8]) -> PushExprListAttrs<P> {
    let nothing = vec![0; mask.len()];
    list.nested_elem()
        .nested_data_bitwise()
        .push_sreg(REGISTER)
        .push_dreg(REGISTER)
        .push_len(length(mask))
        .nested_mask()
        .push_value(mask)
        .end_nested()
        .nested_xor()
        .push_value(&nothing)
        .end_nested()
        .end_nested()
        .end_nested()
}

fn compare<P: Pusher>(list: PushExprListAttrs<P>, op: CmpOps, value: &[u8]) -> PushExprListAttrs<P> {
    list.nested_elem()
        .nested_data_cmp()
        .push_sreg(REGISTER)
        .push_op(op as u32)
        .nested_data()
        .push_value(value)
        .end_nested()
        .end_nested()
        .end_nested()
}

fn within<P: Pusher, const N: usize>(
    list: PushExprListAttrs<P>,
    low: [u8; N],
    high: [u8; N],
) -> PushExprListAttrs<P> {
    if low == high {
        compare(list, CmpOps::Eq, &low)
    } else {
        compare(compare(list, CmpOps::Gte, &low), CmpOps::Lte, &high)
    }
}

fn verdict<P: Pusher>(list: PushExprListAttrs<P>, verdict: &Verdict) -> PushExprListAttrs<P> {
    match verdict {
        Verdict::Accept => decide(list, VerdictCode::Accept),
        Verdict::Drop => decide(list, VerdictCode::Drop),
        // It has attributes only for ranges of ports.
        Verdict::Masquerade => list.nested_elem().push_name(c"masq").end_nested(),
        Verdict::DestinationNat(address, port) => destination_nat(list, *address, *port),
    }
}

fn decide<P: Pusher>(list: PushExprListAttrs<P>, code: VerdictCode) -> PushExprListAttrs<P> {
    let code = u32::try_from(code as i64).unwrap_or_default();
    list.nested_elem()
        .nested_data_immediate()
        .push_dreg(Registers::RegVerdict as u32)
        .nested_data()
        .nested_verdict()
        .push_code(code)
        .end_nested()
        .end_nested()
        .end_nested()
        .end_nested()
}

fn destination_nat<P: Pusher>(
    list: PushExprListAttrs<P>,
    address: IpAddr,
    port: Option<u16>,
) -> PushExprListAttrs<P> {
    let (family, octets) = match address {
        IpAddr::V4(v4) => (libc::NFPROTO_IPV4, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::NFPROTO_IPV6, v6.octets().to_vec()),
    };
    let mut list = load(list, REGISTER, &octets);
    if let Some(port) = port {
        list = load(list, PORT_REGISTER, &port.to_be_bytes());
    }
    let mut nat = list
        .nested_elem()
        .nested_data_nat()
        .push_type(NAT_DESTINATION)
        .push_family(family.unsigned_abs())
        .push_reg_addr_min(REGISTER);
    if port.is_some() {
        nat = nat.push_reg_proto_min(PORT_REGISTER);
    }
    nat.end_nested().end_nested()
}

fn load<P: Pusher>(list: PushExprListAttrs<P>, register: u32, value: &[u8]) -> PushExprListAttrs<P> {
    list.nested_elem()
        .nested_data_immediate()
        .push_dreg(register)
        .nested_data()
        .push_value(value)
        .end_nested()
        .end_nested()
        .end_nested()
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_found_among_other_user_data() {
        let mut data = vec![7, 2, 1, 2];
        data.extend(comment("weft 1"));
        assert_eq!(comment_in(&data).as_deref(), Some("weft 1"));
        assert_eq!(comment_in(&data[..data.len() - 1]), None);
        assert_eq!(comment_in(&[]), None);
    }
}
