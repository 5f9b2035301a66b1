//! Networks that something else has defined, as networks of weft's: what each would be, and what cannot be carried over.
//!
//! All of this is pure: a definition's bytes in, a [`Definition`] out. `docker_classic`, `swarm` and `flannel` read one format
//! each; `overlay` is what the first two have in common; `fit` compares the result with what the cluster has.

pub mod docker_classic;
pub mod fit;
pub mod flannel;
mod line;
mod overlay;
pub mod swarm;

pub use line::command_line;

use weft_agent::api::NetworkSpec;

/// A network to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// As the daemon is asked for it. It has a name.
    pub spec: NetworkSpec,
    /// What differs from what it was, each with the reason.
    pub notes: Vec<String>,
}

/// A network that is not proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// What it is called where it is defined.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// What a definition says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    /// Networks to make, by name.
    pub proposals: Vec<Proposal>,
    /// The others, by name.
    pub left: Vec<Left>,
}

impl Definition {
    fn add(&mut self, name: &str, read: Result<Proposal, String>) {
        match read {
            Ok(proposal) => self.proposals.push(proposal),
            Err(reason) => self.left.push(Left { name: name.to_owned(), reason }),
        }
    }

    fn sorted(mut self) -> Self {
        self.proposals.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        self.left.sort_by(|a, b| a.name.cmp(&b.name));
        self
    }
}

/// How to read a definition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Propose also networks whose frames were encrypted.
    pub unencrypted: bool,
}

/// Bytes that are no definition: what is wrong, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct NoDefinition {
    /// What was read: "the answer of `docker network inspect`".
    pub what: &'static str,
    /// Why it is none.
    pub reason: String,
}

#[cfg(test)]
mod tests;
