use super::{Subject, done, put, soon};
use std::time::Duration;
use weft_store::{Batch, Event, FollowOptions, Follower, Listing, StoreError, Txn, follow, follow_with};

async fn event(follower: &mut Follower) -> Event {
    soon(follower.next()).await.expect("a follower does not end")
}

async fn resync(follower: &mut Follower) -> Listing {
    match event(follower).await {
        Event::Resync(listing) => listing,
        other => panic!("{other:?}"),
    }
}

pub async fn a_follower_lists_then_reports_changes(subject: impl Subject) {
    let store = subject.store();
    done(&*store, Txn::new().put("f/a", b"1".to_vec()).put("other", vec![])).await;
    let mut follower = follow(store.clone(), "f/");
    let listing = resync(&mut follower).await;
    assert_eq!(listing, store.list("f/").await.unwrap());
    for number in ["2", "3"] {
        let at = done(&*store, Txn::new().put("f/a", number.as_bytes().to_vec())).await;
        let batch = Batch { revision: at, changes: vec![put("f/a", number)] };
        assert_eq!(event(&mut follower).await, Event::Changed(batch));
    }
}

pub async fn a_follower_lists_again_now_and_then(subject: impl Subject) {
    let store = subject.store();
    done(&*store, Txn::new().put("f/a", b"1".to_vec())).await;
    let options = FollowOptions {
        relist: Duration::from_millis(300),
        relist_rate: u32::MAX,
        ..FollowOptions::default()
    };
    let mut follower = follow_with(store, "f/", options);
    let first = resync(&mut follower).await;
    assert_eq!(resync(&mut follower).await, first);
    assert_eq!(resync(&mut follower).await, first);
}

pub async fn a_follower_resumes_after_a_server_restart(mut subject: impl Subject) {
    let store = subject.store();
    done(&*store, Txn::new().put("f/a", b"1".to_vec())).await;
    let mut follower = follow(store.clone(), "f/");
    resync(&mut follower).await;
    subject.restart().await;
    let away = event(&mut follower).await;
    assert!(matches!(away, Event::Away(StoreError::Unreachable { .. })), "{away:?}");
    assert_eq!(event(&mut follower).await, Event::Returned);
    let at = done(&*store, Txn::new().put("f/a", b"2".to_vec())).await;
    assert_eq!(
        event(&mut follower).await,
        Event::Changed(Batch { revision: at, changes: vec![put("f/a", "2")] })
    );
}

pub async fn a_follower_lists_again_after_compaction(mut subject: impl Subject) {
    let store = subject.store();
    done(&*store, Txn::new().put("f/a", b"1".to_vec())).await;
    // It waits so long after the outage that history is forgotten before it is back.
    let wait = 2 * subject.restart_takes();
    let options = FollowOptions { first_wait: wait, most_wait: wait, ..FollowOptions::default() };
    let mut follower = follow_with(store.clone(), "f/", options);
    resync(&mut follower).await;
    subject.restart().await;
    let away = event(&mut follower).await;
    assert!(matches!(away, Event::Away(_)), "{away:?}");
    soon(async {
        while store.commit(Txn::new().put("f/a", b"2".to_vec())).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    subject.forget_history().await;
    let listing = resync(&mut follower).await;
    assert_eq!(listing.records[0].value, b"2");
    let at = done(&*store, Txn::new().put("f/a", b"3".to_vec())).await;
    assert_eq!(
        event(&mut follower).await,
        Event::Changed(Batch { revision: at, changes: vec![put("f/a", "3")] })
    );
}
