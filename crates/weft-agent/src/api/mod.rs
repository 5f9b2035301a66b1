//! The daemon's API: HTTP with JSON bodies on a unix socket that only root and the group `weft` can use.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/networks` | `[`[`NetworkView`]`]` |
//! | `POST /v1/networks` with a [`NetworkSpec`] | [`NetworkView`] |
//! | `GET /v1/networks/REFERENCE` | [`NetworkView`] |
//! | `DELETE /v1/networks/REFERENCE` | nothing (204) |
//! | `GET /v1/endpoints` | `[`[`EndpointView`]`]` |
//! | `GET /v1/endpoints/REFERENCE` | [`EndpointView`] |
//! | `GET /v1/nodes` | `[`[`NodeView`]`]` |
//! | `GET /v1/addresses/IP` | `[`[`Explanation`]`]`, one for each network that holds it |
//! | `GET /v1/leaks` | `[`[`Leak`]`]` |
//! | `DELETE /v1/leaks` with a [`GcRequest`] | `[`[`Leak`]`]`: what was removed |
//! | `POST /v1/attach` with an [`AttachRequest`] | [`EndpointView`] |
//! | `POST /v1/detach` with a [`DetachRequest`] | nothing (204) |
//! | `POST /v1/attach-tap` with an [`AttachTapRequest`] | [`EndpointView`] |
//! | `POST /v1/detach-tap` with a [`DetachTapRequest`] | nothing (204) |
//! | `POST /v1/expose` with an [`ExposeRequest`] | [`EndpointView`] |
//! | `POST /v1/unexpose` with an [`UnexposeRequest`] | nothing (204) |
//! | `POST /v1/check` with a [`DetachRequest`] | [`EndpointView`]: it is there and intact |
//! | `POST /v1/down` | nothing (204): this host has left the cluster, the daemon ends |
//!
//! A REFERENCE is a name, an id, or the beginning of one id. Anything else than 2xx carries an [`ErrorBody`].

mod client;
mod server;
mod types;

pub use client::{Client, ClientError};
pub(crate) use server::{bind, serve};
pub use types::{
    AttachRequest, AttachTapRequest, AttachingEngine, DetachRequest, DetachTapRequest, EndpointView,
    EngineStatus, ErrorBody, ErrorKind, ExposeRequest, GcRequest, NetworkSpec, NetworkView, NodeView,
    OutsideRequest, Statistics, Status, StoreStatus, Traffic, UnexposeRequest,
};
pub use weft_plan::{Explanation, Leak};
