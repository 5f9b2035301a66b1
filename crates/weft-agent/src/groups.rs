//! Which multicast groups the endpoints here are members of, told to the other hosts.
//!
//! The bridges learn it (IGMP and MLD snooping), and one record a network tells it ([`Memberships`]): the others send this host
//! frames to these groups and to no other. A network without that record here gets all its multicast sent. So there is none as
//! long as the bridge may not have heard of everybody, and none where there are more groups than [`MOST`]; and nothing is lost
//! where a record could not be written yet, but for a group that was joined while the store is away: nobody can hear of that.
//! What the record says is compared with the bridge at every look, so a store that lost it or came back from a backup is set
//! right like everything else.

use crate::{Agent, AgentError, troubles::Subject};
use std::{collections::BTreeSet, net::IpAddr, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_kernel::Snooped;
use weft_model::{
    NetworkId, encode,
    schema::{self, Memberships, is_told_of},
};
use weft_store::{Outcome, Txn};

/// Groups that a host tells of on a network, at most: a container that joins thousands would fill every host's memory.
const MOST: usize = 256;

/// A burst of joins is one record; nobody waits longer for its first frame than this and the store's answer.
const SETTLE: Duration = Duration::from_millis(100);
/// The same after something was written: a container that joins and leaves all the time keeps no store busy.
const WRITTEN: Duration = Duration::from_millis(500);
/// A look goes through all devices; after it, a rest of this many times as long as it took.
const REST_FACTOR: u32 = 10;
/// Where something is to be looked at again soon: a bridge that has not heard everybody, a record that was not written.
const SOON: Duration = Duration::from_secs(1);
/// What nobody tells of is seen after this long.
const IDLE: Duration = Duration::from_secs(30);

/// Tells the groups until `shutdown`.
pub(crate) async fn keep(agent: Agent, shutdown: CancellationToken) {
    let (mut own, mut link) = (agent.0.view.own(), agent.0.view.link());
    let mut deaf = false;
    loop {
        let (mut wait, mut rest) = (IDLE, SETTLE);
        if !agent.0.outbox.is_away() {
            let outcome = agent.tell_groups().await;
            let (settled, trouble) = match outcome {
                Ok(look) => {
                    rest = look.rest;
                    (look.settled, look.trouble)
                }
                Err(error) => {
                    (false, Some(format!("the multicast groups of this host are not told: {error}")))
                }
            };
            if !settled {
                wait = SOON;
            }
            if agent.0.troubles.set(Subject::Groups, trouble.clone())
                && let Some(trouble) = trouble
            {
                tracing::warn!("{trouble}");
            }
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            changed = own.changed() => if changed.is_err() { return },
            _ = link.changed() => {}
            news = agent.0.kernel.memberships_changed(), if !deaf => if let Err(error) = news {
                tracing::warn!(%error, "news of multicast memberships cannot be had; they are looked at now and then");
                deaf = true;
            },
            () = tokio::time::sleep(wait) => deaf = false,
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// What came of a look.
struct Look {
    /// Nothing is to be done soon.
    settled: bool,
    /// How long to rest then.
    rest: Duration,
    /// What is not as it should be, in words.
    trouble: Option<String>,
}

impl Agent {
    /// Looks once, and writes what is not told rightly.
    async fn tell_groups(&self) -> Result<Look, AgentError> {
        let mut look = Look { settled: true, rest: SETTLE, trouble: None };
        // Before the store has listed its records, one that is not known may be there all the same.
        if !self.0.view.is_listed() {
            return Ok(Look { settled: false, ..look });
        }
        let begun = Instant::now();
        let snooped = self.0.kernel.memberships().await?;
        look.rest = SETTLE.max(begun.elapsed() * REST_FACTOR);
        let node = &self.0.node;
        for network in self.0.view.followed.all() {
            let (here, told, vni, name) = self.read(|s| {
                let mut endpoints = s.endpoints_on(&network);
                let told = s.groups.get(&network).and_then(|all| all.get(node)).cloned();
                let record = s.networks.get(&network);
                let name = record.map(|network| network.display_name().into_owned());
                (endpoints.any(|e| e.node == *node), told, record.map(|network| network.vni), name)
            });
            let snooped = vni.filter(|_| here).and_then(|vni| snooped.get(&vni));
            look.settled &= snooped.is_none_or(|snooped| snooped.complete);
            let wanted = wanted(snooped, told.as_ref());
            if let Err(count) = wanted {
                look.trouble = Some(format!(
                    "the endpoints here are members of {count} multicast groups of network {}, and {MOST} are told of at \
                     most: this host gets all multicast of the network",
                    name.unwrap_or_else(|| network.short())
                ));
            }
            let wanted = wanted.unwrap_or(None);
            if wanted != told {
                look.rest = look.rest.max(WRITTEN);
                look.settled &= self.write_groups(&network, wanted).await?;
            }
        }
        Ok(look)
    }

    /// `false`: the network goes, or this node's record is not there.
    async fn write_groups(
        &self,
        network: &NetworkId,
        wanted: Option<Memberships>,
    ) -> Result<bool, AgentError> {
        let key = schema::groups_key(network, &self.0.node);
        let txn = match wanted {
            Some(wanted) => Txn::new()
                .present(schema::network_key(network))
                .absent(schema::removing_key(network))
                // Not behind the back of `Agent::leave`.
                .present(schema::node_key(&self.0.node))
                .put(key, encode(&wanted)),
            None => Txn::new().present(&key).delete(key),
        };
        Ok(matches!(self.commit(txn).await?, Outcome::Committed(_)))
    }

    /// How multicast goes to other hosts, in the words of `weft status`.
    pub(crate) fn multicast(&self) -> String {
        let features = self.0.kernel.features();
        if !features.groups {
            "flooded to all hosts of a network: VXLAN devices of this kernel cannot tell groups apart (Linux 6.4 can)"
        } else if !features.filter {
            "to the hosts of members; this host gets all: its kernel has no packet filter for bridges (nftables)"
        } else {
            "to the hosts of members"
        }
        .to_owned()
    }
}

/// What is to be told, given what the bridge knows (`None`: it does not snoop, or there is nobody here) and what was told.
/// An error: there are too many groups to tell; so many.
fn wanted(snooped: Option<&Snooped>, told: Option<&Memberships>) -> Result<Option<Memberships>, usize> {
    let Some(snooped) = snooped else { return Ok(None) };
    let mut groups: BTreeSet<IpAddr> =
        snooped.groups.iter().copied().filter(|group| is_told_of(*group)).collect();
    if !snooped.complete {
        // Who was a member may not have been asked yet.
        let Some(told) = told else { return Ok(None) };
        groups.extend(&told.groups);
    }
    if groups.len() > MOST { Err(groups.len()) } else { Ok(Some(Memberships { groups })) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(groups: &[&str]) -> BTreeSet<IpAddr> {
        groups.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn told(groups: &[&str]) -> Memberships {
        Memberships { groups: ips(groups) }
    }

    #[test]
    fn a_bridge_that_has_just_begun_adds_and_takes_nothing_away() {
        let snooped = Snooped { groups: ips(&["239.1.1.2", "ff02::fb"]), complete: false };
        assert_eq!(wanted(Some(&snooped), None), Ok(None));
        let both = told(&["239.1.1.1", "239.1.1.2"]);
        assert_eq!(wanted(Some(&snooped), Some(&told(&["239.1.1.1"]))), Ok(Some(both.clone())));
        let snooped = Snooped { complete: true, ..snooped };
        assert_eq!(wanted(Some(&snooped), Some(&both)), Ok(Some(told(&["239.1.1.2"]))));
        assert_eq!(wanted(None, Some(&both)), Ok(None));
    }

    #[test]
    fn more_groups_than_can_be_told_are_told_of_by_nothing() {
        let groups =
            |n: u16| (0..n).map(|n| IpAddr::from([239, 1, n.to_be_bytes()[0], n.to_be_bytes()[1]])).collect();
        let most = Snooped { groups: groups(256), complete: true };
        assert_eq!(wanted(Some(&most), None).unwrap().unwrap().groups.len(), MOST);
        assert_eq!(wanted(Some(&Snooped { groups: groups(257), complete: true }), None), Err(257));
    }
}
