//! Getting past a firewall that drops what it does not know: Docker sets the policy of iptables' FORWARD chain to DROP.
//!
//! An accept in a table of one's own does not help: every chain at a hook has a say, and one drop is enough. So where the
//! chain `FORWARD` of `filter` (as `iptables-nft` keeps it) drops by policy, two rules for the gateway are put at its end: in
//! the place of the policy, behind everything that Docker or the administrator has decided. They are made of what
//! iptables understands, and are listed by `iptables -S` with weft's mark as a comment. What may pass is decided
//! in weft's own table (`rules`). A firewall kept by `iptables-legacy` cannot be reached like this; `docs/engines.md` tells
//! what to type there.

use crate::{
    KernelError,
    nftables::{Family, HookPoint, Nftables, Policy, Rule, SeenChain, SeenTable, Term, Verdict},
};
use weft_plan::GATEWAY_PORTS;

const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";

fn rules() -> [Rule; 2] {
    [
        Rule::new([Term::InputLike(GATEWAY_PORTS.to_owned())], Verdict::Accept),
        Rule::new([Term::OutputLike(GATEWAY_PORTS.to_owned())], Verdict::Accept),
    ]
}

/// Whether what the gateway forwards is not dropped by the policy of somebody else.
pub(super) fn is_let_through(nftables: &mut Nftables, families: &[Family]) -> Result<bool, KernelError> {
    for family in families {
        let table = nftables.observe(*family, TABLE)?;
        if table.as_ref().and_then(dropping).is_some_and(|chain| missing(chain, *family).next().is_some()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Adds the rules that are missing.
pub(super) fn let_through(nftables: &mut Nftables, families: &[Family]) -> Result<(), KernelError> {
    for family in families {
        let Some(table) = nftables.observe(*family, TABLE)? else { continue };
        let Some(chain) = dropping(&table) else { continue };
        let missing: Vec<Rule> = missing(chain, *family).collect();
        if !missing.is_empty() {
            tracing::info!("the chain {CHAIN} drops by policy: weft's gateway is let through");
            nftables.append((*family, TABLE, CHAIN), &missing)?;
        }
    }
    Ok(())
}

/// Takes the rules away, wherever they are.
pub(super) fn withdraw(nftables: &mut Nftables) -> Result<(), KernelError> {
    for family in [Family::Ip, Family::Ip6] {
        let Some(table) = nftables.observe(family, TABLE)? else { continue };
        let marks = rules().map(|rule| rule.mark(family));
        for chain in &table.chains {
            let ours =
                chain.rules.iter().filter(|rule| rule.mark.as_ref().is_some_and(|m| marks.contains(m)));
            let handles: Vec<u64> = ours.map(|rule| rule.handle).collect();
            if !handles.is_empty() {
                nftables.remove_rules((family, TABLE, &chain.name), &handles)?;
            }
        }
    }
    Ok(())
}

/// The chain that forwarded packets meet and that drops what it does not know.
fn dropping(table: &SeenTable) -> Option<&SeenChain> {
    table.chains.iter().find(|chain| {
        let drops =
            |hook: crate::nftables::Hook| hook.point == HookPoint::Forward && hook.policy == Policy::Drop;
        chain.name == CHAIN && chain.hook.is_some_and(drops)
    })
}

fn missing(chain: &SeenChain, family: Family) -> impl Iterator<Item = Rule> {
    let there: Vec<&String> = chain.rules.iter().filter_map(|rule| rule.mark.as_ref()).collect();
    rules().into_iter().filter(move |rule| !there.contains(&&rule.mark(family)))
}
