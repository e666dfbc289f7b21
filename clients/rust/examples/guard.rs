//! Let only people with a session in.

use std::net::SocketAddr;

use axum::{Router, routing::get};
use trustlayer::layer::{CurrentSession, SessionLayer};
use trustlayer::{Client, v1::ValidationMode};

async fn me(session: CurrentSession) -> String {
    session.session.handle.clone()
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let sessions = SessionLayer::new(Client::new("/run/bridge-sidecar/bridge.sock"));
    let admins = sessions.clone().mode(ValidationMode::Strict).roles_all(["admin"]);
    let app: Router = Router::new()
        .route("/me", get(me))
        .route("/admin", get(me).layer(admins))
        .layer(sessions)
        .route("/health", get(|| async { "well" })); // behind no layer: needs no session

    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await
}
