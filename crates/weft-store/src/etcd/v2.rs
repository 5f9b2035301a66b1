//! Reading what others keep in etcd by its first API (v2, HTTP with JSON), which Docker used up to 20.10. weft keeps nothing
//! there. Source: etcd's `Documentation/v2/api.md`.

use crate::{StoreError, StoreOptions};
use reqwest::{Certificate, Client, Identity, StatusCode};
use serde::Deserialize;
use std::time::Duration;

/// What etcd says of a key that is not there (`errorCode`).
const KEY_NOT_FOUND: u32 = 100;

/// A value with its key, which begins with a slash.
pub type Leaf = (String, String);

#[derive(Deserialize)]
struct Answer {
    node: Node,
}

#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    key: String,
    value: Option<String>,
    #[serde(default)]
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(rename = "errorCode")]
    code: u32,
    message: String,
}

/// All values below `folder`, asked of the first of the endpoints (`HOST:PORT`) that answers; none when there is no such
/// folder.
pub async fn list_v2(
    endpoints: &[String],
    folder: &str,
    timeout: Duration,
    options: &StoreOptions,
) -> Result<Vec<Leaf>, StoreError> {
    let address = format!("etcd://{}", endpoints.join(","));
    let http = client(timeout, options).map_err(StoreError::Invalid)?;
    let password = options.password().map_err(|e| StoreError::Invalid(e.to_string()))?;
    let scheme = if options.uses_tls() { "https" } else { "http" };
    let mut reason = "no endpoint".to_owned();
    for endpoint in endpoints {
        let url = format!("{scheme}://{endpoint}/v2/keys/{}?recursive=true", folder.trim_matches('/'));
        let mut request = http.get(url);
        if let Some(user) = options.user() {
            request = request.basic_auth(user, password.as_ref());
        }
        let answer = match request.send().await {
            Ok(answer) => {
                let status = answer.status();
                answer.bytes().await.map(|body| (status, body))
            }
            Err(error) => Err(error),
        };
        match answer {
            Ok((status, body)) => return read(&address, status, &body),
            Err(error) => reason = format!("{endpoint}: {error}"),
        }
    }
    Err(StoreError::Unreachable { store: address, reason })
}

fn client(timeout: Duration, options: &StoreOptions) -> Result<Client, String> {
    let mut http = Client::builder().timeout(timeout).redirect(reqwest::redirect::Policy::none());
    if let Some(tls) = options.tls().map_err(|e| e.to_string())? {
        if let Some(ca) = &tls.ca {
            http = http.tls_certs_only(Certificate::from_pem_bundle(ca).map_err(|e| e.to_string())?);
        }
        if let Some((certificate, key)) = &tls.identity {
            let both = [&certificate[..], b"\n", key].concat();
            http = http.identity(Identity::from_pem(&both).map_err(|e| e.to_string())?);
        }
    }
    http.build().map_err(|e| e.to_string())
}

fn read(address: &str, status: StatusCode, body: &[u8]) -> Result<Vec<Leaf>, StoreError> {
    let store = || address.to_owned();
    if status.is_success() {
        return leaves(body).map_err(|reason| StoreError::Unreachable { store: store(), reason });
    }
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) if refusal.code == KEY_NOT_FOUND => Ok(Vec::new()),
        Ok(refusal) => Err(StoreError::Denied { store: store(), reason: refusal.message }),
        Err(_) if status == StatusCode::NOT_FOUND => Err(StoreError::Invalid(format!(
            "{address} does not speak etcd's v2 API: it must run with --enable-v2, as it must for Docker"
        ))),
        Err(_) => Err(StoreError::Denied { store: store(), reason: format!("HTTP {status}") }),
    }
}

/// The values in an answer of etcd's, in the order of its keys. The error is in words.
pub fn leaves(answer: &[u8]) -> Result<Vec<Leaf>, String> {
    let answer: Answer =
        serde_json::from_slice(answer).map_err(|e| format!("this is no answer of etcd's v2 API: {e}"))?;
    let (mut found, mut rest) = (Vec::new(), vec![answer.node]);
    while let Some(node) = rest.pop() {
        if let Some(value) = node.value {
            found.push((node.key, value));
        }
        rest.extend(node.nodes);
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answers_values_are_found_at_every_depth() {
        let answer = br#"{"action":"get","node":{"key":"/a","dir":true,"nodes":[
            {"key":"/a/c","dir":true,"nodes":[{"key":"/a/c/d","value":"2"}]},{"key":"/a/b","value":"1"},{"key":"/a/e","dir":true}]}}"#;
        let expected = [("/a/b", "1"), ("/a/c/d", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(leaves(answer).unwrap(), expected);
        assert!(leaves(b"<html>").unwrap_err().contains("no answer of etcd's v2 API"));
    }

    #[test]
    fn a_folder_that_is_not_there_is_empty_and_an_etcd_without_the_api_is_told() {
        let read = |status, body: &str| super::read("etcd://h:1", status, body.as_bytes());
        let absent = r#"{"errorCode":100,"message":"Key not found","cause":"/docker","index":7}"#;
        assert_eq!(read(StatusCode::NOT_FOUND, absent).unwrap(), []);
        let error = read(StatusCode::NOT_FOUND, "404 page not found\n").unwrap_err().to_string();
        assert!(error.contains("--enable-v2"), "{error}");
        let denied = r#"{"errorCode":110,"message":"The request requires user authentication"}"#;
        assert!(matches!(read(StatusCode::UNAUTHORIZED, denied), Err(StoreError::Denied { .. })));
    }
}
