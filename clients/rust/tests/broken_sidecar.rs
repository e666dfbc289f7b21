//! Answers that no sidecar of ours gives: none of them is a yes, and none ends the app's task.

use std::convert::Infallible;
use std::path::PathBuf;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use prost::Message;
use tokio::net::UnixListener;
use tower::ServiceExt;
use trustlayer::layer::SessionLayer;
use trustlayer::tonic::Code;
use trustlayer::{Client, Error, v1};

/// Where its answer says how the call ended.
#[derive(Clone, Copy)]
enum Says {
    /// In the head, without a message.
    InHead,
    /// Behind a message with an active session.
    InTrailers,
}

/// A sidecar that ends each call with this status and details that are not base64.
struct Broken(PathBuf);

impl Broken {
    fn start(name: &str, says: Says, status: &'static str) -> Self {
        let directory = std::env::temp_dir().join(format!("tl-rust-{}-{name}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let listener = UnixListener::bind(directory.join("bridge.sock")).unwrap();
        let app = Router::new().fallback(move || async move { answer(says, status) });
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self(directory)
    }

    fn client(&self) -> Client {
        Client::new(self.0.join("bridge.sock"))
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn answer(says: Says, status: &'static str) -> Response<Body> {
    let mut end = HeaderMap::new();
    end.insert("grpc-status", HeaderValue::from_static(status));
    end.insert("grpc-status-details-bin", HeaderValue::from_static("no base64!"));
    let mut response = match says {
        Says::InHead => {
            let mut response = Response::new(Body::empty());
            *response.headers_mut() = end;
            response
        }
        Says::InTrailers => {
            let body =
                Full::new(session().into()).with_trailers(async move { Some(Ok::<_, Infallible>(end)) });
            Response::new(Body::new(body))
        }
    };
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// A message as gRPC frames it.
fn session() -> Vec<u8> {
    let user = Some(v1::User { id: "usr_1".into(), ..Default::default() });
    let session = v1::Session { handle: "sh_1".into(), user, ..Default::default() };
    let result = Some(v1::validate_response::Result::Session(session));
    let message = v1::ValidateResponse { result, ..Default::default() }.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    framed
}

async fn hold_it_to_its_word(broken: &Broken) {
    let client = broken.client();
    match client.validate(v1::ValidateRequest::default()).await {
        Err(Error::Unavailable(failure)) => assert_eq!(failure.code, Code::Internal),
        other => panic!("{other:?}"),
    }
    let login = client.sessions().login(v1::LoginRequest::default()).await;
    assert_eq!(login.unwrap_err().code(), Code::Internal);

    let app = Router::new().route("/", get(|| async { "in" })).layer(SessionLayer::new(client));
    let request = Request::get("/").header("cookie", "session_id=one").body(Body::empty()).unwrap();
    assert_eq!(app.oneshot(request).await.unwrap().status(), 503);
}

#[tokio::test]
async fn details_that_are_not_base64_in_the_head_are_an_error_and_no_panic() {
    hold_it_to_its_word(&Broken::start("head", Says::InHead, "14")).await;
}

#[tokio::test]
async fn details_that_are_not_base64_in_the_trailers_are_an_error_and_no_panic() {
    hold_it_to_its_word(&Broken::start("trailers", Says::InTrailers, "14")).await;
}

#[tokio::test]
async fn a_session_that_ends_in_details_that_are_not_base64_is_no_yes() {
    hold_it_to_its_word(&Broken::start("session", Says::InTrailers, "0")).await;
}
