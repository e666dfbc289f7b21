//! The client against a real pair.

mod pair;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use pair::Pair;
use tokio::net::UnixListener;
use tokio::sync::MutexGuard;
use tokio::time::timeout;
use trustlayer::tonic::{Code, Request};
use trustlayer::{Client, Error, Failure, v1};

const SECOND: Duration = Duration::from_secs(1);

async fn start() -> (MutexGuard<'static, Pair>, Client) {
    let pair = pair::take().await;
    let client = Client::new(pair.socket());
    (pair, client)
}

fn unavailable<T: std::fmt::Debug>(answer: Result<T, Error>) -> Failure {
    match answer {
        Err(Error::Unavailable(failure)) => *failure,
        other => panic!("{other:?}"),
    }
}

fn failed<T: std::fmt::Debug>(answer: Result<T, Error>) -> Failure {
    match answer {
        Err(Error::Failed(failure)) => *failure,
        other => panic!("{other:?}"),
    }
}

async fn reason_of_denial(client: &Client, question: v1::ValidateRequest) -> v1::DenialReason {
    match client.validate(question).await {
        Err(Error::Denied(denial)) => denial.reason(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_answer_is_one_of_three_outcomes() {
    let (pair, client) = start().await;
    let active = client.validate(pair.question()).await.unwrap();
    assert_eq!(active.session.user.unwrap().email, pair.text("login"));
    assert!(active.session.handle.starts_with("sh_"));

    let nonsense = v1::ValidateRequest { session_id: "nonsense".into(), ..pair.question() };
    assert_eq!(reason_of_denial(&client, nonsense).await, v1::DenialReason::Malformed);
    let mut elsewhere = pair.question();
    elsewhere.context.as_mut().unwrap().client_ip = "203.0.113.9".into();
    assert_eq!(reason_of_denial(&client, elsewhere).await, v1::DenialReason::IpMismatch);

    let wrong = v1::ValidateRequest { route: "a".into(), path: "/".into(), ..pair.question() };
    let answer = client.validate(wrong).await;
    assert!(!format!("{answer:?}").contains(&pair.text("session_id")));
    let failure = failed(answer);
    assert_eq!((failure.code, failure.reason.as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    assert!(failure.fields.contains(&"path".to_owned()), "{failure:?}");
}

#[tokio::test]
async fn a_stub_says_what_a_call_failed_with() {
    let (pair, client) = start().await;
    let login = v1::LoginRequest {
        login: pair.text("login"),
        password: "wrong".into(),
        context: Some(pair.context()),
        ..Default::default()
    };
    let failure = failed(client.sessions().login(login).await.map_err(Error::from));
    assert_eq!((failure.code, failure.reason.as_str()), (Code::Unauthenticated, "LOGIN_REFUSED"));

    let sessions = client.sessions().list_sessions(v1::ListSessionsRequest::default()).await;
    assert_eq!(failed(sessions.map_err(Error::from)).fields, ["user_id"]);
}

#[tokio::test]
async fn a_stream_is_handed_through() {
    let (_pair, client) = start().await;
    let none = tokio_stream_of_none();
    let status = client.identity().import_users(none).await.unwrap_err();
    // The sidecar relays no streams; what counts is that it was the sidecar that said so.
    assert_eq!(status.code(), Code::Unimplemented);
}

fn tokio_stream_of_none() -> impl trustlayer::tonic::IntoStreamingRequest<Message = v1::ImportUsersRequest> {
    trustlayer::tonic::codegen::tokio_stream::iter([])
}

#[tokio::test]
async fn an_answer_of_ours_is_not_asked_for_again() {
    let (pair, client) = start().await;
    let count = async || {
        let status = client.validator().get_status(v1::GetStatusRequest {}).await;
        status.unwrap().into_inner().unavailable
    };
    let before = count().await;
    let never = v1::ValidateRequest { min_revision: i64::MAX, ..pair.question() };
    let failure = unavailable(client.validate(never).await);
    assert_eq!((failure.code, failure.reason.as_str()), (Code::Unavailable, "REVISION_NOT_REACHED"));
    assert_eq!(count().await, before + 1);
}

#[tokio::test]
async fn a_sidecar_that_does_not_answer_is_unavailable_when_the_deadline_passes() {
    let (mut pair, client) = start().await;
    client.validate(pair.question()).await.unwrap();
    pair.command("pause-sidecar");

    let short = client.clone().validate_timeout(Duration::from_millis(200));
    let began = Instant::now();
    let failure = unavailable(short.validate(pair.question()).await);
    assert_eq!(failure.code, Code::DeadlineExceeded);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(200) && took < 2 * SECOND, "{took:?}");

    let mut request = Request::new(pair.question());
    request.set_timeout(Duration::from_millis(50));
    assert_eq!(unavailable(client.validate(request).await).code, Code::DeadlineExceeded);

    // Who gives up drops the future, and nothing else is harmed.
    assert!(timeout(Duration::from_millis(50), client.validate(pair.question())).await.is_err());
    pair.command("resume-sidecar");
    client.validate(pair.question()).await.unwrap();
}

#[tokio::test]
async fn a_client_outlives_its_sidecar() {
    let (mut pair, client) = start().await;
    client.validate(pair.question()).await.unwrap();
    pair.command("stop-sidecar");
    let failure = unavailable(client.validate(pair.question()).await);
    assert_eq!((failure.code, failure.reason.as_str()), (Code::Unavailable, ""));
    let login = client.sessions().login(v1::LoginRequest::default()).await;
    assert_eq!(unavailable(login.map_err(Error::from)).code, Code::Unavailable);

    pair.command("start-sidecar");
    timeout(SECOND, client.validate(pair.question())).await.expect("within a second").unwrap();
}

#[tokio::test]
async fn a_call_with_a_session_id_shows_it_nowhere() {
    let (pair, client) = start().await;
    let question = pair.question();
    let shown = format!("{question:?} {client:?} {:?}", client.validate(question.clone()).await);
    assert!(!shown.contains(&question.session_id));
}

/// A socket that takes connections and closes them at once; says how many there were.
struct Closing {
    socket: PathBuf,
    connections: tokio::task::JoinHandle<()>,
    count: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    _directory: Directory,
}

struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Closing {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("tl-rust-{}-{name}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let socket = directory.join("bridge.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let count = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
        let counted = count.clone();
        let connections = tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        });
        Self { socket, connections, count, _directory: Directory(directory) }
    }

    fn count(&self) -> usize {
        self.count.load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.connections.abort();
    }
}

#[tokio::test]
async fn a_call_without_side_effects_is_made_again_three_times() {
    let closing = Closing::new("safe");
    let client = Client::new(&closing.socket);
    let began = Instant::now();
    unavailable(client.validate(v1::ValidateRequest::default()).await);
    assert_eq!(closing.count(), 4);
    assert!(began.elapsed() >= Duration::from_millis(20 + 60 + 180));
}

#[tokio::test]
async fn a_call_with_side_effects_is_never_made_again() {
    let closing = Closing::new("unsafe");
    let client = Client::new(&closing.socket);
    let logout = client.sessions().logout(v1::LogoutRequest::default()).await;
    unavailable(logout.map_err(Error::from));
    assert_eq!(closing.count(), 1);
}

#[tokio::test]
async fn no_attempt_is_made_past_the_deadline() {
    let closing = Closing::new("deadline");
    let client = Client::new(&closing.socket);
    let mut request = Request::new(v1::ValidateRequest::default());
    request.set_timeout(Duration::from_millis(120));
    let began = Instant::now();
    unavailable(client.validate(request).await);
    assert_eq!(closing.count(), 3);
    assert!(began.elapsed() < Duration::from_millis(180));
}
