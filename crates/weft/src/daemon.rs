//! `weft daemon`: starts the agent, serves the engines, and ends when it is told to.
//!
//! Ending leaves the data path as it is: containers go on talking, and the next start adopts what it finds.

use crate::{config::DaemonConfig, exit::Failure, output};
use std::io::{self, IsTerminal};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use weft_agent::{Agent, api::ErrorKind};
use weft_engines::docker::{self, DockerOptions, EngineError};

/// Runs a daemon to its end.
pub async fn run(config: DaemonConfig) -> Result<(), Failure> {
    log_to_stderr(&config.log)?;
    let mut signals = Signals::listen()?;
    let ready =
        format!("weft: node {} is ready, store {}", config.agent.node_name, config.agent.cluster_store);
    let running = tokio::select! {
        started = weft_agent::start(config.agent) => started?,
        // The store may take its time; whoever does not want to wait for it can still end the daemon.
        () = signals.asked_to_end() => return Ok(()),
    };
    output::print(&format!("{ready}\n"))?;

    let ending = running.ending();
    let serving = async {
        let served = serve_engines(running.agent().clone(), config.docker, ending.clone()).await;
        ending.cancel();
        served
    };
    let waiting = async {
        tokio::select! {
            // `weft down`, or an engine that cannot be served.
            () = ending.cancelled() => {}
            () = signals.asked_to_end() => ending.cancel(),
        }
    };
    let (served, ()) = tokio::join!(serving, waiting);
    running.stop().await?;
    Ok(served?)
}

/// Serves every engine that is to be served, until `ending`.
async fn serve_engines(
    agent: Agent,
    docker: Option<DockerOptions>,
    ending: CancellationToken,
) -> Result<(), EngineError> {
    if let Some(options) = docker {
        return docker::run(agent, options, ending).await;
    }
    ending.cancelled().await;
    Ok(())
}

/// The signals by which a daemon is asked to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let failed =
            |e: io::Error| Failure::new(ErrorKind::Internal, format!("cannot listen to signals: {e}"));
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    async fn asked_to_end(&mut self) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "ending; the data path stays");
    }
}

fn log_to_stderr(filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|e| Failure::new(ErrorKind::Invalid, format!("--log {filter:?}: {e}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init()
        .map_err(|e| Failure::new(ErrorKind::Internal, format!("cannot log: {e}")))
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let kind = match &error {
            EngineError::SocketInUse(_) => ErrorKind::Conflict,
            EngineError::Api(_) => ErrorKind::Invalid,
            EngineError::Socket { .. } | EngineError::Server { .. } => ErrorKind::Internal,
        };
        let hint = matches!(error, EngineError::Socket { .. } | EngineError::SocketInUse(_))
            .then(|| "choose another --docker-plugin-socket, or serve no Docker with --no-docker".to_owned());
        Self { message: error.to_string(), hint, kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_filter_that_is_none_is_refused() {
        let failure = log_to_stderr("weft=loud=louder").unwrap_err();
        assert!(failure.message.starts_with("--log \"weft=loud=louder\": "), "{}", failure.message);
        assert_eq!(failure.kind, ErrorKind::Invalid);
    }

    #[test]
    fn a_plugin_socket_in_use_is_a_conflict_with_a_way_out() {
        let failure = Failure::from(EngineError::SocketInUse("/run/docker/plugins/weft.sock".into()));
        assert_eq!(failure.kind, ErrorKind::Conflict);
        assert!(failure.hint.unwrap().contains("--no-docker"));
    }
}
