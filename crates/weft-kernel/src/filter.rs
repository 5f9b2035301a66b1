//! What may not leave the overlay namespace by VXLAN devices: the nftables table `bridge weft` there.
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
        Chain, ChainKind, Family, Hook, HookPoint, Lifetime, Nftables, Policy, Protocol, Rule, Table, Term,
        Verdict,
    },
};
use nix::libc;
use weft_plan::Filter;

const TABLE: &str = "weft";
/// What the names of VXLAN devices begin with: see [`weft_plan::vxlan_name`].
const VXLAN_DEVICES: &str = "weft-vx";

/// The filter, whatever there is of it.
pub(crate) fn observe(host: &Host) -> Result<Option<Filter>, KernelError> {
    let seen = Nftables::open(&host.overlay_namespace)?.observe(Family::Bridge, TABLE)?;
    Ok(seen.map(|seen| Filter { sound: table().is_as_seen(&seen) }))
}

/// Makes it, or makes it what it should be.
pub(crate) fn ensure(host: &Host) -> Result<(), KernelError> {
    Nftables::open(&host.overlay_namespace)?.replace(&table())
}

/// Removes it, if it is there.
pub(crate) fn remove(host: &Host) -> Result<(), KernelError> {
    Nftables::open(&host.overlay_namespace)?.remove(Family::Bridge, TABLE)
}

/// Whether this kernel can have it: tried in a namespace that is thrown away.
pub(crate) fn is_possible() -> Result<bool, KernelError> {
    in_throw_away(|| match Nftables::open_here()?.replace(&table()) {
        Ok(()) => Ok(true),
        // No nftables at all, no family of bridges, a kind of expression that is not there.
        Err(error) if [libc::EOPNOTSUPP, libc::EAFNOSUPPORT, libc::ENOENT].contains(&error.errno()) => {
            Ok(false)
        }
        Err(error) => Err(error),
    })?
}

fn table() -> Table {
    let chain = |name: &str, point| Chain {
        name: name.to_owned(),
        hook: Hook { kind: ChainKind::Filter, point, priority: 0, policy: Policy::Accept },
        rules: memberships_stay_here(),
    };
    // Reports of containers are forwarded; queries are the bridge's own.
    let chains = vec![chain("forwarded", HookPoint::Forward), chain("own", HookPoint::Output)];
    Table { family: Family::Bridge, name: TABLE.to_owned(), lifetime: Lifetime::Unlimited, chains }
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
