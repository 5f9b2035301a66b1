//! The checker itself: a history that was good and has been spoilt is found out.

use super::conformance::linear::{Answer, Asked, Operation, States, Tally, check};
use weft_model::{Change, Revision};
use weft_store::{Batch, Event, Listing, Outcome, Record, Txn};

fn record(key: &str, value: &str, modified: u64) -> Record {
    Record { key: key.to_owned(), value: value.as_bytes().to_vec(), modified: Revision(modified) }
}

fn operation(asked: Asked, answer: Answer, invoked: u64, returned: u64) -> Operation {
    Operation { asked, answer, invoked, returned }
}

fn committed(txn: Txn, revision: u64, invoked: u64, returned: u64) -> Operation {
    let answer = Answer::Ended(Outcome::Committed(Revision(revision)));
    operation(Asked::Commit(txn), answer, invoked, returned)
}

fn batch(revision: u64, changes: &[(&str, Option<&str>)]) -> Batch {
    let change = |(key, value): &(&str, Option<&str>)| Change {
        key: (*key).to_owned(),
        value: value.map(|value| value.as_bytes().to_vec()),
    };
    Batch { revision: Revision(revision), changes: changes.iter().map(change).collect() }
}

fn batches() -> Vec<Batch> {
    vec![
        batch(3, &[("a", Some("one")), ("b", Some("one"))]),
        batch(5, &[("a", None), ("b", Some("two"))]),
        batch(6, &[("a", Some("three"))]),
    ]
}

fn start() -> Listing {
    Listing { revision: Revision(2), records: vec![] }
}

fn states() -> States {
    States::replay(start(), &batches()).unwrap()
}

/// Two clients; the third transaction was never answered, and took effect.
fn operations() -> Vec<Operation> {
    let one = Txn::new().absent("a").put("a", b"one".to_vec()).put("b", b"one".to_vec());
    let two = Txn::new().unchanged("a", Revision(3)).put("b", b"two".to_vec()).delete("a");
    let three = Txn::new().absent("a").put("a", b"three".to_vec());
    let refused = Outcome::Refused(vec![Some(record("b", "two", 5))]);
    let listing = Listing { revision: Revision(5), records: vec![record("b", "two", 5)] };
    vec![
        committed(one, 3, 0, 3),
        operation(Asked::Get("a".to_owned()), Answer::Got(Some(record("a", "one", 3))), 1, 2),
        committed(two, 5, 4, 7),
        operation(Asked::Commit(three), Answer::Unknown, 5, 9),
        operation(Asked::List, Answer::Listed(listing), 6, 8),
        operation(
            Asked::Commit(Txn::new().absent("b").put("b", b"four".to_vec())),
            Answer::Ended(refused),
            10,
            11,
        ),
        committed(Txn::new().present("a"), 6, 12, 13),
    ]
}

#[test]
fn a_good_history_is_good() {
    let tally = check(&states(), &operations()).unwrap();
    assert_eq!(tally, Tally { committed: 3, refused: 1, reads: 2, unknown: 1, effective: 1 });
}

#[test]
fn every_spoilt_history_is_found_out() {
    type Spoil = fn(&mut Vec<Operation>);
    let spoilt: [(&str, Spoil, &str); 9] = [
        ("a read of what was overwritten before it was asked", |all| all[1].invoked = 8, "no later state"),
        (
            "a read of a value that never was",
            |all| all[1].answer = Answer::Got(Some(record("a", "two", 3))),
            "no later state",
        ),
        (
            "a transaction placed before one that had ended",
            |all| (all[0].invoked, all[0].returned) = (14, 15),
            "it took effect earlier",
        ),
        (
            "a compare that did not hold",
            |all| all[2].asked = Asked::Commit(Txn::new().absent("a").put("b", b"two".to_vec()).delete("a")),
            "compares did not hold",
        ),
        (
            "half a transaction",
            |all| all[0].asked = Asked::Commit(Txn::new().put("a", b"one".to_vec())),
            "done in part, or more was done",
        ),
        ("a revision that never was", |all| all[2].answer = all[0].answer.clone(), "took effect earlier"),
        ("a change that nobody asked for", |all| drop(all.remove(3)), "nobody has asked for"),
        (
            "a refusal although all held",
            |all| all[5].asked = Asked::Commit(Txn::new().present("b").put("b", b"four".to_vec())),
            "no later state",
        ),
        (
            "a listing of two revisions",
            |all| {
                let records = vec![record("a", "one", 3), record("b", "two", 5)];
                all[4].answer = Answer::Listed(Listing { revision: Revision(5), records });
            },
            "no later state",
        ),
    ];
    for (what, spoil, reason) in spoilt {
        let mut operations = operations();
        spoil(&mut operations);
        let found = check(&states(), &operations).expect_err(what);
        assert!(found.contains(reason), "{what}: {found}");
    }
}

#[test]
fn a_transaction_done_twice_is_found_out() {
    let mut all = batches();
    all.push(batch(7, &[("a", Some("one")), ("b", Some("one"))]));
    let found = check(&States::replay(start(), &all).unwrap(), &operations()).unwrap_err();
    assert!(found.contains("nobody has asked for"), "{found}");
}

#[test]
fn a_watch_that_goes_back_or_a_follower_that_skips_is_found_out() {
    let mut backwards = batches();
    backwards.swap(1, 2);
    assert!(States::replay(start(), &backwards).is_err());
    let all: Vec<_> = batches().into_iter().map(Event::Changed).collect();
    let told = |events: Vec<Event>| {
        let mut all = vec![Event::Resync(start())];
        all.extend(events);
        states().check_events(&all)
    };
    told(all.clone()).unwrap();
    for wrong in [
        vec![all[0].clone(), all[2].clone()],
        vec![all[0].clone(), all[0].clone()],
        all[..2].to_vec(),
        [all.clone(), vec![Event::Resync(start())]].concat(),
    ] {
        assert!(told(wrong.clone()).is_err(), "{wrong:?}");
    }
}
