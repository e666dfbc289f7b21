//! The guarded service.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower::Service;

use super::session_layer::SessionLayer;
use crate::Active;

/// The session of a request, among its extensions. It derefs to [`Active`].
#[derive(Clone, Debug)]
pub struct CurrentSession(Arc<Active>);

impl Deref for CurrentSession {
    type Target = Active;

    fn deref(&self) -> &Active {
        &self.0
    }
}

/// What [`SessionLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct SessionService<S> {
    layer: SessionLayer,
    inner: S,
}

impl<S> SessionService<S> {
    pub(super) fn new(layer: SessionLayer, inner: S) -> Self {
        Self { layer, inner }
    }
}

impl<S, B, R> Service<Request<B>> for SessionService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: From<String>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The one that is ready goes with the request; the clone may not be.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let layer = self.layer.clone();
        let question = layer.question(request.headers(), request.extensions());
        Box::pin(async move {
            // What a layer around this one has said is about other settings.
            request.extensions_mut().remove::<CurrentSession>();
            match layer.judge(question).await {
                Ok(Some(active)) => {
                    request.extensions_mut().insert(CurrentSession(Arc::new(active)));
                }
                Ok(None) => {}
                Err(refusal) => return Ok(refusal.into_response()),
            }
            inner.call(request).await
        })
    }
}
