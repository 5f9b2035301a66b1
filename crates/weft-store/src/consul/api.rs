//! Consul's transactions as values: what goes to `/v1/txn` and what comes back.
//!
//! Source: Consul's "Transaction HTTP endpoint" page. Consul 1.8 takes 64 operations in one transaction, and
//! 512 KiB in one request; newer ones 128 and the same.

use crate::{StoreError, base64_value::Base64};
use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};

/// Operations in one transaction, at most.
pub const MAX_OPS: usize = 64;
/// Bytes of one request, at most: `txn_max_req_len` unless Consul's configuration says otherwise.
pub const MAX_BODY: usize = 512 * 1024;

/// One operation. Keys are whole: the store's prefix stands before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Answers the entry; fails if there is none.
    Get(String),
    /// Answers all entries whose keys begin so, perhaps none.
    Tree(String),
    /// Fails if there is an entry.
    Absent(String),
    /// Fails unless the entry was last modified at this index.
    Unchanged(String, u64),
    /// Sets key, value and flags. An entry that has them already keeps its index.
    Set(String, Vec<u8>, u64),
    /// Binds the key to a session.
    Lock(String, String),
    /// Removes the entry, if there is one.
    Delete(String),
    /// Removes all entries whose keys begin so.
    DeleteTree(String),
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Kv<'a> {
    verb: &'static str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Base64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
}

impl Serialize for Op {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename = "KV")]
        struct Outer<'a> {
            #[serde(rename = "KV")]
            kv: Kv<'a>,
        }
        let plain = |verb, key| Kv { verb, key, value: None, flags: None, index: None, session: None };
        let kv = match self {
            Self::Get(key) => plain("get", key),
            Self::Tree(key) => plain("get-tree", key),
            Self::Absent(key) => plain("check-not-exists", key),
            Self::Unchanged(key, index) => Kv { index: Some(*index), ..plain("check-index", key) },
            Self::Set(key, value, flags) => {
                Kv { value: Some(Base64(value.clone())), flags: Some(*flags), ..plain("set", key) }
            }
            Self::Lock(key, session) => Kv { session: Some(session), ..plain("lock", key) },
            Self::Delete(key) => plain("delete", key),
            Self::DeleteTree(key) => plain("delete-tree", key),
        };
        Outer { kv }.serialize(serializer)
    }
}

/// The request's body. [`StoreError::Invalid`] when Consul would not take it.
pub fn body(ops: &[Op]) -> Result<Bytes, StoreError> {
    if ops.len() > MAX_OPS {
        return Err(StoreError::Invalid(format!(
            "a transaction that takes Consul {} operations: {MAX_OPS} is the most (a record with a lease takes two)",
            ops.len()
        )));
    }
    let body = serde_json::to_vec(ops).map_err(|e| StoreError::Invalid(e.to_string()))?;
    if body.len() > MAX_BODY {
        return Err(StoreError::Invalid(format!(
            "a transaction that takes Consul a request of {} bytes: {MAX_BODY} is the most",
            body.len()
        )));
    }
    Ok(body.into())
}

/// An entry of Consul's key-value store.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Entry {
    /// With the store's prefix.
    pub key: String,
    /// Absent in the answer to a write, and when it is empty.
    value: Option<Base64>,
    /// Ours to use.
    pub flags: u64,
    /// The raft index that wrote it.
    pub modify_index: u64,
    /// The session that it is bound to.
    pub session: Option<String>,
}

impl Entry {
    /// The value.
    pub fn value(&self) -> &[u8] {
        self.value.as_ref().map_or(&[], |v| &v.0)
    }
}

/// An operation that failed, and with it its transaction.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct OpFailure {
    /// Which one, from 0.
    #[serde(rename = "OpIndex")]
    pub op: usize,
    /// What Consul says.
    #[serde(rename = "What")]
    pub reason: String,
}

/// How a transaction ended.
#[derive(Debug)]
pub enum Applied {
    /// Done. The entries read and written, in the operations' order; entries that the ACL token may not read
    /// are left out.
    Done(Vec<Entry>),
    /// Nothing was done. All operations that failed.
    Failed(Vec<OpFailure>),
}

/// The answer to a transaction.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TxnAnswer {
    results: Option<Vec<TxnResult>>,
    errors: Option<Vec<OpFailure>>,
}

#[derive(Deserialize)]
struct TxnResult {
    #[serde(rename = "KV")]
    kv: Option<Entry>,
}

impl From<TxnAnswer> for Applied {
    fn from(answer: TxnAnswer) -> Self {
        match answer.errors {
            Some(failures) if !failures.is_empty() => Self::Failed(failures),
            _ => Self::Done(answer.results.unwrap_or_default().into_iter().filter_map(|r| r.kv).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_look_as_consul_reads_them() {
        let ops = [
            Op::Set("a".to_owned(), vec![0, 255], 7),
            Op::Unchanged("b".to_owned(), 3),
            Op::Lock("c".to_owned(), "uuid".to_owned()),
        ];
        let text = String::from_utf8(body(&ops).unwrap().to_vec()).unwrap();
        assert_eq!(
            text,
            r#"[{"KV":{"Verb":"set","Key":"a","Value":"AP8=","Flags":7}},{"KV":{"Verb":"check-index","Key":"b","Index":3}},{"KV":{"Verb":"lock","Key":"c","Session":"uuid"}}]"#
        );
    }

    #[test]
    fn what_consul_would_refuse_is_not_sent() {
        let many = vec![Op::Delete("a".to_owned()); MAX_OPS + 1];
        assert!(body(&many).unwrap_err().to_string().contains("65 operations"));
        let long = [Op::Set("a".to_owned(), vec![0; MAX_BODY * 3 / 4], 0)];
        assert!(body(&long).unwrap_err().to_string().contains("bytes"));
    }

    #[test]
    fn an_answer_is_read_with_and_without_values() {
        let text = r#"{"Results":[{"KV":{"LockIndex":0,"Key":"a","Flags":18446744073709551615,"Value":null,
            "CreateIndex":8,"ModifyIndex":9}}],"Errors":null}"#;
        let Applied::Done(entries) = serde_json::from_str::<TxnAnswer>(text).unwrap().into() else {
            panic!("it failed");
        };
        assert_eq!((entries[0].flags, entries[0].modify_index, entries[0].value()), (u64::MAX, 9, &b""[..]));
        let text = r#"{"Results":null,"Errors":[{"OpIndex":4,"What":"no"}]}"#;
        let Applied::Failed(failures) = serde_json::from_str::<TxnAnswer>(text).unwrap().into() else {
            panic!("it went well");
        };
        assert_eq!(failures, [OpFailure { op: 4, reason: "no".to_owned() }]);
    }
}
