//! A real etcd cluster of three members, killed and cut off one after the other under transactions, watches and
//! leases; a cluster without a quorum; history that is compacted away under a watcher that does not listen.
#![allow(clippy::unwrap_used, clippy::panic, clippy::large_futures, missing_docs, reason = "tests")]

#[allow(unused_imports, reason = "this target has its own assertions")]
mod conformance;
mod etcd_server;

use conformance::{done, soon};
use etcd_server::{Kind, Member, PREFIX, Server, binary, proxy::Proxy};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_model::Revision;
use weft_store::{
    Etcd, Event, Follower, LeaseKeeper, LeaseState, Outcome, Store, StoreError, Txn, follow, probe,
};

/// Of one call. A member has a third of it to answer.
const TIMEOUT: Duration = Duration::from_millis(4500);
const LEASE_TTL: Duration = Duration::from_secs(9);
/// Keys that all writers write.
const KEYS: usize = 3;
const WRITERS: usize = 3;

/// Three members, each behind a wire that can be cut, and a store on them.
struct Cluster {
    members: Vec<Member>,
    wires: Vec<Proxy>,
    store: Arc<Etcd>,
}

impl Cluster {
    async fn new() -> Option<Self> {
        let binary = binary()?;
        let mut members: Vec<_> = (1..=3).map(|n| Member::new(&binary, &format!("m{n}"), None)).collect();
        let mut wires = vec![];
        for member in &mut members {
            member
                .arguments
                .extend(["--heartbeat-interval", "50", "--election-timeout", "500"].map(str::to_owned));
            wires.push(Proxy::to(&member.endpoint()).await);
        }
        let endpoints: Vec<_> = wires.iter().map(|wire| wire.endpoint.clone()).collect();
        let store = Arc::new(Etcd::connect(&endpoints, PREFIX, TIMEOUT).await.unwrap());
        let mut cluster = Self { members, wires, store };
        for member in 0..3 {
            cluster.start(member);
        }
        for member in 0..3 {
            cluster.up(member).await;
        }
        Some(cluster)
    }

    fn start(&mut self, member: usize) {
        let all = self.members.iter().map(Member::peer).collect::<Vec<_>>().join(",");
        self.members[member].start(&all);
    }

    /// Waits until the member itself answers for the cluster.
    async fn up(&mut self, member: usize) {
        let alone = Etcd::connect(&[self.members[member].endpoint()], PREFIX, TIMEOUT).await.unwrap();
        self.members[member].until(|| async { probe(&alone).await.is_ok() }).await;
    }
}

/// How a member goes away, and comes back.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Killed without notice, then started again on its data.
    Killed,
    /// Stopped: its connections stand, and nothing answers.
    Stopped,
    /// Cut off from us, though not from its cluster.
    CutOff,
}

impl Fault {
    fn begin(self, cluster: &mut Cluster, member: usize) {
        match self {
            Self::Killed => cluster.members[member].kill(),
            Self::Stopped => cluster.members[member].signal("-STOP"),
            Self::CutOff => cluster.wires[member].cut(),
        }
    }

    async fn end(self, cluster: &mut Cluster, member: usize) {
        match self {
            Self::Killed => cluster.start(member),
            Self::Stopped => cluster.members[member].signal("-CONT"),
            Self::CutOff => cluster.wires[member].mend(),
        }
        cluster.up(member).await;
    }
}

/// What a writer was told of each of its transactions.
#[derive(Default)]
struct History {
    acknowledged: Vec<(String, String, Revision)>,
    refused: BTreeSet<String>,
    /// Failed: done or not, nobody knows.
    unknown: BTreeSet<String>,
}

/// Appends a word of its own to a log at one of the keys, by compare-and-swap, again and again.
async fn write(
    store: Arc<Etcd>,
    writer: usize,
    stop: CancellationToken,
    done: watch::Sender<usize>,
) -> History {
    let mut history = History::default();
    let mut number = 0;
    while !stop.is_cancelled() {
        number += 1;
        let (key, word) = (format!("k/{}", number % KEYS), format!("{writer}.{number}"));
        let began = Instant::now();
        let before = store.get(&key).await.unwrap_or_else(|e| panic!("a read failed: {e}"));
        assert!(began.elapsed() < TIMEOUT, "a read took {:?}", began.elapsed());
        let txn = match &before {
            None => Txn::new().absent(&key),
            Some(record) => Txn::new().unchanged(&key, record.modified),
        };
        let mut log = before.map(|record| record.value).unwrap_or_default();
        log.extend(format!("{word} ").bytes());
        let began = Instant::now();
        match store.commit(txn.put(&key, log)).await {
            Ok(Outcome::Committed(revision)) => {
                history.acknowledged.push((key, word, revision));
                done.send_modify(|count| *count += 1);
            }
            Ok(Outcome::Refused(_)) => assert!(history.refused.insert(word)),
            Err(StoreError::Unreachable { .. }) => assert!(history.unknown.insert(word)),
            Err(error) => panic!("{error}"),
        }
        assert!(began.elapsed() < TIMEOUT + Duration::from_secs(1), "a write took {:?}", began.elapsed());
        // A pace that leaves the machine to the servers.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    history
}

/// What a follower has seen of the logs.
#[derive(Default)]
struct Seen {
    logs: BTreeMap<String, String>,
    revision: Revision,
    resyncs: usize,
    changes: usize,
}

impl Seen {
    /// Each change adds one word to one log: one that is missed, doubled or out of order does not fit.
    fn take(&mut self, event: Event) {
        match event {
            Event::Resync(listing) => {
                self.resyncs += 1;
                self.revision = listing.revision;
                self.logs = listing.records.into_iter().map(|r| (r.key, text(r.value))).collect();
            }
            Event::Changed(batch) => {
                assert!(batch.revision > self.revision, "{} after {}", batch.revision, self.revision);
                self.revision = batch.revision;
                for change in batch.changes {
                    self.changes += 1;
                    let log = text(change.value.unwrap());
                    let before = self.logs.insert(change.key, log.clone()).unwrap_or_default();
                    let added =
                        log.strip_prefix(&before).unwrap_or_else(|| panic!("{log:?} after {before:?}"));
                    assert_eq!(added.split_whitespace().count(), 1, "{log:?} after {before:?}");
                }
            }
            Event::Away(_) | Event::Returned => {}
        }
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// The logs hold each acknowledged word once, in the order of the revisions, and none that was refused.
fn explain(logs: &BTreeMap<String, String>, histories: &[History]) {
    let mut held = BTreeSet::new();
    for (key, log) in logs {
        let words: Vec<_> = log.split_whitespace().map(str::to_owned).collect();
        for word in &words {
            assert!(held.insert(word.clone()), "{word} is there twice");
        }
        let mut acknowledged: Vec<_> =
            histories.iter().flat_map(|h| &h.acknowledged).filter(|a| a.0 == *key).collect();
        acknowledged.sort_by_key(|(_, _, revision)| *revision);
        let expected: Vec<_> = acknowledged.iter().map(|(_, word, _)| word.clone()).collect();
        let found: Vec<_> = words.into_iter().filter(|word| expected.contains(word)).collect();
        assert_eq!(found, expected, "{key}: an acknowledged write is lost or out of order");
    }
    let written: usize = histories.iter().map(|h| h.acknowledged.len()).sum();
    let unknown: BTreeSet<_> = histories.iter().flat_map(|h| &h.unknown).collect();
    for history in histories {
        assert!(held.is_disjoint(&history.refused), "a refused write was done");
    }
    assert!(held.len() >= written, "{} words for {written} acknowledged writes", held.len());
    assert!(held.len() <= written + unknown.len(), "more words than transactions explain");
}

/// Follows until all of `until` was seen.
async fn follow_up(
    mut follower: Follower,
    mut until: watch::Receiver<Option<Revision>>,
    seen: Arc<AtomicUsize>,
) -> Seen {
    let mut all = Seen::default();
    loop {
        let reached = until.borrow().is_some_and(|last| all.revision >= last);
        if reached {
            return all;
        }
        tokio::select! {
            event = soon(follower.next()) => all.take(event.unwrap()),
            Ok(()) = until.changed() => {}
        }
        seen.store(all.changes, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_and_nothing_is_lost() {
    let Some(mut cluster) = Cluster::new().await else { return };
    let store: Arc<dyn Store> = cluster.store.clone();
    let keeper =
        LeaseKeeper::spawn(store.clone(), "alive/n", b"1".to_vec(), LEASE_TTL, CancellationToken::new());
    soon(keeper.state().wait_for(|state| *state == LeaseState::Held)).await.unwrap();
    let record = store.get("alive/n").await.unwrap();
    let mut lease = keeper.state();
    lease.mark_unchanged();

    let (last, until) = watch::channel(None);
    let seen = Arc::new(AtomicUsize::new(0));
    let following = tokio::spawn(follow_up(follow(store.clone(), "k/"), until, seen.clone()));
    let stop = CancellationToken::new();
    let (count, written) = watch::channel(0);
    let writing: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(cluster.store.clone(), writer, stop.clone(), count.clone())))
        .collect();
    let mut longest = Duration::ZERO;
    for fault in [Fault::Killed, Fault::Stopped, Fault::CutOff] {
        for member in 0..3 {
            fault.begin(&mut cluster, member);
            let began = Instant::now();
            // Writes go on, and what they change arrives.
            let (now, arrived) = (*written.borrow(), seen.load(Ordering::Relaxed));
            soon(written.clone().wait_for(|count| *count >= now + 20)).await.unwrap();
            soon(async {
                while seen.load(Ordering::Relaxed) < arrived + 20 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
            .await;
            let took = began.elapsed();
            // A transaction that had just been sent to the member may have taken all its time.
            assert!(took < 2 * TIMEOUT, "{fault:?}, member {member}: 20 writes and changes took {took:?}");
            longest = longest.max(took);
            fault.end(&mut cluster, member).await;
        }
    }
    stop.cancel();
    let mut histories = vec![];
    for writer in writing {
        histories.push(writer.await.unwrap());
    }
    let listing = store.list("k/").await.unwrap();
    last.send_replace(listing.records.iter().map(|record| record.modified).max());
    let seen = following.await.unwrap();

    let logs: BTreeMap<_, _> = listing.records.into_iter().map(|r| (r.key, text(r.value))).collect();
    explain(&logs, &histories);
    assert_eq!(seen.logs, logs, "the follower has seen something else");
    assert_eq!(seen.resyncs, 1, "history was there all the time");
    assert_eq!(store.get("alive/n").await.unwrap(), record, "the lease was lost");
    assert!(!lease.has_changed().unwrap(), "{:?}", *lease.borrow());
    let unknown: usize = histories.iter().map(|h| h.unknown.len()).sum();
    println!(
        "{} writes acknowledged, {unknown} of unknown fate, {} changes followed; 20 writes and 20 changes took {longest:?} at most",
        *written.borrow(),
        seen.changes
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_calls_say_so_in_time_and_go_on_by_themselves_afterwards() {
    let Some(mut cluster) = Cluster::new().await else { return };
    let store: Arc<dyn Store> = cluster.store.clone();
    let at = done(&*store, Txn::new().put("k/0", b"1".to_vec())).await;
    let mut follower = follow(store.clone(), "k/");
    let first = soon(follower.next()).await.unwrap();
    assert!(matches!(first, Event::Resync(_)), "{first:?}");
    // One is dead, one stands still, one is left alone.
    cluster.members[0].kill();
    cluster.members[1].signal("-STOP");
    let away = soon(follower.next()).await.unwrap();
    assert!(matches!(away, Event::Away(StoreError::Unreachable { .. })), "{away:?}");

    let began = Instant::now();
    let (read, write, grant) = tokio::join!(
        store.get("k/0"),
        store.commit(Txn::new().put("k/0", b"lost".to_vec())),
        store.grant(LEASE_TTL)
    );
    assert!(began.elapsed() < TIMEOUT + Duration::from_secs(1), "it took {:?}", began.elapsed());
    let (read, write, grant) = (read.unwrap_err(), write.unwrap_err(), grant.unwrap_err());
    for error in [read, write, grant] {
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("etcd has no quorum"), "{error}");
    }

    cluster.start(0);
    soon(async {
        while probe(&*store).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    cluster.members[1].signal("-CONT");
    let txn = Txn::new().unchanged("k/0", at).put("k/0", b"2".to_vec());
    let second = done(&*store, txn).await;
    // While the last member finds its place again the watch may move once more.
    let mut returned = 0;
    loop {
        match soon(follower.next()).await.unwrap() {
            Event::Changed(batch) => break assert_eq!(batch.revision, second),
            Event::Returned => returned += 1,
            Event::Away(error) => assert!(matches!(error, StoreError::Unreachable { .. }), "{error}"),
            Event::Resync(listing) => panic!("nothing was missed: {listing:?}"),
        }
    }
    assert!(returned > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_did_not_listen_while_history_was_compacted_lists_again() {
    let Some(server) = Server::new(Kind::default()).await else { return };
    let store: Arc<dyn Store> = server.store.clone();
    done(&*store, Txn::new().put("k/0", vec![])).await;
    let mut follower = follow(store.clone(), "k/");
    let first = soon(follower.next()).await.unwrap();
    assert!(matches!(first, Event::Resync(_)), "{first:?}");
    // More than the follower, the connection and etcd keep for somebody who does not listen.
    for _ in 0..30 {
        let writes =
            (0..50_usize).map(|i| store.commit(Txn::new().put(format!("k/{i}"), vec![b'x'; 32 * 1024])));
        for outcome in futures::future::join_all(writes).await {
            outcome.unwrap();
        }
    }
    conformance::Subject::forget_history(&server).await;
    let mut last = Revision::ZERO;
    let listing = loop {
        match soon(follower.next()).await.unwrap() {
            Event::Changed(batch) => {
                assert!(
                    last == Revision::ZERO || batch.revision == last.next(),
                    "{} after {last}",
                    batch.revision
                );
                last = batch.revision;
            }
            Event::Resync(listing) => break listing,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(listing, store.list("k/").await.unwrap());
    assert!(last < listing.revision);
    let next = done(&*store, Txn::new().put("k/0", b"1".to_vec())).await;
    match soon(follower.next()).await.unwrap() {
        Event::Changed(batch) => assert_eq!(batch.revision, next),
        other => panic!("{other:?}"),
    }
}
