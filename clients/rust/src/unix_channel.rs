//! The connection to a Unix socket. It is made with the first call, and anew with the first call after it was lost.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// A socket that takes nobody in for so long counts as away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Make the channel; nothing connects yet. Panics outside of a Tokio runtime.
pub(crate) fn open(socket: &Arc<Path>) -> Channel {
    let socket = Arc::clone(socket);
    // The name is the authority that HTTP/2 asks for; nobody resolves it.
    Endpoint::from_static("http://localhost").connect_timeout(CONNECT_TIMEOUT).connect_with_connector_lazy(
        tower::service_fn(move |_: Uri| {
            let socket = Arc::clone(&socket);
            async move { UnixStream::connect(&socket).await.map(TokioIo::new) }
        }),
    )
}
