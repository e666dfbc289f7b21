//! A [`tower::Layer`] that lets only requests with an active session through to an HTTP service.
//!
//! [`SessionLayer`] refuses by default; what it hands on carries a [`CurrentSession`] among the request's extensions.

#[cfg(feature = "axum")]
mod axum;
mod client_ip;
mod refusal;
mod sent;
mod service;
mod session_layer;

pub use client_ip::Peer;
pub use ipnet::IpNet;
pub use refusal::Refusal;
pub use sent::SessionIdFrom;
pub use service::{CurrentSession, SessionService};
pub use session_layer::SessionLayer;
