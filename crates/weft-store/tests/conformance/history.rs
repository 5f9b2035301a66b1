//! Histories: clients that do transactions and reads on a few keys at once, at random, and what each was answered when.

use super::{
    Subject,
    linear::{Answer, Asked, Operation, States, Tally, check},
    next, soon,
};
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use weft_lab::{figures, short_or_long};
use weft_model::Revision;
use weft_store::{Batch, Event, Listing, Outcome, Store, StoreError, Txn, follow, probe};

const PREFIX: &str = "h/";
/// Few, so that the clients meet.
const KEYS: u8 = 4;
const CLIENTS: usize = 4;

pub async fn concurrent_transactions_are_linearizable(subject: impl Subject) {
    let mut all = Tally::default();
    for round in 0..short_or_long(3, 60) {
        add(&mut all, history(&*subject.store(), subject.store(), round, 20, async {}).await);
    }
    assert!(all.committed > 0 && all.refused > 0 && all.reads > 0 && all.unknown == 0, "{all:?}");
    report(&subject, "linearizable", all);
}

pub async fn concurrent_transactions_are_linearizable_over_a_server_restart(mut subject: impl Subject) {
    let mut all = Tally::default();
    for round in 0..short_or_long(1, 10) {
        let store = subject.store();
        add(&mut all, history(&*store, store.clone(), 100 + round, 60, subject.restart()).await);
    }
    assert!(all.committed > 0 && all.reads > 0, "{all:?}");
    report(&subject, "linearizable over restarts", all);
}

fn add(all: &mut Tally, one: Tally) {
    all.committed += one.committed;
    all.refused += one.refused;
    all.reads += one.reads;
    all.unknown += one.unknown;
    all.effective += one.effective;
}

fn report(subject: &impl Subject, what: &str, all: Tally) {
    let address = subject.store().address();
    let store = address.split([':', ' ']).next().unwrap_or_default();
    let Tally { committed, refused, reads, unknown, effective } = all;
    figures(
        &format!("{what} ({store})"),
        &format!(
            "{committed} transactions committed, {refused} refused, {reads} reads, {unknown} without an answer of which \
             {effective} took effect; 0 out of order"
        ),
    );
}

/// One history of `length` operations a client, while `fault` happens; checked.
async fn history(
    store: &dyn Store,
    shared: Arc<dyn Store>,
    seed: u8,
    length: usize,
    fault: impl Future<Output = ()>,
) -> Tally {
    let start = store.list(PREFIX).await.unwrap();
    let mut follower = follow(shared.clone(), PREFIX);
    let clock = Arc::new(AtomicU64::new(0));
    let clients = plans(seed, length).into_iter().enumerate().map(|(client, plan)| {
        let client = Client {
            store: shared.clone(),
            clock: clock.clone(),
            name: format!("{seed}-{client}"),
            known: BTreeMap::new(),
            operations: Vec::new(),
        };
        tokio::spawn(client.run(plan))
    });
    let clients: Vec<_> = clients.collect();
    fault.await;
    let mut operations: Vec<Operation> = Vec::new();
    for client in clients {
        operations.extend(tokio::time::timeout(3 * super::PATIENCE, client).await.unwrap().unwrap());
    }
    let end = store.commit(Txn::new().put(format!("{PREFIX}end"), vec![seed])).await.unwrap();
    let Outcome::Committed(end) = end else { panic!("{end:?}") };
    operations.push(last(seed, end, clock.fetch_add(1, SeqCst)));
    let mut events = Vec::new();
    while !events.last().is_some_and(|event| arrives(event, end)) {
        events.push(soon(follower.next()).await.unwrap());
    }
    let batches = changes(store, &start, end).await;
    let states = States::replay(start, &batches).unwrap();
    states.check_events(&events).unwrap_or_else(|reason| panic!("seed {seed}: a follower: {reason}"));
    check(&states, &operations).unwrap_or_else(|reason| panic!("seed {seed}: {reason}"))
}

fn last(seed: u8, end: Revision, now: u64) -> Operation {
    Operation {
        asked: Asked::Commit(Txn::new().put(format!("{PREFIX}end"), vec![seed])),
        answer: Answer::Ended(Outcome::Committed(end)),
        invoked: now,
        returned: u64::MAX,
    }
}

fn arrives(event: &Event, end: Revision) -> bool {
    match event {
        Event::Resync(listing) => listing.revision >= end,
        Event::Changed(batch) => batch.revision >= end,
        Event::Away(_) | Event::Returned => false,
    }
}

/// Every change of the history, from a watch that starts when it is over.
async fn changes(store: &dyn Store, start: &Listing, end: Revision) -> Vec<Batch> {
    let mut watch = store.watch(PREFIX, start.revision).await.unwrap();
    let mut batches: Vec<Batch> = Vec::new();
    while batches.last().is_none_or(|batch| batch.revision < end) {
        batches.push(next(&mut watch).await);
    }
    batches
}

#[derive(Clone, Debug)]
enum Planned {
    Get(u8),
    List,
    Commit { guards: Vec<(u8, Guard)>, puts: Vec<u8>, deletes: Vec<u8> },
}

#[derive(Clone, Copy, Debug)]
enum Guard {
    Absent,
    Present,
    /// As the client has last seen it.
    Unchanged,
}

fn planned() -> impl Strategy<Value = Planned> {
    let guard = (0..KEYS, prop::sample::select(vec![Guard::Absent, Guard::Present, Guard::Unchanged]));
    let commit = (
        prop::collection::vec(guard, 0..3),
        prop::collection::btree_set(0..KEYS, 0..3),
        prop::collection::btree_set(0..KEYS, 0..3),
    );
    let commit = commit.prop_map(|(guards, puts, deletes)| {
        // Without a value of its own, what became of it could not be told from another's doing.
        let deletes = if puts.is_empty() { vec![] } else { deletes.difference(&puts).copied().collect() };
        Planned::Commit { guards, puts: puts.into_iter().collect(), deletes }
    });
    prop_oneof![
        2 => (0..KEYS).prop_map(Planned::Get),
        1 => Just(Planned::List),
        5 => commit,
    ]
}

/// What each client is to do.
fn plans(seed: u8, length: usize) -> Vec<Vec<Planned>> {
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let plans = prop::collection::vec(prop::collection::vec(planned(), length), CLIENTS);
    plans.new_tree(&mut runner).unwrap().current()
}

struct Client {
    store: Arc<dyn Store>,
    clock: Arc<AtomicU64>,
    name: String,
    /// The revision at which it has last seen each key.
    known: BTreeMap<String, Revision>,
    operations: Vec<Operation>,
}

impl Client {
    async fn run(mut self, plan: Vec<Planned>) -> Vec<Operation> {
        for (number, planned) in plan.into_iter().enumerate() {
            let asked = self.ask(planned, number);
            let invoked = self.clock.fetch_add(1, SeqCst);
            let answer = match &asked {
                Asked::Get(key) => self.store.get(key).await.map(Answer::Got),
                Asked::List => self.store.list(PREFIX).await.map(Answer::Listed),
                Asked::Commit(txn) => self.store.commit(txn.clone()).await.map(Answer::Ended),
            };
            let answer = match answer {
                Ok(answer) => answer,
                Err(StoreError::Unreachable { .. }) => {
                    self.wait_for_the_store().await;
                    Answer::Unknown
                }
                Err(error) => panic!("{asked:?}: {error}"),
            };
            let returned = self.clock.fetch_add(1, SeqCst);
            self.learn(&asked, &answer);
            self.operations.push(Operation { asked, answer, invoked, returned });
        }
        self.operations
    }

    fn ask(&self, planned: Planned, number: usize) -> Asked {
        let key = |key: u8| format!("{PREFIX}{key}");
        match planned {
            Planned::Get(which) => Asked::Get(key(which)),
            Planned::List => Asked::List,
            Planned::Commit { guards, puts, deletes } => {
                let value = format!("{}-{number}", self.name).into_bytes();
                let guarded = guards.into_iter().fold(Txn::new(), |txn, (which, guard)| {
                    let key = key(which);
                    match (guard, self.known.get(&key)) {
                        (Guard::Present, _) => txn.present(key),
                        (Guard::Unchanged, Some(revision)) => txn.unchanged(key, *revision),
                        (Guard::Absent | Guard::Unchanged, _) => txn.absent(key),
                    }
                });
                let put = puts.into_iter().fold(guarded, |txn, which| txn.put(key(which), value.clone()));
                Asked::Commit(deletes.into_iter().fold(put, |txn, which| txn.delete(key(which))))
            }
        }
    }

    fn learn(&mut self, asked: &Asked, answer: &Answer) {
        let records: Vec<_> = match answer {
            Answer::Got(record) => record.iter().collect(),
            Answer::Listed(listing) => listing.records.iter().collect(),
            Answer::Ended(Outcome::Refused(present)) => present.iter().flatten().collect(),
            Answer::Ended(Outcome::Committed(_)) | Answer::Unknown => vec![],
        };
        self.known.extend(records.into_iter().map(|record| (record.key.clone(), record.modified)));
        if let (Asked::Commit(txn), Answer::Ended(Outcome::Committed(revision))) = (asked, answer) {
            self.known.extend(txn.writes.iter().map(|write| (write.key().to_owned(), *revision)));
        }
    }

    async fn wait_for_the_store(&self) {
        while probe(&*self.store).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
