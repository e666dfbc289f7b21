//! The three things that are measured.

use std::error::Error;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use trustlayer::{Client, v1};

use crate::Order;
use crate::measure::Task;

/// A validation through the sidecar's socket, by the client.
#[derive(Clone)]
pub(crate) struct Validate {
    client: Client,
    question: v1::ValidateRequest,
}

impl Validate {
    pub(crate) fn new(order: &Order) -> Self {
        Self {
            client: Client::new(&order.socket),
            question: v1::ValidateRequest {
                session_id: order.session_id.clone(),
                context: Some(v1::RequestContext {
                    client_ip: order.client_ip.clone(),
                    ..Default::default()
                }),
                ..Default::default()
            },
        }
    }
}

impl Task for Validate {
    async fn once(&mut self) {
        let active = self.client.validate(self.question.clone()).await;
        assert!(active.expect("active").session.user.is_some());
    }
}

/// A session out of Redis, over its Unix socket: GET, and reading the JSON.
#[derive(Clone)]
pub(crate) struct RedisGet {
    connection: MultiplexedConnection,
    key: String,
}

impl RedisGet {
    pub(crate) async fn connect(order: &Order) -> Result<Self, Box<dyn Error>> {
        let client = redis::Client::open(format!("unix://{}", order.redis_socket))?;
        Ok(Self {
            connection: client.get_multiplexed_async_connection().await?,
            key: order.redis_key.clone(),
        })
    }
}

impl Task for RedisGet {
    async fn once(&mut self) {
        let text: Vec<u8> = self.connection.get(&self.key).await.expect("an answer");
        let session: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        assert!(session.is_object());
    }
}

/// The signature (RS256) and the expiry of a token.
#[derive(Clone)]
pub(crate) struct JwtVerify {
    key: DecodingKey,
    rules: Validation,
    token: String,
}

impl JwtVerify {
    pub(crate) fn new(order: &Order) -> Result<Self, Box<dyn Error>> {
        let mut rules = Validation::new(Algorithm::RS256);
        rules.validate_aud = false;
        Ok(Self {
            key: DecodingKey::from_rsa_pem(order.jwt_public_key_pem.as_bytes())?,
            rules,
            token: order.jwt.clone(),
        })
    }
}

impl Task for JwtVerify {
    async fn once(&mut self) {
        let token = jsonwebtoken::decode::<serde_json::Value>(&self.token, &self.key, &self.rules);
        assert!(token.expect("a good token").claims.is_object());
    }
}
