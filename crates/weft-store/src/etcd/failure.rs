//! What an error of etcd, or of the way there, means for us.

use crate::{
    LeaseId, OptionError, StoreError, StoreOptions,
    tls::{find_tls, is_of_certificates},
};
use etcd_client::Error;
use rustls::{AlertDescription, CertificateError};
use std::error::Error as _;
use tonic::Code;
use weft_model::Revision;

/// Why a call to one member failed.
#[derive(Debug)]
pub enum Failure {
    /// etcd said so, or the way there.
    Etcd(Error),
    /// The connection broke, and another one shows why: etcd does not accept our certificate.
    Alert(AlertDescription),
    /// A file that an option names is of no use any more.
    Option(OptionError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Etcd(error)
    }
}

/// What a failure means for the call.
#[derive(Debug)]
pub enum Verdict {
    /// The cluster says so: no other member will say otherwise.
    Final(StoreError),
    /// One member says so: another may do what is asked.
    Elsewhere(Trouble),
}

/// What is wrong with one member.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// How.
    pub kind: TroubleKind,
    /// For people.
    pub reason: String,
    /// The call has had no effect for certain.
    pub unsent: bool,
}

/// How a member fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TroubleKind {
    /// No connection, or a broken one.
    Away,
    /// No answer.
    Silent,
    /// It answers, and knows of no leader: an election is under way, or most of the cluster is away.
    NoLeader,
    /// It answers, and may do what is asked in a moment.
    Busy,
    /// It does not prove who it is.
    Untrusted,
    /// It does not accept who we are.
    Refused,
}

/// What a failure at `endpoint` means. `known`: it has answered before. `base` stands before every key.
pub fn judge(
    address: &str,
    endpoint: &str,
    known: bool,
    base: &str,
    options: &StoreOptions,
    failure: &Failure,
) -> Verdict {
    let store = || address.to_owned();
    let denied = |reason: String| Verdict::Final(StoreError::Denied { store: store(), reason });
    let elsewhere = |kind, reason, unsent| {
        Verdict::Elsewhere(Trouble { kind, reason: format!("{endpoint}: {reason}"), unsent })
    };
    let status = match failure {
        Failure::Option(error) => return denied(error.to_string()),
        Failure::Alert(alert) => {
            return elsewhere(TroubleKind::Refused, our_certificate(*alert, options), false);
        }
        Failure::Etcd(Error::GRpcStatus(status)) => status,
        Failure::Etcd(error) => return elsewhere(TroubleKind::Away, error.to_string(), false),
    };
    let message = status.message();
    if let Some((kind, reason)) = about_certificates(status, options) {
        return elsewhere(kind, reason, never_sent(status));
    }
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => denied(who_we_are(message, base, options)),
        // etcd with authentication switched on, and a client without a user.
        Code::InvalidArgument if speaks_of_users(message) => denied(who_we_are(message, base, options)),
        Code::InvalidArgument => Verdict::Final(StoreError::Invalid(message.to_owned())),
        Code::ResourceExhausted if message.contains("space exceeded") => {
            Verdict::Final(StoreError::Invalid(message.to_owned()))
        }
        Code::NotFound if message.contains("lease not found") => {
            Verdict::Final(StoreError::LeaseLost(LeaseId(0)))
        }
        Code::OutOfRange if message.contains("compacted") => {
            Verdict::Final(StoreError::Compacted(Revision::ZERO))
        }
        // etcd says these before it proposes anything to its cluster.
        _ if message.contains("no leader") || message.contains("proposal dropped") => {
            elsewhere(TroubleKind::NoLeader, message.to_owned(), true)
        }
        _ if message.contains("too many requests") => elsewhere(TroubleKind::Busy, message.to_owned(), true),
        // The leader went away while etcd was at it: "leader changed", "request timed out, possibly due to …".
        _ if message.contains("etcdserver: ") => elsewhere(TroubleKind::Busy, message.to_owned(), false),
        _ => elsewhere(TroubleKind::Away, transport(status, known, options), never_sent(status)),
    }
}

/// Whether it is a message about who we are: they have no code of their own everywhere.
pub fn speaks_of_users(message: &str) -> bool {
    ["user name", "auth", "permission denied"].iter().any(|word| message.contains(word))
}

/// Whether etcd has refused because the token is none of its own any more: it has expired, the member has
/// restarted, or users and roles have changed since. Nothing was done, so signing in and asking again is safe.
pub fn wants_new_token(failure: &Failure) -> bool {
    let Failure::Etcd(Error::GRpcStatus(status)) = failure else { return false };
    let message = status.message();
    status.code() == Code::Unauthenticated
        || ["invalid auth token", "auth store is old", "user name is empty"]
            .iter()
            .any(|m| message.contains(m))
}

/// Whether etcd has no use for a token: authentication is off.
pub fn wants_no_token(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.message().contains("authentication is not enabled"))
}

/// Whether etcd knows the user by another password, or does not know the user.
pub fn is_wrong_password(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.message().contains("authentication failed"))
}

/// Whether certificates, theirs or ours, are in the way.
pub fn of_certificates(failure: &Failure, options: &StoreOptions) -> bool {
    match failure {
        Failure::Alert(_) => true,
        Failure::Etcd(Error::GRpcStatus(status)) => about_certificates(status, options).is_some(),
        _ => false,
    }
}

/// Whether a connection broke for a reason that is not known.
pub fn broke(failure: &Failure) -> bool {
    matches!(failure, Failure::Etcd(Error::GRpcStatus(status)) if status.source().is_some() && !never_sent(status))
}

/// Whether the call has had no effect for certain.
pub fn unsent(failure: &Failure) -> bool {
    matches!(failure, Failure::Etcd(Error::GRpcStatus(status)) if never_sent(status))
}

/// Puts the lease's number into an error that etcd reported without it.
pub fn lease_lost(error: StoreError, lease: Option<LeaseId>) -> StoreError {
    match (error, lease) {
        (StoreError::LeaseLost(_), Some(lease)) => StoreError::LeaseLost(lease),
        (error, _) => error,
    }
}

/// etcd's word on the user, and what to do.
fn who_we_are(message: &str, base: &str, options: &StoreOptions) -> String {
    let Some(user) = options.user() else {
        return format!("{message}: etcd wants a user: give kv.user and kv.passwordfile");
    };
    if message.contains("authentication failed") {
        let file = options.password_file().unwrap_or_else(|| std::path::Path::new("")).display();
        return format!("{message}: kv.user={user} with the password in kv.passwordfile={file}");
    }
    format!(
        "{message}: kv.user={user} needs a role with read and write on all keys below {base}: etcdctl role \
         grant-permission ROLE readwrite --prefix=true {base}"
    )
}

/// What went wrong in TLS, and what to do.
fn about_certificates(status: &tonic::Status, options: &StoreOptions) -> Option<(TroubleKind, String)> {
    Some(match find_tls(status)? {
        rustls::Error::InvalidCertificate(error) => {
            (TroubleKind::Untrusted, their_certificate(error, options))
        }
        rustls::Error::AlertReceived(alert) if is_of_certificates(*alert) => {
            (TroubleKind::Refused, our_certificate(*alert, options))
        }
        error => (TroubleKind::Untrusted, format!("TLS failed: {error}")),
    })
}

fn their_certificate(error: &CertificateError, options: &StoreOptions) -> String {
    match (error, options.ca_file()) {
        // Of a CA that has the name of a trusted one and another key, the signature is bad.
        (CertificateError::UnknownIssuer | CertificateError::BadSignature, Some(ca)) => {
            format!("its certificate is not signed by a CA in kv.cacertfile={}", ca.display())
        }
        (CertificateError::UnknownIssuer | CertificateError::BadSignature, None) => {
            "its certificate is not signed by a CA that this host trusts: give kv.cacertfile".to_owned()
        }
        (CertificateError::Expired | CertificateError::ExpiredContext { .. }, _) => {
            format!("its certificate has expired: have it renewed, or set this host's clock ({error})")
        }
        _ => format!("its certificate: {error}"),
    }
}

fn our_certificate(alert: AlertDescription, options: &StoreOptions) -> String {
    match options.cert_file() {
        None => format!(
            "it wants a certificate of this daemon: give kv.certfile and kv.keyfile (TLS alert: {alert:?})"
        ),
        Some(file) => format!(
            "it does not accept the certificate in kv.certfile={}: is it signed by a CA that etcd trusts \
             (--trusted-ca-file), for clients, and valid by etcd's clock? (TLS alert: {alert:?})",
            file.display()
        ),
    }
}

/// What went wrong on the way, with advice where one side speaks TLS and the other does not: each takes the other's
/// first word for nonsense and hangs up.
fn transport(status: &tonic::Status, known: bool, options: &StoreOptions) -> String {
    let text = with_causes(status);
    if known {
        return text;
    }
    // What of our first word it has not read when it hangs up makes a reset of the end.
    let hung_up = ["handshake eof", "Connection reset"].iter().any(|how| text.contains(how));
    let advice = if options.uses_tls() && hung_up {
        " (if it speaks no TLS, leave kv.cacertfile, kv.certfile and kv.keyfile out)"
    } else if !options.uses_tls() && !never_sent(status) {
        " (if it speaks TLS, give kv.cacertfile)"
    } else {
        ""
    };
    format!("{text}{advice}")
}

/// Whether the call failed before anything was sent: no connection came about.
fn never_sent(status: &tonic::Status) -> bool {
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
    use tonic::Status;

    fn verdict(status: Status, options: &str) -> Verdict {
        let options = if options.is_empty() { StoreOptions::default() } else { options.parse().unwrap() };
        judge("etcd://h:1/weft", "h:1", false, "weft/", &options, &Failure::Etcd(Error::GRpcStatus(status)))
    }

    fn final_error(status: Status, options: &str) -> StoreError {
        match verdict(status, options) {
            Verdict::Final(error) => error,
            Verdict::Elsewhere(trouble) => panic!("{trouble:?}"),
        }
    }

    #[test]
    fn authentication_errors_are_told_from_bad_requests() {
        for (status, denied) in [
            (Status::permission_denied("etcdserver: permission denied"), true),
            (Status::unauthenticated("etcdserver: invalid auth token"), true),
            (Status::invalid_argument("etcdserver: user name is empty"), true),
            (Status::invalid_argument("etcdserver: request is too large"), false),
        ] {
            let error = final_error(status, "");
            assert_eq!(matches!(error, StoreError::Denied { .. }), denied, "{error}");
        }
    }

    #[test]
    fn a_denial_names_the_options_that_would_help() {
        let user = "kv.user=ann,kv.passwordfile=/p";
        let failed = "etcdserver: authentication failed, invalid user ID or password";
        for (status, options, expected) in [
            (
                Status::invalid_argument("etcdserver: user name is empty"),
                "",
                "give kv.user and kv.passwordfile",
            ),
            (Status::invalid_argument(failed), user, "kv.user=ann with the password in kv.passwordfile=/p"),
            (Status::permission_denied("etcdserver: permission denied"), user, "--prefix=true weft/"),
        ] {
            let error = final_error(status, options).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn only_what_was_surely_not_done_may_be_done_elsewhere() {
        for (status, kind, unsent) in [
            (Status::unavailable("etcdserver: no leader"), TroubleKind::NoLeader, true),
            (Status::unknown("raft proposal dropped"), TroubleKind::NoLeader, true),
            (Status::resource_exhausted("etcdserver: too many requests"), TroubleKind::Busy, true),
            (Status::unavailable("etcdserver: request timed out"), TroubleKind::Busy, false),
            (Status::unavailable("etcdserver: leader changed"), TroubleKind::Busy, false),
            (Status::unavailable("broken pipe"), TroubleKind::Away, false),
        ] {
            match verdict(status, "") {
                Verdict::Elsewhere(t) => assert_eq!((t.kind, t.unsent), (kind, unsent), "{t:?}"),
                Verdict::Final(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn a_token_is_renewed_for_what_a_new_one_can_cure() {
        for (status, renewed) in [
            (Status::unauthenticated("etcdserver: invalid auth token"), true),
            (Status::invalid_argument("etcdserver: revision of auth store is old"), true),
            (
                Status::invalid_argument("etcdserver: authentication failed, invalid user ID or password"),
                false,
            ),
            (Status::permission_denied("etcdserver: permission denied"), false),
        ] {
            let failure = Failure::Etcd(Error::GRpcStatus(status));
            assert_eq!(wants_new_token(&failure), renewed, "{failure:?}");
        }
    }
}
