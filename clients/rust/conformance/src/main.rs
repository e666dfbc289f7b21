//! The driver of the conformance cases: does what it reads from standard input, with the client as an app has it.
//!
//! See `clients/conformance/proto/conformance/v1/conformance.proto`.

mod answers;
mod calls;
mod framing;

/// How the runner talks to drivers, as it is generated.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
mod conformance {
    include!("generated/conformance.v1.rs");
}

use std::collections::HashMap;
use std::io;

use tokio::runtime::Builder;
use trustlayer::Client;

use answers::Answer;
use conformance::driver_request::Call;
use conformance::driver_response::Result as Outcome;
use conformance::{Cancelled, Description, DriverRequest, DriverResponse};

/// The clients so far, one per socket.
#[derive(Default)]
struct Driver {
    clients: HashMap<String, Client>,
}

impl Driver {
    async fn answer(&mut self, request: DriverRequest) -> Answer {
        let client = self
            .clients
            .entry(request.socket.clone())
            .or_insert_with(|| Client::new(&request.socket))
            .clone();
        let timeout = match request.timeout.map(TryInto::try_into).transpose() {
            Ok(timeout) => timeout,
            Err(error) => return Outcome::Broken(format!("timeout: {error}")).into(),
        };
        let call = async {
            match request.call {
                Some(Call::Describe(_)) => Outcome::Description(describe()).into(),
                Some(Call::Validate(question)) => calls::validate(&client, question, timeout).await,
                Some(Call::Rpc(rpc)) => calls::rpc(&client, &rpc, timeout).await,
                None => Outcome::Broken("nothing to do".into()).into(),
            }
        };
        match request.cancel_after.map(TryInto::try_into).transpose() {
            Ok(None) => call.await,
            // Who gives up drops the future.
            Ok(Some(patience)) => tokio::time::timeout(patience, call)
                .await
                .unwrap_or_else(|_| Outcome::Cancelled(Cancelled {}).into()),
            Err(error) => Outcome::Broken(format!("cancel_after: {error}")).into(),
        }
    }
}

fn describe() -> Description {
    Description {
        language: "rust".into(),
        client_version: env!("CARGO_PKG_VERSION").into(),
        runtime: env!("COMPILER").into(),
    }
}

fn main() -> io::Result<()> {
    // With a thread of its own, so that connections are looked after while the input is waited for.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut driver = Driver::default();
    while let Some(request) = framing::read(&mut input)? {
        let Answer { outcome, shown } = runtime.block_on(driver.answer(request));
        framing::write(&mut output, &DriverResponse { result: Some(outcome), shown })?;
    }
    Ok(())
}
