//! Why the kernel did not do what it was asked.

/// An error of the kernel's, with the object it is about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// A netlink request failed.
    #[error("{doing}: {reason}")]
    Netlink {
        /// What was being done, as in "create device weft-vx4096".
        doing: String,
        /// The kernel's words, with its extended acknowledgement where there is one.
        reason: String,
        /// The errno, positive; 0 when there is none.
        errno: i32,
    },
    /// Not the superuser.
    #[error("weft must run as root (it makes network devices and namespaces): {0}")]
    NotPermitted(String),
    /// The kernel lacks a feature.
    #[error("this kernel lacks {feature}: {hint}")]
    Unsupported {
        /// What.
        feature: &'static str,
        /// What to do.
        hint: String,
    },
    /// Something else has the VXLAN port.
    #[error("UDP port {port} is taken on this host: {hint}")]
    PortTaken {
        /// The port.
        port: u16,
        /// By whom, and what to do.
        hint: String,
    },
    /// Programs, maps or links of the fast path.
    #[error("{doing}: {reason}")]
    FastPath {
        /// What was being done, as in "load program `to_wire`".
        doing: String,
        /// The kernel's words.
        reason: String,
    },
    /// A namespace cannot be entered or made.
    #[error("network namespace {path}: {reason}")]
    Namespace {
        /// Its path.
        path: String,
        /// Why.
        reason: String,
    },
}
