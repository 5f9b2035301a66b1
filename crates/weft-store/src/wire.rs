//! What daemons say to each other about the embedded store: HTTP/2 within TLS 1.3, POST, JSON. The server is
//! [`crate::embedded::serve`], the client [`crate::Remote`]. All that a daemon asks and watches goes over one connection: a
//! store has as many as the cluster has hosts. Either side tries it when nothing is heard (PING: RFC 9113, 6.7).
//!
//! | path | question | answer |
//! |---|---|---|
//! | `/store/v1/get` | [`Key`] | the record or null |
//! | `/store/v1/list` | [`Prefix`] | [`crate::Listing`] |
//! | `/store/v1/watch` | [`WatchFrom`] | [`Line`]s, one JSON value each, until one side ends it |
//! | `/store/v1/commit` | [`crate::Txn`] | [`crate::Outcome`] |
//! | `/store/v1/grant` | [`Ttl`] | [`LeaseId`] |
//! | `/store/v1/keep_alive`, `/store/v1/revoke` | [`Lease`] | null |
//!
//! Each request carries `Authorization: Bearer SECRET`, the join token's; 401 answers a wrong one. A [`StoreError`] is the body of
//! a 409.

use crate::{Batch, LeaseId, StoreError, base64_value::Base64};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use weft_model::{Change, Revision};

/// Before every path. Another version of the protocol has another number.
pub const ROOT: &str = "/store/v1";
/// The protocol's name within TLS (RFC 7301).
pub const ALPN: &[u8] = b"h2";
/// A connection on which nothing happens is tried this often.
pub const HEARTBEAT: Duration = Duration::from_secs(4);
/// One that is tried and says nothing for this long is dead.
pub const SILENCE: Duration = Duration::from_secs(8);
/// A request's or a line's length in bytes, at most: a transaction's values in base64, and what is around them.
pub const MAX_LENGTH: usize = 4 * 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
pub struct Key {
    pub key: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Prefix {
    pub prefix: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct WatchFrom {
    pub prefix: String,
    pub after: Revision,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Ttl {
    pub milliseconds: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Lease {
    pub lease: LeaseId,
}

/// A line of a watch.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Line {
    /// A revision's changes.
    Batch(LineBatch),
    /// The watch ends with this error.
    End(StoreError),
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineBatch {
    revision: Revision,
    changes: Vec<(String, Option<Base64>)>,
}

impl From<Batch> for LineBatch {
    fn from(batch: Batch) -> Self {
        let changes = batch.changes.into_iter().map(|c| (c.key, c.value.map(Base64))).collect();
        Self { revision: batch.revision, changes }
    }
}

impl From<LineBatch> for Batch {
    fn from(line: LineBatch) -> Self {
        let changes = line.changes.into_iter().map(|(key, value)| Change { key, value: value.map(|v| v.0) });
        Self { revision: line.revision, changes: changes.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_survives_the_wire_and_values_are_base64() {
        let changes = vec![
            Change { key: "k".into(), value: Some(vec![0, 255]) },
            Change { key: "l".into(), value: None },
        ];
        let batch = Batch { revision: Revision(7), changes };
        let text = serde_json::to_string(&Line::Batch(batch.clone().into())).unwrap();
        assert_eq!(text, r#"{"Batch":{"revision":7,"changes":[["k","AP8="],["l",null]]}}"#);
        let Line::Batch(again) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
        assert_eq!(Batch::from(again), batch);
    }
}
