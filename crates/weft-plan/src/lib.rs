//! Pure decisions: which address an endpoint gets, and what this host's kernel should hold.
//!
//! A snapshot of the cluster goes in, the desired [`HostState`] comes out; the difference to what the kernel
//! has (observed, never remembered) is a list of [`Op`]s. Nothing here does I/O, so all of it is tested with
//! values, and a simulation can run it without a kernel.

mod absence;
mod diff;
mod direct;
mod displaced;
mod explain;
mod gateway;
mod groups;
mod holder;
mod ipam;
mod leaks;
mod members;
pub mod model_kernel;
mod mtu;
pub mod names;
mod nodes;
mod outside;
mod plan;
mod planner;
mod reserve;
mod state;

pub use absence::{Absences, LOOKS, Sight};
pub use diff::{diff, diff_keys, is_as_desired};
pub use direct::{NotDirect, direct_between};
pub use displaced::displaced;
pub use explain::{Explanation, explain};
pub use holder::describe_holder;
pub use ipam::{IpamError, Order, choose, choose_subnet, choose_vni, conflicting_route};
pub use leaks::{Leak, leaks};
pub use mtu::{network_mtu, tunnel_mtu};
pub use outside::choose_outside;
pub use plan::plan;
pub use planner::Planner;
pub use reserve::{RESERVE, ReserveChange, Reserving, claims_of, reserved};
pub use state::{
    Bridge, Direct, FarEndSandbox, Fdb, Features, Filter, GATEWAY_PORTS, Gateway, GatewayPort, HostState,
    Key, Neighbour, Object, Op, Port, PortFarEnd, Published, Vxlan, bridge_name, far_end_name,
    gateway_port_name, port_name, vxlan_name,
};

#[cfg(test)]
mod tests;
