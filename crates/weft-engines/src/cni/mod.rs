//! CNI 1.0 and 1.1 (and 0.3 and 0.4): containerd, CRI-O, nerdctl, Podman with its old backend.
//!
//! The runtime starts `weft-cni` for each call, with the call in variables (`environment`) and the network's configuration
//! on standard input (`config`); what it does, it asks the daemon for (`plugin`), and the answer goes to standard
//! output (`result`, `error`). Nothing is kept between two calls: an attachment is known by its container and its
//! interface. Source: the CNI specification 1.1.0.

mod config;
mod environment;
pub mod error;
mod plugin;
mod result;
mod version;

#[cfg(test)]
mod tests;

use crate::daemon;
use config::Config;
use environment::{Call, Command};
use error::{CniError, INPUT_OUTPUT};
pub(crate) use plugin::run;
use std::{env, io::Read, process::ExitCode};
use version::Version;
use weft_agent::api::Client;

/// The program `weft-cni`: does the call that the process was started for.
pub fn main() -> ExitCode {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    let outcome = match read {
        Ok(_) => answer(&text, |name| env::var(name).ok()),
        Err(error) => Err(CniError::new(INPUT_OUTPUT, format!("standard input cannot be read: {error}"))),
    };
    match outcome {
        Ok(answer) => {
            if let Some(answer) = answer {
                println!("{answer}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{}", error.to_json(&version_in(&text)));
            ExitCode::FAILURE
        }
    }
}

fn answer(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Option<String>, CniError> {
    let Some((call, config)) = parsed(text, variable)? else {
        return Ok(Some(plugin::versions(&version_in(text))));
    };
    let daemon = Client::new(daemon::socket(config.socket.clone()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let failed = |e| CniError::new(INPUT_OUTPUT, format!("the daemon cannot be called: {e}"));
    runtime.map_err(failed)?.block_on(run(&call, &config, &daemon))
}

/// The call and its configuration. `None`: the versions are asked for, before anything else is known and whatever version the
/// configuration is in.
pub(crate) fn parsed(
    text: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<(Call, Config)>, CniError> {
    let call = Call::of(variable)?;
    if call.command == Command::Version {
        return Ok(None);
    }
    Ok(Some((call, Config::read(text)?)))
}

/// The version that an answer is to be in, whatever else the configuration is.
fn version_in(text: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Versioned {
        #[serde(rename = "cniVersion")]
        version: String,
    }
    let found = serde_json::from_str::<Versioned>(text).map(|found| found.version);
    found.unwrap_or_else(|_| Version::NEWEST.name().to_owned())
}
