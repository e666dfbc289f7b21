//! List the sessions of a user.

use trustlayer::{Client, Error, v1};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let client = Client::new("/run/bridge-sidecar/bridge.sock");
    let request = v1::ListSessionsRequest { user_id: "usr_…".into(), ..Default::default() };
    for session in client.sessions().list_sessions(request).await?.into_inner().sessions {
        println!("{} on {}", session.handle, session.device_name);
    }
    Ok(())
}
