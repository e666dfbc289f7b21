//! The app of the middleware cases in axum: `trustlayer-conformance-app PORT`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;
use trustlayer::layer::{CurrentSession, SessionLayer};
use trustlayer::{Client, v1::ValidationMode};

async fn show(session: Option<CurrentSession>) -> impl IntoResponse {
    let email = session.map(|known| known.session.user.clone().unwrap_or_default().email);
    ([("content-type", "application/json")], json!({ "email": email }).to_string())
}

fn app(client: Client) -> Router {
    let sessions = SessionLayer::new(client).trusted_proxies(["127.0.0.9/32".parse().expect("a network")]);
    let demanding = |path, layer: SessionLayer| Router::new().route(path, get(show).layer(layer));
    Router::new()
        .route("/whoami", get(show))
        .merge(demanding("/admin", sessions.clone().mode(ValidationMode::Strict).roles_any(["admin"])))
        .merge(demanding("/both", sessions.clone().roles_all(["reader", "admin"])))
        .merge(demanding("/either", sessions.clone().roles_any(["reader", "admin"])))
        .merge(demanding("/fresh", sessions.clone().route("payments")))
        .merge(demanding("/named", sessions.clone().route("no-such-rule")))
        .merge(demanding("/wrong", sessions.clone().route("x".repeat(129))))
        .layer(sessions.clone())
        // What is added behind the layer is not guarded by it.
        .route("/public", get(show))
        .route("/maybe", get(show).layer(sessions.optional()))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).and_then(|text| text.parse().ok()).expect("the argument is a port");
    let socket = std::env::var_os("APP_SIDECAR_SOCKET").expect("APP_SIDECAR_SOCKET is set");
    let client = Client::new(socket).validate_timeout(Duration::from_secs(10));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    axum::serve(listener, app(client).into_make_service_with_connect_info::<SocketAddr>()).await
}
