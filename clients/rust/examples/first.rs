//! Say whether a session is valid.

use std::env::var;

use trustlayer::{Client, Error, v1};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::new(var("TRUSTLAYER_SOCKET")?);
    let question = v1::ValidateRequest {
        session_id: var("SESSION_ID")?,
        context: Some(v1::RequestContext { client_ip: var("CLIENT_IP")?, ..Default::default() }),
        ..Default::default()
    };
    match client.validate(question).await {
        Ok(active) => println!("it is {}", active.session.user.unwrap_or_default().email),
        Err(Error::Denied(denial)) => println!("log in again: {denial}"),
        Err(Error::Unavailable(failure)) => println!("try again later: {failure}"),
        Err(Error::Failed(failure)) => println!("the question is wrong: {failure}"),
    }
    Ok(())
}
