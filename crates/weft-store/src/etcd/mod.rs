//! Records in etcd, by its v3 API.
//!
//! Keys stand below `PREFIX/`. A call goes to one member of the cluster, and to another if that one does not do
//! it and it has surely had no effect, or may be made twice; while the cluster elects a leader it goes round
//! until the time is over. Facts on the API: etcd's `rpc.proto` and its "API guarantees" page; limits and the
//! minimum of keepalive intervals: etcd's `server/embed/config.go`.

mod failover;
mod failure;
mod member;
mod v2;
mod watch;

pub use v2::{leaves, list_v2};

use crate::{Compare, LeaseId, Listing, Outcome, Record, Store, StoreError, StoreOptions, Txn, Watch, Write};
use async_trait::async_trait;
use etcd_client::{
    CompareOp, ConnectOptions, Error, GetOptions, KeyValue, PutOptions, TxnOp, TxnOpResponse, WatchOptions,
};
use failover::Again;
use failure::{lease_lost, speaks_of_users};
use futures::{StreamExt, stream};
use member::{Access, Member, certificates};
use std::{sync::atomic::AtomicUsize, time::Duration};
use tokio::time::Instant;
use watch::{Watching, batches, cancelled};
use weft_model::Revision;

/// A ping on a connection that carries a call or a watch, after this long without traffic. etcd closes
/// connections that ping more often than every 5 s, or without an open stream.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A connection is dead when a ping is not answered in this time.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Records asked for at once. A record of weft has some hundred bytes. etcd walks over all keys that are left for each page, to
/// count them: small pages would cost a large listing its square.
const PAGE: i64 = 10_000;
/// How often a listing starts again when compaction overtakes it.
const LISTING_ATTEMPTS: u32 = 3;

/// An etcd cluster, and the prefix below which the records stand.
pub struct Etcd {
    members: Vec<Member>,
    /// The member that is asked first: the last one that answered.
    preferred: AtomicUsize,
    /// What stands before every key: the prefix and a slash.
    base: String,
    address: String,
    timeout: Duration,
    access: Access,
}

impl Etcd {
    /// Like [`Etcd::connect_with`], in clear text and without a user.
    pub async fn connect(endpoints: &[String], prefix: &str, timeout: Duration) -> Result<Self, StoreError> {
        Self::connect_with(endpoints, prefix, timeout, &StoreOptions::default()).await
    }

    /// Prepares the use of the etcd cluster at `endpoints` (`host:port` each). Nothing is sent yet, so this does
    /// not fail when etcd is down; [`crate::probe`] tells. `timeout` bounds every call. Of the options it heeds
    /// the files of TLS, the user and the password.
    pub async fn connect_with(
        endpoints: &[String],
        prefix: &str,
        timeout: Duration,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        let address = format!("etcd://{}/{prefix}", endpoints.join(","));
        let count = u32::try_from(endpoints.len().max(1)).unwrap_or(u32::MAX);
        let connect = ConnectOptions::new()
            .with_connect_timeout(timeout / count)
            .with_keep_alive(KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT)
            .with_keep_alive_while_idle(false)
            // A member that has lost its cluster ends its watches instead of staying silent.
            .with_require_leader(true);
        let access = Access { options: options.clone(), connect };
        let tls = certificates(options)?;
        let mut members = Vec::new();
        for endpoint in endpoints {
            let member = Member::new(endpoint, &access, tls.clone())
                .await
                .map_err(|e| StoreError::Invalid(format!("{address}: endpoint {endpoint}: {e}")))?;
            members.push(member);
        }
        if members.is_empty() {
            return Err(StoreError::Invalid(format!("{address} names no endpoint")));
        }
        let base = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { members, preferred: AtomicUsize::new(0), base, address, timeout, access })
    }

    fn key(&self, key: &str) -> Vec<u8> {
        [self.base.as_bytes(), key.as_bytes()].concat()
    }

    fn record(&self, kv: &KeyValue) -> Option<Record> {
        Some(Record {
            key: strip(&self.base, kv)?,
            value: kv.value().to_vec(),
            modified: revision(kv.mod_revision()),
        })
    }

    /// One attempt at a listing: [`StoreError::Compacted`] when compaction overtakes it.
    async fn list_once(&self, prefix: &str) -> Result<Listing, StoreError> {
        let mut from = self.key(prefix);
        let end = range_end(&from);
        let mut pinned = 0;
        let mut records = Vec::new();
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(pinned);
            let answer = self
                .call(Again::Always, |connection| {
                    let (from, options) = (from.clone(), options.clone());
                    async move {
                        let mut kv = connection.client.kv_client().max_decoding_message_size(usize::MAX);
                        kv.get(from, Some(options)).await
                    }
                })
                .await?;
            if pinned == 0 {
                pinned = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            }
            records.extend(answer.kvs().iter().filter_map(|kv| self.record(kv)));
            match answer.kvs().last() {
                Some(last) if answer.more() => from = [last.key(), b"\0"].concat(),
                _ => return Ok(Listing { revision: revision(pinned), records }),
            }
        }
    }

    /// Whether etcd has the history after `after`, when the watching member is at `seen`. The watch itself would
    /// tell later, but a caller wants to know now whether it missed something. And the watch would not tell of a
    /// removal in the very revision that was compacted, which older releases forget (etcd issue 18089);
    /// so `after` itself must still be readable, not only the revision that follows it.
    async fn check_history(&self, seen: Revision, after: Revision) -> Result<(), StoreError> {
        if seen > after {
            // To etcd, revision 0 means the present; the first that anything can be written in is 2.
            let oldest = GetOptions::new().with_revision(signed(after).max(1));
            return match self.revision_of(oldest).await {
                Err(StoreError::Compacted(_)) => Err(StoreError::Compacted(seen)),
                other => other.map(|_| ()),
            };
        }
        if seen < after {
            // A member may lag behind the cluster; a cluster that lags behind us is not the one we knew.
            let current = self.revision_of(GetOptions::new()).await?;
            if current < after {
                return Err(StoreError::Compacted(current));
            }
        }
        Ok(())
    }

    /// The revision in the answer to a question about no key in particular.
    async fn revision_of(&self, options: GetOptions) -> Result<Revision, StoreError> {
        self.revision_by(Instant::now() + self.timeout, options).await
    }

    async fn revision_by(&self, deadline: Instant, options: GetOptions) -> Result<Revision, StoreError> {
        let key = [self.base.as_bytes(), b"\0"].concat();
        let answer = self
            .call_by(deadline, Again::Always, |mut connection| {
                let (key, options) = (key.clone(), options.clone());
                async move { connection.client.get(key, Some(options)).await }
            })
            .await?;
        Ok(revision(answer.header().map_or(0, etcd_client::ResponseHeader::revision)))
    }
}

#[async_trait]
impl Store for Etcd {
    fn address(&self) -> String {
        self.address.clone()
    }

    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        let key = self.key(key);
        let answer = self
            .call(Again::Always, |mut connection| {
                let key = key.clone();
                async move { connection.client.get(key, None).await }
            })
            .await?;
        Ok(answer.kvs().first().and_then(|kv| self.record(kv)))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let mut attempts = 0;
        loop {
            match self.list_once(prefix).await {
                Err(StoreError::Compacted(_)) if attempts < LISTING_ATTEMPTS => attempts += 1,
                other => return other,
            }
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        let from = self.key(prefix);
        // Without `with_fragment`, etcd never spreads the events of one revision over two responses.
        let options =
            WatchOptions::new().with_range(range_end(&from)).with_start_revision(signed(after.next()));
        let (stream, first, given_up) = self
            .call(Again::Always, |connection| {
                let (from, options) = (from.clone(), options.clone());
                async move {
                    let mut watch = connection.client.watch_client().max_decoding_message_size(usize::MAX);
                    let mut stream = watch.watch(from, Some(options)).await?;
                    let first = stream.message().await?;
                    match &first {
                        // etcd tells in a message, not in a status, that it does not accept the token.
                        Some(first) if first.canceled() && speaks_of_users(first.cancel_reason()) => {
                            Err(Error::GRpcStatus(tonic::Status::unauthenticated(first.cancel_reason())))
                        }
                        _ => Ok((stream, first, connection.given_up)),
                    }
                }
            })
            .await?;
        let Some(first) = first else { return Err(closed(&self.address)) };
        if let Some(error) = cancelled(&self.address, &first) {
            return Err(error);
        }
        let seen = revision(first.header().map_or(0, etcd_client::ResponseHeader::revision));
        self.check_history(seen, after).await?;
        let ready = batches(&self.base, &first);
        let (base, address) = (self.base.clone(), self.address.clone());
        let watching = Watching { stream, given_up, ready, base, address };
        Ok(stream::try_unfold(watching, Watching::next).boxed())
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        txn.check()?;
        let compares: Vec<_> = txn.compares.iter().flat_map(|c| self.compare(c)).collect();
        let writes: Vec<_> = txn.writes.iter().map(|w| self.write(w)).collect();
        let reads: Vec<_> = txn.compares.iter().map(|c| TxnOp::get(self.key(c.key()), None)).collect();
        let request = etcd_client::Txn::new().when(compares).and_then(writes).or_else(reads);
        let deadline = Instant::now() + self.timeout;
        self.find_one_that_answers(deadline).await?;
        let answer = self
            .call_by(deadline, Again::IfUnsent, |mut connection| {
                let request = request.clone();
                async move { connection.client.txn(request).await }
            })
            .await
            .map_err(|error| lease_lost(error, txn.lease()))?;
        if answer.succeeded() {
            let header = answer.header().ok_or_else(|| closed(&self.address))?;
            return Ok(Outcome::Committed(revision(header.revision())));
        }
        let present = answer.op_responses().into_iter().map(|response| match response {
            TxnOpResponse::Get(get) => get.kvs().first().and_then(|kv| self.record(kv)),
            _ => None,
        });
        Ok(Outcome::Refused(present.collect()))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        // etcd counts in seconds.
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
        let answer = self
            .call(Again::Always, |mut connection| async move {
                connection.client.lease_grant(seconds, None).await
            })
            .await?;
        Ok(LeaseId(answer.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call(Again::Always, |mut connection| async move {
            match connection.client.lease_keep_alive(lease.0).await {
                Ok(_) => Ok(true),
                // What etcd-client makes of an answer whose time to live is 0: etcd does not know the lease.
                Err(Error::LeaseKeepAliveError(_)) => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await?
        .then_some(())
        .ok_or(StoreError::LeaseLost(lease))
    }

    async fn address_lost(&self) {
        for member in &self.members {
            member.reconnect(&self.access).await;
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let answer =
            self.call(Again::Always, |mut connection| async move {
                connection.client.lease_revoke(lease.0).await
            })
            .await;
        match answer.map_err(|error| lease_lost(error, Some(lease))) {
            Ok(_) | Err(StoreError::LeaseLost(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Etcd {
    fn compare(&self, compare: &Compare) -> Vec<etcd_client::Compare> {
        let key = self.key(compare.key());
        match compare {
            Compare::Absent(_) => vec![etcd_client::Compare::version(key, CompareOp::Equal, 0)],
            Compare::Present(_) => vec![etcd_client::Compare::version(key, CompareOp::Greater, 0)],
            // For etcd a key without a record was modified at revision 0; for us it was not modified.
            Compare::Unchanged(_, Revision::ZERO) => vec![
                etcd_client::Compare::version(key.clone(), CompareOp::Greater, 0),
                etcd_client::Compare::mod_revision(key, CompareOp::Equal, 0),
            ],
            Compare::Unchanged(_, at) => {
                vec![etcd_client::Compare::mod_revision(key, CompareOp::Equal, signed(*at))]
            }
        }
    }

    fn write(&self, write: &Write) -> TxnOp {
        let key = self.key(write.key());
        match write {
            Write::Put { value, lease, .. } => {
                let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
                TxnOp::put(key, value.clone(), options)
            }
            Write::Delete { .. } => TxnOp::delete(key, None),
        }
    }
}

/// The key without the base. Keys that are not UTF-8 cannot be ours.
fn strip(base: &str, kv: &KeyValue) -> Option<String> {
    Some(kv.key_str().ok()?.strip_prefix(base)?.to_owned())
}

/// The first key after all keys that begin with `prefix`. UTF-8 has no byte 0xff, so the last byte can grow;
/// etcd's sign for "to the end of all keys" is one zero byte.
fn range_end(prefix: &[u8]) -> Vec<u8> {
    match prefix.split_last() {
        Some((last, head)) => [head, &[last.saturating_add(1)]].concat(),
        None => vec![0],
    }
}

fn revision(etcd: i64) -> Revision {
    Revision(u64::try_from(etcd).unwrap_or(0))
}

fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn closed(address: &str) -> StoreError {
    StoreError::Unreachable { store: address.to_owned(), reason: "it closed the connection".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_range_is_the_first_key_beyond_the_prefix() {
        assert_eq!(range_end(b"weft/"), b"weft0");
        assert_eq!(range_end(b""), b"\0");
    }

    #[tokio::test]
    async fn a_bad_endpoint_is_named() {
        let error = Etcd::connect(&["h 1:2".to_owned()], "weft", Duration::from_secs(1)).await.err().unwrap();
        assert!(error.to_string().contains("h 1:2"), "{error}");
    }
}
