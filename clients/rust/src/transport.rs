//! What every call goes through on its way to the socket: its deadline, and its repetition where that is safe.

use std::convert::Infallible;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, Full, Limited};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tower::Service;

use crate::error::is_answer;
use crate::methods::{self, Method};
use crate::timeout;
use crate::unix_channel;

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// Before the second, third and fourth attempt.
const RETRY_DELAYS: [Duration; 3] =
    [Duration::from_millis(20), Duration::from_millis(60), Duration::from_millis(180)];
/// Of a message with what frames it: above what the generated code takes, 4 MiB.
const MAX_RESPONSE_BYTES: usize = 5 * 1024 * 1024;

/// How long calls may take that come without a deadline of their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// What the sidecar itself answers.
    pub(crate) local: Duration,
    /// What it relays to Flowless.
    pub(crate) relayed: Duration,
}

/// The way to a sidecar's socket that generated stubs are made over. Cheap to clone; all clones share one connection.
///
/// It gives a call without a deadline the default one, holds the call to it, and makes a call again that no sidecar has
/// answered, if it has no side effects. Dropping the call's future cancels the call.
#[derive(Clone)]
pub struct Transport {
    socket: Arc<Path>,
    // With the first call, which is made inside a runtime; the client may be made outside.
    channel: Arc<OnceLock<Channel>>,
    timeouts: Timeouts,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport")
            .field("socket", &self.socket)
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

impl Service<Request> for Transport {
    type Response = Response;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let transport = self.clone();
        Box::pin(async move { transport.carry_out(request).await })
    }
}

impl Transport {
    pub(crate) fn new(socket: &Path, timeouts: Timeouts) -> Self {
        Self { socket: Arc::from(socket), channel: Arc::default(), timeouts }
    }

    pub(crate) fn timeouts_mut(&mut self) -> &mut Timeouts {
        &mut self.timeouts
    }

    async fn carry_out(&self, request: Request) -> Result<Response, Status> {
        let method = methods::find(request.uri().path());
        let default = if method.local { self.timeouts.local } else { self.timeouts.relayed };
        let deadline = timeout::after(timeout::of(request.headers()).unwrap_or(default));
        if !method.unary {
            return self.send(request, deadline).await;
        }
        timeout_at(deadline, self.call_unary(method, request, deadline))
            .await
            .unwrap_or_else(|_| Err(deadline_passed()))
    }

    /// Make the call, and again while that is safe and there is time.
    async fn call_unary(
        &self,
        method: Method,
        request: Request,
        deadline: Instant,
    ) -> Result<Response, Status> {
        let (head, body) = request.into_parts();
        let message = body.collect().await?.to_bytes();
        let mut delays = RETRY_DELAYS.iter().filter(|_| method.repeatable);
        loop {
            let attempt = Request::from_parts(head.clone(), whole(message.clone()));
            let (answer, unanswered) = match self.attempt(attempt, deadline).await {
                Ok(answer) => answer,
                Err(status) => {
                    let unanswered = is_unanswered(&status);
                    (Err(status), unanswered)
                }
            };
            match delays.next() {
                Some(delay) if unanswered && Instant::now() + *delay < deadline => {
                    sleep(*delay).await;
                }
                _ => return answer,
            }
        }
    }

    /// Make the call once and read all of its answer; say too whether no sidecar has answered.
    async fn attempt(
        &self,
        request: Request,
        deadline: Instant,
    ) -> Result<(Result<Response, Status>, bool), Status> {
        let (head, body) = self.send(request, deadline).await?.into_parts();
        let received = Limited::new(body, MAX_RESPONSE_BYTES)
            .collect()
            .await
            .map_err(|error| lost(&*error, deadline))?;
        let trailers = received.trailers().cloned();
        let status = Status::from_header_map(trailers.as_ref().unwrap_or(&head.headers));
        let unanswered = status.as_ref().is_some_and(is_unanswered);
        let body =
            Full::new(received.to_bytes()).with_trailers(async move { trailers.map(Ok::<_, Infallible>) });
        Ok((Ok(Response::from_parts(head, Body::new(body))), unanswered))
    }

    /// Send a request with what is left of its time, and return when the answer begins.
    async fn send(&self, mut request: Request, deadline: Instant) -> Result<Response, Status> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(deadline_passed());
        }
        timeout::set(request.headers_mut(), left);
        let mut channel = self.channel().clone();
        let answer = async {
            std::future::poll_fn(|context| channel.poll_ready(context)).await?;
            channel.call(request).await
        };
        match timeout_at(deadline, answer).await {
            Ok(Ok(response)) => Ok(with_readable_details(response)),
            Ok(Err(error)) => Err(lost(&error, deadline)),
            Err(_) => Err(deadline_passed()),
        }
    }

    fn channel(&self) -> &Channel {
        self.channel.get_or_init(|| unix_channel::open(&self.socket))
    }
}

/// Tonic panics on details that are not base64: turn a status with such into one that says so, wherever it stands.
fn with_readable_details(response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    refuse_unreadable_details(&mut head.headers);
    let body = body.map_frame(|mut frame| {
        if let Some(trailers) = frame.trailers_mut() {
            refuse_unreadable_details(trailers);
        }
        frame
    });
    Response::from_parts(head, Body::new(body))
}

fn refuse_unreadable_details(headers: &mut HeaderMap) {
    let Some(details) = headers.get(Status::GRPC_STATUS_DETAILS) else { return };
    let alone = HeaderMap::from_iter([(Status::GRPC_STATUS_DETAILS, details.clone())]);
    let alone = MetadataMap::from_headers(alone);
    let is_readable =
        alone.get_bin(Status::GRPC_STATUS_DETAILS.as_str()).is_some_and(|value| value.to_bytes().is_ok());
    if !is_readable {
        headers.remove(Status::GRPC_STATUS_DETAILS);
        headers.insert(Status::GRPC_STATUS, HeaderValue::from(tonic::Code::Internal as i32));
        headers.insert(Status::GRPC_MESSAGE, HeaderValue::from_static("the status' details cannot be read"));
    }
}

fn whole(message: Bytes) -> Body {
    Body::new(Full::new(message))
}

fn is_unanswered(status: &Status) -> bool {
    status.code() == tonic::Code::Unavailable && !is_answer(status)
}

fn deadline_passed() -> Status {
    Status::deadline_exceeded("the deadline passed")
}

/// Turn what the transport says into a status. Whatever it was, no sidecar has answered.
fn lost(error: &(dyn std::error::Error + 'static), deadline: Instant) -> Status {
    if Instant::now() >= deadline {
        return deadline_passed();
    }
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return Status::resource_exhausted("the answer is too large");
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Status::unavailable(format!("the sidecar cannot be reached: {}", io.kind()));
        }
        cause = error.source();
    }
    Status::unavailable("the connection to the sidecar was lost")
}
