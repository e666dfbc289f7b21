//! Asks the Trust Layer's sidecar, on its Unix socket, whether a session is valid.
//!
//! [`Client`] validates sessions and hands out the generated stubs of [`v1`]; [`Error`] tells a definite no from not
//! knowing. With the feature `tower`, `layer::SessionLayer` guards an HTTP server; with
//! `axum`, its `CurrentSession` is an extractor too.

mod client;
mod error;
#[cfg(feature = "tower")]
pub mod layer;
mod methods;
mod redaction;
mod timeout;
mod transport;
mod unix_channel;

/// The messages and stubs of the standard, `trustlayer.v1`, as they are generated.
///
/// Enum fields are `i32`: a number that a newer sidecar sends stays what it is. Messages that hold a secret show only
/// their name with `{:?}`.
#[allow(missing_docs, rustdoc::all, clippy::all, clippy::pedantic)]
pub mod v1 {
    include!("generated/trustlayer.v1.rs");

    /// Descriptors of all of it: a `google.protobuf.FileDescriptorSet`, serialized.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/trustlayer.v1.binpb");
}

pub use client::{Active, Client};
pub use error::{Error, Failure};
pub use tonic;
pub use transport::Transport;
