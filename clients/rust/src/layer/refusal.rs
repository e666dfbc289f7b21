//! What a request is answered that may not pass: the status codes of the sidecar's own gate, and JSON.

use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};

use crate::v1::{Denial, DenialReason};
use crate::{Error, Failure};

/// Why a request does not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    status: StatusCode,
    reason: String,
    message: String,
    challenge: Option<&'static str>,
    retry_after: Option<u64>,
}

impl Refusal {
    /// The answer's status: 401, 403, 500 or 503.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What programs may rely on: a name of `DenialReason` or `ErrorReason`, `SESSION_MISSING`, `NOT_ACTIVE` for a
    /// denial that this version does not know, or `INTERNAL` for a question that the app put wrongly.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    pub(super) fn session_missing() -> Self {
        Self::unauthorized("SESSION_MISSING", "no session id was sent", "Bearer")
    }

    pub(super) fn malformed() -> Self {
        Self::denied(&Denial { reason: DenialReason::Malformed.into(), message: "not a session id".into() })
    }

    pub(super) fn role_missing() -> Self {
        Self::denied(&Denial {
            reason: DenialReason::RoleMissing.into(),
            message: "the user lacks a role".into(),
        })
    }

    /// For a mistake of the app's, whose text is nobody's business.
    fn internal() -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            reason: "INTERNAL".to_owned(),
            message: "internal error".to_owned(),
            challenge: None,
            retry_after: None,
        }
    }

    pub(super) fn of(error: Error) -> Self {
        match error {
            Error::Denied(denial) => Self::denied(&denial),
            Error::Unavailable(failure) => Self::cannot_know(&failure),
            Error::Failed(_) => Self::internal(),
        }
    }

    /// Whether it is about the request's session alone, so that an optional one may be nobody's instead.
    pub(super) fn is_about_session(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
    }

    fn denied(denial: &Denial) -> Self {
        let name = match denial.reason_name() {
            None | Some("UNSPECIFIED") => "NOT_ACTIVE",
            Some(name) => name,
        };
        match DenialReason::try_from(denial.reason) {
            Ok(DenialReason::RoleMissing | DenialReason::RouteNotCovered) => Self {
                status: StatusCode::FORBIDDEN,
                reason: name.to_owned(),
                message: denial.message.clone(),
                challenge: None,
                retry_after: None,
            },
            // RFC 9470.
            Ok(DenialReason::AuthenticationTooOld) => Self::unauthorized(
                name,
                &denial.message,
                r#"Bearer error="insufficient_user_authentication""#,
            ),
            // RFC 6750.
            _ => Self::unauthorized(name, &denial.message, r#"Bearer error="invalid_token""#),
        }
    }

    fn unauthorized(reason: &str, message: &str, challenge: &'static str) -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            reason: reason.to_owned(),
            message: message.to_owned(),
            challenge: Some(challenge),
            retry_after: None,
        }
    }

    /// What the sidecar or the transport says of it is for the app's own eyes.
    fn cannot_know(failure: &Failure) -> Self {
        let reason =
            Some(failure.reason.as_str()).filter(|reason| !reason.is_empty()).unwrap_or("UNAVAILABLE");
        let after = failure.retry_after.unwrap_or(Duration::from_secs(1));
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason: reason.to_owned(),
            message: "whether the session is valid cannot be known now".to_owned(),
            challenge: None,
            retry_after: Some(seconds.max(1)),
        }
    }

    /// Make the answer: JSON with `reason` and `message`, which no cache keeps.
    pub fn into_response<B: From<String>>(self) -> Response<B> {
        let body = serde_json::json!({"reason": self.reason, "message": self.message});
        let mut response = Response::new(B::from(format!("{body}\n")));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(challenge) = self.challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tonic::{Code, Status};

    fn denied(reason: i32) -> Response<String> {
        let message = "text".into();
        Refusal::of(Error::Denied(Denial { reason, message })).into_response()
    }

    #[test]
    fn every_denial_reason_has_the_status_of_the_gate() {
        for reason in 0..=99 {
            let forbidden = [DenialReason::RoleMissing as i32, DenialReason::RouteNotCovered as i32];
            let response = denied(reason);
            let is_forbidden = forbidden.contains(&reason);
            assert_eq!(response.status(), if is_forbidden { 403 } else { 401 }, "{reason}");
            assert_eq!(response.headers().contains_key(WWW_AUTHENTICATE), !is_forbidden);
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        }
    }

    #[test]
    fn a_denial_of_a_newer_reason_or_of_none_has_a_name_that_programs_know() {
        for reason in [0, 99] {
            assert_eq!(denied(reason).body(), "{\"message\":\"text\",\"reason\":\"NOT_ACTIVE\"}\n");
        }
    }

    fn failed(code: Code, reason: &str, retry_after: Option<Duration>) -> Box<Failure> {
        let mut failure = Failure::from(&Status::new(code, "of the app's own"));
        failure.reason = reason.into();
        failure.retry_after = retry_after;
        Box::new(failure)
    }

    #[test]
    fn a_question_that_the_app_put_wrongly_is_an_internal_error_without_its_text() {
        let failure = failed(Code::InvalidArgument, "INVALID_FIELD", None);
        let response: Response<String> = Refusal::of(Error::Failed(failure)).into_response();
        assert_eq!(response.status(), 500);
        assert_eq!(response.body(), "{\"message\":\"internal error\",\"reason\":\"INTERNAL\"}\n");
        assert!(!response.headers().contains_key(RETRY_AFTER));
    }

    #[test]
    fn what_cannot_be_known_has_a_reason_of_ours_and_a_fixed_text() {
        for (code, reason, shown) in [
            (Code::Unavailable, "STORAGE_FULL", "STORAGE_FULL"),
            (Code::DeadlineExceeded, "", "UNAVAILABLE"),
            (Code::PermissionDenied, "", "UNAVAILABLE"),
        ] {
            let refusal = Refusal::of(Error::Unavailable(failed(code, reason, None)));
            assert_eq!((refusal.status().as_u16(), refusal.reason()), (503, shown));
            assert_eq!(refusal.message, "whether the session is valid cannot be known now");
        }
    }

    #[test]
    fn what_cannot_be_known_says_when_to_ask_again_in_whole_seconds() {
        for (millis, seconds) in [(0, "1"), (100, "1"), (1000, "1"), (1001, "2"), (30_000, "30")] {
            let after = Some(Duration::from_millis(millis));
            let refusal = Refusal::of(Error::Unavailable(failed(Code::Unavailable, "STORAGE_FULL", after)));
            let response: Response<String> = refusal.into_response();
            assert_eq!(response.status(), 503);
            assert_eq!(response.headers()[RETRY_AFTER], seconds);
        }
    }
}
