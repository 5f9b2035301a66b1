//! CNI's errors (specification 1.1, "Error"): a number, a sentence, and what to do.

use serde::Serialize;
use weft_agent::api::{ClientError, ErrorKind};

/// Why a call was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CniError {
    /// CNI's number for it; from 100 on the plugin's own.
    pub code: u32,
    /// What is wrong and why.
    pub message: String,
    /// What to do.
    pub details: String,
}

/// The configuration wants a version that this plugin does not speak.
pub const INCOMPATIBLE_VERSION: u32 = 1;
/// A field of the configuration cannot be honoured.
pub const UNSUPPORTED_FIELD: u32 = 2;
/// The container is not known here.
pub const UNKNOWN_CONTAINER: u32 = 3;
/// A variable is missing or makes no sense.
pub const BAD_ENVIRONMENT: u32 = 4;
/// Input or output failed.
pub const INPUT_OUTPUT: u32 = 5;
/// The input is not JSON of the right shape.
pub const UNDECODABLE: u32 = 6;
/// The configuration makes no sense.
pub const BAD_CONFIGURATION: u32 = 7;
/// It may work later.
pub const TRY_AGAIN: u32 = 11;
/// No new attachment can be made.
pub const NOT_AVAILABLE: u32 = 50;
/// What the daemon refuses: this and the exit code that the command line has for it.
pub const OF_THE_DAEMON: u32 = 100;

impl CniError {
    /// An error without more to say.
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    /// As it goes to standard output, in the configuration's version.
    pub fn to_json(&self, version: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            cni_version: &'a str,
            code: u32,
            msg: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            details: &'a str,
        }
        let body = Body { cni_version: version, code: self.code, msg: &self.message, details: &self.details };
        serde_json::to_string(&body).unwrap_or_default()
    }
}

impl From<ClientError> for CniError {
    fn from(error: ClientError) -> Self {
        let code = match error.kind() {
            ErrorKind::Unavailable => TRY_AGAIN,
            ErrorKind::Invalid => BAD_CONFIGURATION,
            kind => OF_THE_DAEMON + u32::from(kind.exit_code()),
        };
        let details = error.hint().unwrap_or_default().to_owned();
        Self { code, message: error.to_string(), details }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_agent::api::ErrorBody;

    #[test]
    fn what_the_daemon_refuses_has_a_number_for_its_kind() {
        let refused = |kind| {
            let body = ErrorBody { error: "no".to_owned(), hint: Some("do".to_owned()), kind };
            CniError::from(ClientError::Daemon(body))
        };
        let codes = [
            (ErrorKind::Unavailable, 11),
            (ErrorKind::Invalid, 7),
            (ErrorKind::Internal, 101),
            (ErrorKind::NotFound, 103),
            (ErrorKind::Conflict, 104),
            (ErrorKind::Denied, 107),
            (ErrorKind::Unsupported, 108),
        ];
        for (kind, code) in codes {
            assert_eq!(refused(kind).code, code, "{kind:?}");
        }
        let json = refused(ErrorKind::Conflict).to_json("1.0.0");
        assert_eq!(json, r#"{"cniVersion":"1.0.0","code":104,"msg":"no","details":"do"}"#);
    }

    #[test]
    fn a_daemon_that_is_not_there_may_be_there_later() {
        let error = ClientError::NoDaemon { socket: "/s".into(), reason: "gone".to_owned() };
        assert_eq!(CniError::from(error).code, TRY_AGAIN);
    }
}
