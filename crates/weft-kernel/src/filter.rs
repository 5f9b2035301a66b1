//! What may not leave the overlay namespace by VXLAN devices: the nftables table `bridge weft` there.
//!
//! Of broadcast and multicast, what an endpoint sends above its network's rate, counted for each port of a bridge: every such frame
//! is sent to many hosts. Networks with the default rate have one rule together; others have rules of their own before it, from
//! whose notes the rates are read back.
//!
//! IGMP and MLD stay on their host (RFC 2236, 3376, 2710, 3810). Each host's bridges are the queriers for their own ports, and would
//! take the other hosts' for queriers besides them: one that hears another asks no more for 255 s and does not follow up when somebody
//! leaves. Two that hear one another do so in turn, and memberships, which last 260 s, end in between. What others need to know of
//! memberships stands in the store.

use crate::{
    KernelError,
    linux::Host,
    namespace::in_throw_away,
    nftables::{
        Chain, ChainKind, Family, Hook, HookPoint, Lifetime, Nftables, Policy, Protocol, Rule, SeenTable,
        Table, Term, Verdict,
    },
};
use nix::libc;
use std::collections::BTreeMap;
use weft_model::{MulticastRate, Vni};
use weft_plan::{Filter, vxlan_name};

const TABLE: &str = "weft";
/// The set in which the ports' rates are kept.
const SENDERS: &str = "senders";
/// What the note of a network's own rate begins with.
const RATE: &str = "rate of ";
/// What the names of VXLAN devices begin with: see [`weft_plan::vxlan_name`].
const VXLAN_DEVICES: &str = "weft-vx";

/// The filter, whatever there is of it.
pub(crate) fn observe(host: &Host) -> Result<Option<Filter>, KernelError> {
    let seen = Nftables::open(&host.overlay_namespace)?.observe(Family::Bridge, TABLE)?;
    Ok(seen.map(|seen| {
        let found = Filter { rates: rates_in(&seen), sound: false };
        Filter { sound: table(&found).is_as_seen(&seen), ..found }
    }))
}

/// How many frames were dropped because their sender was above its rate, since the table was made.
pub(crate) fn dropped(host: &Host) -> Result<u64, KernelError> {
    let seen = Nftables::open(&host.overlay_namespace)?.observe(Family::Bridge, TABLE)?;
    let rules = seen.iter().flat_map(|seen| &seen.chains).flat_map(|chain| &chain.rules);
    Ok(rules.filter_map(|rule| rule.packets).sum())
}

/// Makes it, or makes it what it should be.
pub(crate) fn ensure(host: &Host, want: &Filter) -> Result<(), KernelError> {
    Nftables::open(&host.overlay_namespace)?.replace(&table(want))
}

/// Removes it, if it is there.
pub(crate) fn remove(host: &Host) -> Result<(), KernelError> {
    Nftables::open(&host.overlay_namespace)?.remove(Family::Bridge, TABLE)
}

/// Whether this kernel can have it: tried in a namespace that is thrown away.
pub(crate) fn is_possible() -> Result<bool, KernelError> {
    let any = Filter { rates: BTreeMap::new(), sound: true };
    let outcome = in_throw_away(|| Nftables::open_here()?.replace(&table(&any)))?;
    // Without netfilter's netlink, without nftables, without the family of bridges, without a kind of expression.
    let lacking = [libc::EPROTONOSUPPORT, libc::EOPNOTSUPP, libc::EAFNOSUPPORT, libc::ENOENT];
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if lacking.contains(&error.errno()) => Ok(false),
        Err(error) => Err(error),
    }
}

fn table(filter: &Filter) -> Table {
    let chain = |name: &str, point, rules| Chain {
        name: name.to_owned(),
        hook: Hook { kind: ChainKind::Filter, point, priority: 0, policy: Policy::Accept },
        rules,
    };
    let mut forwarded = memberships_stay_here();
    forwarded.extend(filter.rates.iter().flat_map(|(vni, rate)| at_its_own_rate(*vni, *rate)));
    let others = Term::OutputLike(VXLAN_DEVICES.to_owned());
    forwarded.extend(MulticastRate::default().limit().map(|rate| above(others, rate)));
    // What containers send is forwarded; queries are the bridge's own.
    let chains = vec![
        chain("forwarded", HookPoint::Forward, forwarded),
        chain("own", HookPoint::Output, memberships_stay_here()),
    ];
    let sets = vec![SENDERS.to_owned()];
    Table { family: Family::Bridge, name: TABLE.to_owned(), lifetime: Lifetime::Unlimited, sets, chains }
}

/// A network's own rules: what is above its rate ends, and all else goes on without meeting the rule of the others.
fn at_its_own_rate(vni: Vni, rate: MulticastRate) -> Vec<Rule> {
    let device = || Term::Output(vxlan_name(vni));
    let limit = rate.limit().map(|rate| above(device(), rate));
    let rest = Rule::new([device()], Verdict::Accept).noted(format!("{RATE}{vni} {rate}"));
    limit.into_iter().chain([rest]).collect()
}

fn above(leaves: Term, rate: u32) -> Rule {
    Rule::new([leaves, Term::ToMany, Term::Above(SENDERS.to_owned(), rate), Term::Counted], Verdict::Drop)
}

/// The rates that a table was made for.
fn rates_in(table: &SeenTable) -> BTreeMap<Vni, MulticastRate> {
    let rules = table.chains.iter().flat_map(|chain| &chain.rules);
    let noted = rules.filter_map(|rule| rule.note()?.strip_prefix(RATE)?.split_once(' '));
    noted.filter_map(|(vni, rate)| Some((vni.parse().ok()?, rate.parse().ok()?))).collect()
}

fn memberships_stay_here() -> Vec<Rule> {
    let leaves = || Term::OutputLike(VXLAN_DEVICES.to_owned());
    let mld = |types| {
        let terms = [leaves(), Term::Protocol(Protocol::Icmpv6), Term::IcmpType(types)];
        Rule::new(terms, Verdict::Drop)
    };
    vec![
        Rule::new([leaves(), Term::Protocol(Protocol::Igmp)], Verdict::Drop),
        // Query, report and done of MLD; report of MLDv2.
        mld(130..=132),
        mld(143..=143),
    ]
}
