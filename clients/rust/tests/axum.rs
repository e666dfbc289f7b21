//! The layer in a real axum server, before a real pair.

mod pair;

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use pair::Pair;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::MutexGuard;
use trustlayer::layer::{CurrentSession, SessionIdFrom, SessionLayer};
use trustlayer::{Client, v1::ValidationMode};

async fn email(session: CurrentSession) -> String {
    session.session.user.as_ref().unwrap().email.clone()
}

async fn anybody(session: Option<CurrentSession>) -> String {
    session.map_or("nobody".into(), |session| session.session.handle.clone())
}

fn app(client: &Client) -> Router {
    let sessions = SessionLayer::new(client.clone());
    let proxied = sessions.clone().trusted_proxies(["127.0.0.0/8".parse().unwrap()]);
    let optional = sessions.clone().optional();
    let either = sessions.clone().roles_any(["admin", "reader"]);
    let neither = sessions.clone().roles_any([] as [&str; 0]);
    let strict = sessions.clone().mode(ValidationMode::Strict);
    let other = sessions.clone().session_id_from([SessionIdFrom::Cookie("other".into())]);
    Router::new()
        .route("/me", get(email))
        .route("/strict", get(email).layer(strict))
        .route("/reader", get(email).layer(sessions.clone().roles_all(["reader"])))
        .route("/admin", get(email).layer(sessions.clone().roles_all(["reader", "admin"])))
        .route("/no-such-rule", get(email).layer(sessions.clone().route("no-such-rule")))
        .layer(sessions)
        .route("/proxied", get(email).layer(proxied))
        .route("/anybody", get(anybody).layer(optional.clone()))
        .route("/anybody-admin", get(anybody).layer(optional.roles_all(["admin"])))
        .route("/either", get(email).layer(either))
        .route("/neither", get(email).layer(neither))
        .route("/other-cookie", get(email).layer(other))
        .route("/public", get(|| async { "well" }))
        .route("/forgotten", get(email))
}

/// The server's address; it ends with the test's runtime.
async fn serve(client: &Client) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = app(client).into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    address
}

struct Browser {
    address: SocketAddr,
    session_id: String,
}

/// Status and the whole answer, with its head in lower case.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Browser {
    async fn get(&self, path: &str, headers: &[&str]) -> Answer {
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let request = format!("GET {path} HTTP/1.1\r\nhost: app\r\nconnection: close\r\n{headers}\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    fn cookie(&self) -> String {
        format!("Cookie: session_id={}", self.session_id)
    }

    async fn get_with_cookie(&self, path: &str) -> Answer {
        self.get(path, &[&self.cookie()]).await
    }
}

impl Answer {
    fn reason(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).expect("JSON");
        assert!(self.head.contains("content-type: application/json"), "{}", self.head);
        assert!(self.head.contains("cache-control: no-store"), "{}", self.head);
        assert!(body["message"].is_string());
        body["reason"].as_str().unwrap().to_owned()
    }

    fn refused(&self) -> (u16, String) {
        (self.status, self.reason())
    }
}

async fn start() -> (MutexGuard<'static, Pair>, Browser) {
    let pair = pair::take().await;
    let address = serve(&Client::new(pair.socket())).await;
    let session_id = pair.text("session_id");
    (pair, Browser { address, session_id })
}

fn refusal(status: u16, reason: &str) -> (u16, String) {
    (status, reason.to_owned())
}

#[tokio::test]
async fn only_requests_with_a_session_reach_what_is_behind_the_layer() {
    let (pair, browser) = start().await;
    let answer = browser.get_with_cookie("/me").await;
    assert_eq!((answer.status, answer.body), (200, pair.text("login")));
    let bearer = format!("Authorization: Bearer {}", browser.session_id);
    assert_eq!(browser.get("/me", &[&bearer]).await.status, 200);
    assert_eq!(browser.get("/public", &[]).await.status, 200);

    let answer = browser.get("/me", &[]).await;
    assert_eq!(answer.refused(), refusal(401, "SESSION_MISSING"));
    assert!(answer.head.contains("www-authenticate: bearer"));
    let answer = browser.get("/me", &["Cookie: session_id=nonsense"]).await;
    assert_eq!(answer.refused(), refusal(401, "MALFORMED"));
    assert!(answer.head.contains(r#"www-authenticate: bearer error="invalid_token""#));
    let answer = browser.get_with_cookie("/forgotten").await;
    assert_eq!(answer.refused(), refusal(401, "SESSION_MISSING"));
}

#[tokio::test]
async fn a_session_id_that_is_not_one_value_in_its_place_is_refused() {
    let (_pair, browser) = start().await;
    let twice = ["Cookie: session_id=other", &browser.cookie()];
    assert_eq!(browser.get("/me", &twice).await.refused(), refusal(401, "MALFORMED"));
    let bearer = format!("Authorization: Bearer {}", browser.session_id);
    let answer = browser.get("/me", &["Cookie: session_id=", &bearer]).await;
    assert_eq!(answer.refused(), refusal(401, "MALFORMED"));
    let not_here = browser.get_with_cookie("/other-cookie").await;
    assert_eq!(not_here.refused(), refusal(401, "SESSION_MISSING"));
    let other = format!("Cookie: other={}", browser.session_id);
    assert_eq!(browser.get("/other-cookie", &[&other]).await.status, 200);
}

#[tokio::test]
async fn a_route_may_ask_for_more() {
    let (pair, browser) = start().await;
    assert_eq!(browser.get_with_cookie("/reader").await.status, 200);
    let answer = browser.get_with_cookie("/admin").await;
    assert_eq!(answer.refused(), refusal(403, "ROLE_MISSING"));
    assert!(!answer.head.contains("www-authenticate"));
    assert_eq!(browser.get_with_cookie("/either").await.status, 200);
    assert_eq!(browser.get_with_cookie("/neither").await.refused(), refusal(403, "ROLE_MISSING"));
    let answer = browser.get_with_cookie("/no-such-rule").await;
    assert_eq!(answer.refused(), refusal(403, "ROUTE_NOT_COVERED"));

    assert_eq!(browser.get_with_cookie("/strict").await.refused(), refusal(401, "CONTEXT_MISSING"));
    let device = format!("X-Device-Fingerprint: {}", pair.text("device_fingerprint"));
    let agent = format!("User-Agent: {}", pair.text("user_agent"));
    assert_eq!(browser.get("/strict", &[&browser.cookie(), &device, &agent]).await.status, 200);
    let answer = browser.get("/strict", &[&browser.cookie(), &device, "User-Agent: another"]).await;
    assert_eq!(answer.refused(), refusal(401, "USER_AGENT_MISMATCH"));
}

#[tokio::test]
async fn a_forwarded_address_counts_only_behind_a_trusted_proxy() {
    let (_pair, browser) = start().await;
    let elsewhere = "X-Forwarded-For: 203.0.113.9";
    assert_eq!(browser.get("/me", &[&browser.cookie(), elsewhere]).await.status, 200);
    let answer = browser.get("/proxied", &[&browser.cookie(), elsewhere]).await;
    assert_eq!(answer.refused(), refusal(401, "IP_MISMATCH"));
    // Without an address that could be a client's there is none.
    let answer = browser.get_with_cookie("/proxied").await;
    assert_eq!(answer.refused(), refusal(401, "CONTEXT_MISSING"));
}

#[tokio::test]
async fn an_optional_session_may_be_nobodys_but_is_never_unknown() {
    let (mut pair, browser) = start().await;
    assert!(browser.get_with_cookie("/anybody").await.body.starts_with("sh_"));
    assert_eq!(browser.get("/anybody", &[]).await.body, "nobody");
    assert_eq!(browser.get("/anybody", &["Cookie: session_id=nonsense"]).await.body, "nobody");
    let answer = browser.get_with_cookie("/anybody-admin").await;
    assert_eq!(answer.refused(), refusal(403, "ROLE_MISSING"));
    assert_eq!(browser.get("/anybody-admin", &[]).await.refused(), refusal(401, "SESSION_MISSING"));

    pair.command("stop-sidecar");
    for path in ["/anybody", "/me"] {
        let answer = browser.get_with_cookie(path).await;
        assert_eq!(answer.refused(), refusal(503, "UNAVAILABLE"));
        assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
        assert!(!answer.body.contains(&browser.session_id));
    }
    assert_eq!(browser.get("/anybody", &[]).await.body, "nobody");
    pair.command("start-sidecar");
}

#[tokio::test]
async fn a_layer_takes_nobodys_word_for_a_session_that_it_did_not_see_itself() {
    let (pair, browser) = start().await;
    let client = Client::new(pair.socket());
    let optional =
        SessionLayer::new(client.clone()).optional().session_id_from([SessionIdFrom::Cookie("other".into())]);
    let app = Router::new().route("/", get(anybody).layer(optional)).layer(SessionLayer::new(client));
    let request = http::Request::get("/")
        .header("cookie", format!("session_id={}", browser.session_id))
        .extension(trustlayer::layer::Peer("127.0.0.1".parse().unwrap()))
        .body(axum::body::Body::empty())
        .unwrap();
    let answer = tower::ServiceExt::oneshot(app, request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let body = axum::body::to_bytes(answer.into_body(), 1_000).await.unwrap();
    assert_eq!(body, "nobody");
}
