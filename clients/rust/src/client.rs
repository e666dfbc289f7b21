//! The client of one sidecar.

use std::path::Path;
use std::time::Duration;

use tonic::IntoRequest;

use crate::error::{Error, Failure};
use crate::transport::{Timeouts, Transport};
use crate::v1;
use crate::v1::identity_service_client::IdentityServiceClient;
use crate::v1::session_service_client::SessionServiceClient;
use crate::v1::trust_token_service_client::TrustTokenServiceClient;
use crate::v1::validator_service_client::ValidatorServiceClient;

const VALIDATE_TIMEOUT: Duration = Duration::from_secs(2);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A client of the sidecar at one Unix socket. Make one and clone it: clones are cheap and share one connection.
///
/// It connects with its first call, and anew by itself after the sidecar was away. All calls are to be made from the
/// runtime that made the first one, which the connection lives in.
#[derive(Clone, Debug)]
pub struct Client {
    transport: Transport,
}

/// A yes: the session is active, for this request.
#[derive(Clone, Debug, PartialEq)]
pub struct Active {
    /// The session with its user.
    pub session: v1::Session,
    /// How fresh the answer is.
    pub freshness: v1::Freshness,
}

impl Client {
    /// Make a client of the sidecar at this socket. It does nothing yet, so nothing can fail.
    pub fn new(socket: impl AsRef<Path>) -> Self {
        let timeouts = Timeouts { local: VALIDATE_TIMEOUT, relayed: CALL_TIMEOUT };
        Self { transport: Transport::new(socket.as_ref(), timeouts) }
    }

    /// Set how long `validate` and `get_status` may take without a deadline of their own, instead of 2 seconds.
    #[must_use]
    pub fn validate_timeout(mut self, timeout: Duration) -> Self {
        self.transport.timeouts_mut().local = timeout;
        self
    }

    /// Set how long other calls may take without a deadline of their own, instead of 10 seconds.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.transport.timeouts_mut().relayed = timeout;
        self
    }

    /// Ask whether a session is active for a request.
    ///
    /// Takes the message itself, or a [`tonic::Request`] of it with a deadline (`set_timeout`) or metadata, such as
    /// `x-request-id`. Safe to repeat, and repeated as long as no sidecar answers and there is time.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`] for a definite no; [`Error::Unavailable`] where nobody can know, which includes a deadline that
    /// passed; [`Error::Failed`] where the question itself is wrong, with the names of its fields.
    pub async fn validate(&self, request: impl IntoRequest<v1::ValidateRequest>) -> Result<Active, Error> {
        match self.validator().validate(request).await {
            Ok(response) => answer(response.into_inner()),
            Err(status) => Err(Error::of_validation(&status)),
        }
    }

    /// Make a stub of `ValidatorService`; for validations [`Client::validate`] is the better way.
    pub fn validator(&self) -> ValidatorServiceClient<Transport> {
        ValidatorServiceClient::new(self.transport())
    }

    /// Make a stub of `IdentityService`.
    pub fn identity(&self) -> IdentityServiceClient<Transport> {
        IdentityServiceClient::new(self.transport())
    }

    /// Make a stub of `SessionService`.
    pub fn sessions(&self) -> SessionServiceClient<Transport> {
        SessionServiceClient::new(self.transport())
    }

    /// Make a stub of `TrustTokenService`.
    pub fn trust_tokens(&self) -> TrustTokenServiceClient<Transport> {
        TrustTokenServiceClient::new(self.transport())
    }

    /// What a stub of any other service can be made over. Calls of methods that this version does not know are handed
    /// through: they get a deadline, and are never repeated.
    pub fn transport(&self) -> Transport {
        self.transport.clone()
    }
}

fn answer(response: v1::ValidateResponse) -> Result<Active, Error> {
    match response.result {
        Some(v1::validate_response::Result::Session(session)) => {
            if session.handle.is_empty() || session.user.as_ref().is_none_or(|user| user.id.is_empty()) {
                return Err(unreadable("the answer holds a session of nobody"));
            }
            Ok(Active { session, freshness: response.freshness.unwrap_or_default() })
        }
        Some(v1::validate_response::Result::Denial(denial)) => Err(Error::Denied(denial)),
        None => Err(unreadable("the answer is neither a session nor a denial")),
    }
}

/// What no sidecar of ours says: never a yes, and no denial either.
fn unreadable(why: &str) -> Error {
    Error::Unavailable(Box::new(Failure {
        code: tonic::Code::Unknown,
        reason: String::new(),
        message: why.to_owned(),
        retry_after: None,
        fields: Vec::new(),
        request_id: String::new(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_neither_a_session_nor_a_denial_cannot_be_known() {
        let error = answer(v1::ValidateResponse::default()).unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)));
    }

    #[test]
    fn a_session_of_nobody_cannot_be_known() {
        let user = |id: &str| Some(v1::User { id: id.into(), ..Default::default() });
        let answered = |handle: &str, user| {
            let session = v1::Session { handle: handle.into(), user, ..Default::default() };
            let result = Some(v1::validate_response::Result::Session(session));
            answer(v1::ValidateResponse { result, ..Default::default() })
        };
        for (handle, user) in [("", None), ("", user("usr_1")), ("sh_1", None), ("sh_1", user(""))] {
            match answered(handle, user) {
                Err(Error::Unavailable(failure)) => {
                    assert_eq!(failure.code, tonic::Code::Unknown);
                    assert_eq!(failure.message, "the answer holds a session of nobody");
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(answered("sh_1", user("usr_1")).unwrap().session.handle, "sh_1");
    }

    #[test]
    fn a_client_can_be_made_outside_of_a_runtime() {
        let client = Client::new("/nowhere/bridge.sock");
        assert!(format!("{client:?}").contains("/nowhere/bridge.sock"));
    }
}
