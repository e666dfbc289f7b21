//! The three ways in which a question is not answered with a session.

use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::v1;

const DOMAIN: &str = "trustlayer";

/// Why there is no session, or no answer. None of them ever holds a session id.
///
/// Who gives up drops the future, and gets no error at all.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// A definite no, with its reason. Only [`Client::validate`](crate::Client::validate) says it.
    #[error("denied: {0}")]
    Denied(v1::Denial),
    /// Nobody can know: the sidecar is away, or cannot say, or not in time. Never a yes, and no denial either.
    #[error("unavailable: {0}")]
    Unavailable(Box<Failure>),
    /// The call was refused for what it asks. Of a validation: its own fields are wrong.
    #[error("failed: {0}")]
    Failed(Box<Failure>),
}

impl Error {
    /// Turn what ended a validation into an error: a question that is wrong has failed, all else cannot be known.
    pub(crate) fn of_validation(status: &Status) -> Self {
        let failure = Box::new(Failure::from(status));
        if failure.code == Code::InvalidArgument && !failure.reason.is_empty() {
            Self::Failed(failure)
        } else {
            Self::Unavailable(failure)
        }
    }
}

/// For `?` behind a call of a generated stub.
impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let failure = Box::new(Failure::from(&status));
        match failure.code {
            Code::Unavailable | Code::DeadlineExceeded => Self::Unavailable(failure),
            _ => Self::Failed(failure),
        }
    }
}

/// What a call that failed has said.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The gRPC code.
    pub code: Code,
    /// A name of `ErrorReason` without its prefix, for example `UPSTREAM_UNAVAILABLE`, also one that this version does
    /// not know. Empty where neither a sidecar nor Flowless has answered.
    pub reason: String,
    /// Text for people; not stable.
    pub message: String,
    /// When it makes sense to try again, if that was said.
    pub retry_after: Option<Duration>,
    /// Names of the fields that are wrong.
    pub fields: Vec<String>,
    /// What to search the logs for; empty if nothing was said.
    pub request_id: String,
}

impl From<&Status> for Failure {
    /// Details of kinds that this version does not know are passed over.
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        Self {
            code: status.code(),
            reason: reason_of(&details).unwrap_or_default().to_owned(),
            message: status.message().to_owned(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            fields: details
                .bad_request()
                .map(|bad| bad.field_violations.iter().map(|v| v.field.clone()).collect())
                .unwrap_or_default(),
            request_id: details.request_info().map(|info| info.request_id.clone()).unwrap_or_default(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason.as_str() {
            "" => write!(f, "{:?}: {}", self.code, self.message)?,
            reason => write!(f, "{reason}: {}", self.message)?,
        }
        if !self.request_id.is_empty() {
            write!(f, " (request {})", self.request_id)?;
        }
        Ok(())
    }
}

/// Whether a sidecar or Flowless said this, and not the transport between.
pub(crate) fn is_answer(status: &Status) -> bool {
    reason_of(&status.get_error_details()).is_some()
}

fn reason_of(details: &tonic_types::ErrorDetails) -> Option<&str> {
    details.error_info().filter(|info| info.domain == DOMAIN).map(|info| info.reason.as_str())
}

impl v1::Denial {
    /// The reason's name without its prefix, for example `REVOKED`; none for a reason that this version does not know, whose
    /// number is in the field. The accessor `reason()` is `Unspecified` for such a one.
    pub fn reason_name(&self) -> Option<&'static str> {
        v1::DenialReason::try_from(self.reason)
            .ok()
            .map(|reason| reason.as_str_name().trim_start_matches("DENIAL_REASON_"))
    }
}

impl fmt::Display for v1::Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason_name() {
            Some(name) => f.write_str(name)?,
            None => write!(f, "reason {}", self.reason)?,
        }
        match self.message.as_str() {
            "" => Ok(()),
            message => write!(f, ": {message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::{ErrorDetails, FieldViolation};

    fn said(code: Code, domain: &str, reason: &str) -> Status {
        let info = ErrorDetails::with_error_info(reason, domain, std::collections::HashMap::new());
        Status::with_error_details(code, "text", info)
    }

    #[test]
    fn an_error_says_all_that_ours_say() {
        let mut details = ErrorDetails::new();
        details
            .set_error_info("INVALID_FIELD", DOMAIN, std::collections::HashMap::new())
            .set_retry_info(Some(Duration::from_millis(1500)))
            .set_bad_request(vec![FieldViolation::new("context.client_ip", "an address")])
            .set_request_info("req-7", "");
        let status = Status::with_error_details(Code::InvalidArgument, "text", details);
        let expected = Failure {
            code: Code::InvalidArgument,
            reason: "INVALID_FIELD".into(),
            message: "text".into(),
            retry_after: Some(Duration::from_millis(1500)),
            fields: vec!["context.client_ip".into()],
            request_id: "req-7".into(),
        };
        assert_eq!(Failure::from(&status), expected);
        assert_eq!(expected.to_string(), "INVALID_FIELD: text (request req-7)");
        assert_eq!(Error::of_validation(&status), Error::Failed(Box::new(expected)));
    }

    #[test]
    fn an_error_of_another_domain_is_no_answer_of_ours() {
        let status = said(Code::Unavailable, "example.org", "UPSTREAM_UNAVAILABLE");
        assert!(!is_answer(&status));
        assert_eq!(Failure::from(&status).reason, "");
    }

    #[test]
    fn an_answer_of_a_newer_vocabulary_keeps_its_reason() {
        let status = said(Code::Unavailable, DOMAIN, "INVENTED_LATER");
        assert!(is_answer(&status));
        assert_eq!(Failure::from(&status).reason, "INVENTED_LATER");
    }

    #[test]
    fn a_validation_that_ends_in_any_other_way_cannot_be_known() {
        for code in [
            Code::Cancelled,
            Code::Unknown,
            Code::DeadlineExceeded,
            Code::NotFound,
            Code::PermissionDenied,
            Code::ResourceExhausted,
            Code::Unimplemented,
            Code::Internal,
            Code::Unavailable,
            Code::Unauthenticated,
        ] {
            let error = Error::of_validation(&said(code, DOMAIN, "WHATEVER"));
            assert!(matches!(error, Error::Unavailable(_)), "{code:?}");
        }
        let not_ours = Error::of_validation(&Status::invalid_argument("whoever says so"));
        assert!(matches!(not_ours, Error::Unavailable(_)));
    }

    #[test]
    fn a_denial_of_a_newer_reason_keeps_its_number() {
        let denial = v1::Denial { reason: 99, message: "too late".into() };
        assert_eq!(denial.reason_name(), None);
        assert_eq!(Error::Denied(denial).to_string(), "denied: reason 99: too late");
    }
}
