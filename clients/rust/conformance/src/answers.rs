//! What the client says, in the runner's words.

use trustlayer::{Active, Error, Failure};

use crate::conformance;
use crate::conformance::driver_response::Result as Outcome;

/// Say what came of a validation.
pub(crate) fn of_validation(answer: Result<Active, Error>) -> Outcome {
    match answer {
        Ok(active) => Outcome::Active(conformance::Active {
            session: Some(active.session),
            freshness: Some(active.freshness),
        }),
        Err(Error::Unavailable(failure)) => Outcome::Unavailable(failure_of(*failure)),
        Err(error) => of_error(error),
    }
}

/// Say what another call failed with.
pub(crate) fn of_error(error: Error) -> Outcome {
    match error {
        Error::Denied(denial) => {
            Outcome::Denied(conformance::Denied { reason: denial.reason, message: denial.message })
        }
        Error::Unavailable(failure) | Error::Failed(failure) => Outcome::Failure(failure_of(*failure)),
    }
}

fn failure_of(failure: Failure) -> conformance::Failure {
    conformance::Failure {
        code: failure.code as i32,
        reason: failure.reason,
        message: failure.message,
        retry_after: failure.retry_after.and_then(|after| after.try_into().ok()),
        fields: failure.fields,
        request_id: failure.request_id,
    }
}
