//! Measures validations through the socket, and what is usual in Rust instead: a session in Redis, a JSON Web Token.
//!
//! Reads what to do as one JSON object from standard input and prints a JSON object per measurement.

mod measure;
mod tasks;

use std::error::Error;
use std::io;
use std::time::Duration;

use serde::Deserialize;

/// What standard input says.
#[derive(Deserialize)]
struct Order {
    socket: String,
    session_id: String,
    client_ip: String,
    redis_socket: String,
    redis_key: String,
    jwt: String,
    jwt_public_key_pem: String,
    seconds: f64,
    warmup_seconds: f64,
    concurrency: Vec<usize>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let order: Order = serde_json::from_reader(io::stdin().lock())?;
    let times = measure::Times {
        warm_up: Duration::try_from_secs_f64(order.warmup_seconds)?,
        measured: Duration::try_from_secs_f64(order.seconds)?,
    };
    let validate = tasks::Validate::new(&order);
    let redis_get = tasks::RedisGet::connect(&order).await?;
    for &concurrency in &order.concurrency {
        measure::print("validate", &validate, concurrency, times).await;
        measure::print("redis_get", &redis_get, concurrency, times).await;
    }
    let jwt_verify = tasks::JwtVerify::new(&order)?;
    measure::print("jwt_verify", &jwt_verify, 1, times).await;
    Ok(())
}
