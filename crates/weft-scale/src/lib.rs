//! Many hosts in one process: the real control plane of each, over kernels that are only modelled, on a real store.
//!
//! [`Shape`] says how large a cluster is and writes its records; [`Host`] is one host of it; [`Storm`] changes endpoints
//! at a rate and [`Arrivals`] tells when each change has reached the kernel of each host that needs it. [`measure`] does all
//! of it and answers with [`Report`]. `cargo xtask scale` runs it beside a real daemon.

mod arrivals;
mod counted;
mod host;
mod kernel;
mod oracle;
mod process;
mod report;
mod run;
mod shape;
mod storm;

pub use arrivals::{Arrivals, Spread};
pub use counted::{Calls, Counted};
pub use host::{Door, Host};
pub use kernel::FakeKernel;
pub use process::{Process, Usage, wire_bytes};
pub use report::{Phase, Report};
pub use run::{Run, measure};
pub use shape::{Shape, populate};
pub use storm::Storm;
