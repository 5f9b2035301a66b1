//! The machine that the daemon runs on, as far as other hosts see it: its addresses, its routes, the paths to its peers.

use crate::{AgentError, AgentOptions, membership};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream, stream::BoxStream};
use std::{
    collections::BTreeSet,
    future,
    net::{IpAddr, SocketAddr},
};
use weft_kernel::{KernelError, Path, host_addresses, look, path, watch_underlay};
use weft_model::{Node, NodeId};
use weft_plan::Sight;

/// A machine, as membership sees it. [`ThisMachine`] is the real one; a simulation has its own.
///
/// What an implementer must guarantee: `describe`, `addresses` and `path` tell how things are at that moment; a change of either is
/// reported by `changes` soon after it, also one that came in between two looks at the stream.
pub trait Machine: Send + Sync + 'static {
    /// This node's record as this machine is now.
    fn describe(&self, options: &AgentOptions, id: &NodeId, epoch: u64) -> Result<Node, AgentError>;

    /// All addresses of the host's.
    fn addresses(&self) -> Result<BTreeSet<IpAddr>, KernelError>;

    /// The way to `peer`, where it is known.
    fn path(&self, peer: IpAddr) -> Option<Path>;

    /// Whether the host with this VTEP address is there; the port is the tunnels'.
    fn look(&self, at: SocketAddr) -> BoxFuture<'_, Sight>;

    /// Tells of changes of addresses, devices and routes. After an error nothing more comes.
    fn changes(&self) -> Result<BoxStream<'static, Result<(), KernelError>>, KernelError>;
}

/// The machine that this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThisMachine;

impl Machine for ThisMachine {
    fn describe(&self, options: &AgentOptions, id: &NodeId, epoch: u64) -> Result<Node, AgentError> {
        membership::describe(options, id, epoch)
    }

    fn addresses(&self) -> Result<BTreeSet<IpAddr>, KernelError> {
        host_addresses()
    }

    fn path(&self, peer: IpAddr) -> Option<Path> {
        path(peer).ok().flatten()
    }

    fn look(&self, at: SocketAddr) -> BoxFuture<'_, Sight> {
        look(at).boxed()
    }

    fn changes(&self) -> Result<BoxStream<'static, Result<(), KernelError>>, KernelError> {
        let watch = watch_underlay()?;
        let changes = stream::unfold(watch, async |watch| {
            let change = watch.changed().await;
            Some((change, watch))
        });
        Ok(changes.boxed())
    }
}

/// A machine of which nothing changes: its node is this one, its id included. For those who play many hosts.
#[derive(Clone, Debug)]
pub struct Unchanging(pub Node);

impl Machine for Unchanging {
    fn describe(&self, _: &AgentOptions, _: &NodeId, epoch: u64) -> Result<Node, AgentError> {
        Ok(Node { epoch, ..self.0.clone() })
    }

    fn addresses(&self) -> Result<BTreeSet<IpAddr>, KernelError> {
        Ok(self.0.vteps.iter().copied().collect())
    }

    fn path(&self, _: IpAddr) -> Option<Path> {
        None
    }

    fn look(&self, _: SocketAddr) -> BoxFuture<'_, Sight> {
        future::ready(Sight::Present).boxed()
    }

    fn changes(&self) -> Result<BoxStream<'static, Result<(), KernelError>>, KernelError> {
        Ok(stream::pending().boxed())
    }
}
