//! What an error of etcd, or of the way there, means for us.

use crate::{LeaseId, StoreError};
use etcd_client::Error;
use std::error::Error as _;
use tonic::Code;
use weft_model::Revision;

/// The error in our terms.
pub fn explain(address: &str, endpoint: &str, error: &Error) -> StoreError {
    let store = address.to_owned();
    let Error::GRpcStatus(status) = error else {
        return StoreError::Unreachable { store, reason: format!("{endpoint}: {error}") };
    };
    let message = status.message();
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => {
            StoreError::Denied { store, reason: message.to_owned() }
        }
        // etcd with authentication switched on, and a client without a user.
        Code::InvalidArgument if speaks_of_users(message) => {
            StoreError::Denied { store, reason: message.to_owned() }
        }
        Code::InvalidArgument => StoreError::Invalid(message.to_owned()),
        Code::ResourceExhausted if message.contains("space exceeded") => {
            StoreError::Invalid(message.to_owned())
        }
        Code::NotFound if message.contains("lease not found") => StoreError::LeaseLost(LeaseId(0)),
        Code::OutOfRange if message.contains("compacted") => StoreError::Compacted(Revision::ZERO),
        _ => StoreError::Unreachable { store, reason: format!("{endpoint}: {}", with_causes(status)) },
    }
}

/// Whether it is a message about who we are: they have no code of their own everywhere.
pub fn speaks_of_users(message: &str) -> bool {
    ["user name", "auth", "permission denied"].iter().any(|word| message.contains(word))
}

/// Puts the lease's number into an error that etcd reported without it.
pub fn lease_lost(error: StoreError, lease: Option<LeaseId>) -> StoreError {
    match (error, lease) {
        (StoreError::LeaseLost(_), Some(lease)) => StoreError::LeaseLost(lease),
        (error, _) => error,
    }
}

/// Whether the call failed before anything was sent: no connection came about.
pub fn never_sent(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else { return false };
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The message and those of its causes: "transport error" alone explains nothing.
fn with_causes(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authentication_errors_are_told_from_bad_requests() {
        for (status, denied) in [
            (tonic::Status::permission_denied("etcdserver: permission denied"), true),
            (tonic::Status::unauthenticated("etcdserver: invalid auth token"), true),
            (tonic::Status::invalid_argument("etcdserver: user name is empty"), true),
            (tonic::Status::invalid_argument("etcdserver: request is too large"), false),
        ] {
            let error = explain("etcd://h:1/weft", "h:1", &Error::GRpcStatus(status));
            assert_eq!(matches!(error, StoreError::Denied { .. }), denied, "{error}");
        }
    }
}
