//! Which member of an etcd cluster is asked, and who next.

use super::{
    Etcd,
    failure::{Trouble, TroubleKind, Verdict, judge},
    member::Connection,
};
use crate::{StoreError, backoff::Backoff};
use etcd_client::{Error, GetOptions};
use std::{future::Future, sync::atomic::Ordering, time::Duration};
use tokio::time::Instant;

/// A transaction goes only to a member that has answered within this time; else it is asked something first. A
/// read can go to the next member when the first is silent; a transaction that was sent cannot, and fails.
const FRESH: Duration = Duration::from_secs(1);
/// The wait after a round of all members while the cluster has no leader. An election takes about a second.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const MOST_WAIT: Duration = Duration::from_millis(500);

/// Whether a call may be made again at another endpoint when its fate is unknown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Doing it twice is as good as once.
    Always,
    /// Only if it has surely had no effect.
    IfUnsent,
}

impl Etcd {
    /// Makes a call within the store's timeout.
    pub(super) async fn call<T, F, Fut>(&self, again: Again, operation: F) -> Result<T, StoreError>
    where
        F: Fn(Connection) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        self.call_by(Instant::now() + self.timeout, again, operation).await
    }

    /// Makes a call at the preferred member, and at the others in turn if that one does not do it. When one of
    /// them waits for a leader, all are asked again until `deadline`; when none answers, the caller is told at
    /// once.
    pub(super) async fn call_by<T, F, Fut>(
        &self,
        deadline: Instant,
        again: Again,
        operation: F,
    ) -> Result<T, StoreError>
    where
        F: Fn(Connection) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        let mut troubles = Troubles::new(self.members.len());
        let mut backoff = Backoff::new(FIRST_WAIT, MOST_WAIT);
        loop {
            let mut passing = false;
            for _ in 0..self.members.len() {
                let at = self.preferred.load(Ordering::Relaxed) % self.members.len();
                if troubles.is_silent(at) {
                    // It would be silent again, and the time is better spent on those that speak.
                    self.pass_over(at);
                    continue;
                }
                let trouble = match self.call_member(at, deadline, again, &operation).await {
                    Ok(answer) => return Ok(answer),
                    Err(Verdict::Final(error)) => return Err(error),
                    Err(Verdict::Elsewhere(trouble)) => trouble,
                };
                self.pass_over(at);
                let unsent = trouble.unsent;
                passing |= matches!(trouble.kind, TroubleKind::NoLeader | TroubleKind::Busy);
                troubles.note(at, trouble);
                if again == Again::IfUnsent && !unsent {
                    return Err(troubles.error(&self.address));
                }
            }
            let wait = backoff.next_wait();
            if !passing || Instant::now() + wait >= deadline {
                return Err(troubles.error(&self.address));
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Prefers the next member, unless another call has moved on already: then its choice stands. Watches move
    /// along: on a member that no call goes to, nothing would notice its silence but the keepalive, after 15 s.
    fn pass_over(&self, at: usize) {
        let next = (at + 1) % self.members.len();
        let moved = self.preferred.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        if moved.is_ok() && next != at {
            self.members[at].give_up();
        }
    }

    async fn call_member<T, F, Fut>(
        &self,
        at: usize,
        deadline: Instant,
        again: Again,
        operation: &F,
    ) -> Result<T, Verdict>
    where
        F: Fn(Connection) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        let member = &self.members[at];
        let count = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let until = match again {
            Again::Always => deadline.min(Instant::now() + self.timeout / count),
            Again::IfUnsent => deadline,
        };
        match tokio::time::timeout_at(until, member.call(&self.access, again, operation)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(failure)) => {
                let known = member.is_known();
                Err(judge(&self.address, &member.endpoint, known, &self.base, &self.access.options, &failure))
            }
            Err(_) => {
                if self.members.len() > 1 {
                    member.give_up();
                }
                let reason = format!("{}: no answer in time", member.endpoint);
                Err(Verdict::Elsewhere(Trouble { kind: TroubleKind::Silent, reason, unsent: false }))
            }
        }
    }

    /// Makes sure that the preferred member is one that answers, and that its cluster does.
    pub(super) async fn find_one_that_answers(&self, deadline: Instant) -> Result<(), StoreError> {
        let at = self.preferred.load(Ordering::Relaxed) % self.members.len();
        if self.members.len() == 1 || self.members[at].answered_within(FRESH) {
            return Ok(());
        }
        self.revision_by(deadline, GetOptions::new()).await.map(|_| ())
    }
}

/// What was wrong with each member, lastly.
struct Troubles(Vec<Option<Trouble>>);

impl Troubles {
    fn new(members: usize) -> Self {
        Self(vec![None; members])
    }

    /// What a member has said tells more than that it has run out of time afterwards.
    fn note(&mut self, member: usize, trouble: Trouble) {
        if let Some(last) = self.0.get_mut(member)
            && (last.is_none() || trouble.kind != TroubleKind::Silent)
        {
            *last = Some(trouble);
        }
    }

    fn is_silent(&self, member: usize) -> bool {
        self.0.get(member).and_then(Option::as_ref).is_some_and(|t| t.kind == TroubleKind::Silent)
    }

    /// All of it as one error. It is about certificates only if they are in the way everywhere.
    fn error(&self, address: &str) -> StoreError {
        let all = || self.0.iter().flatten();
        let reasons = all().map(|t| t.reason.as_str()).collect::<Vec<_>>().join("; ");
        let store = address.to_owned();
        let of_certificates = |t: &Trouble| matches!(t.kind, TroubleKind::Untrusted | TroubleKind::Refused);
        if !all().all(of_certificates) {
            let leaderless = all().any(|t| t.kind == TroubleKind::NoLeader);
            let reason = if leaderless {
                format!("etcd has no quorum, more than half of its members are down or cut off: {reasons}")
            } else {
                reasons
            };
            return StoreError::Unreachable { store, reason };
        }
        if all().any(|t| t.kind == TroubleKind::Untrusted) {
            StoreError::Untrusted { store, reason: reasons }
        } else {
            StoreError::Denied { store, reason: reasons }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(troubles: &[(TroubleKind, &str)]) -> StoreError {
        let mut all = Troubles::new(troubles.len());
        for (at, (kind, reason)) in troubles.iter().enumerate() {
            all.note(at, Trouble { kind: *kind, reason: (*reason).to_owned(), unsent: false });
        }
        all.error("etcd://a:1,b:1/weft")
    }

    #[test]
    fn the_error_tells_what_is_wrong_with_each_member() {
        use TroubleKind::{Away, NoLeader, Refused, Untrusted};
        for (troubles, expected) in [
            (
                &[(Away, "a:1: refused"), (Away, "b:1: silent")][..],
                "the store etcd://a:1,b:1/weft does not answer: a:1: refused; b:1: silent",
            ),
            (
                &[(Away, "a:1: refused"), (NoLeader, "b:1: no leader")],
                "the store etcd://a:1,b:1/weft does not answer: etcd has no quorum, more than half of its members \
                 are down or cut off: a:1: refused; b:1: no leader",
            ),
            (
                &[(Untrusted, "a:1: expired"), (Untrusted, "b:1: expired")],
                "the store etcd://a:1,b:1/weft cannot be trusted: a:1: expired; b:1: expired",
            ),
            (&[(Refused, "a:1: alert")], "the store etcd://a:1,b:1/weft refuses this daemon: a:1: alert"),
            // One that is down may be the one that would do: no verdict on certificates yet.
            (
                &[(Untrusted, "a:1: expired"), (Away, "b:1: refused")],
                "the store etcd://a:1,b:1/weft does not answer: a:1: expired; b:1: refused",
            ),
        ] {
            assert_eq!(error(troubles).to_string(), expected);
        }
    }
}
