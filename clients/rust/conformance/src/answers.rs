//! What the client says, in the runner's words.

use trustlayer::{Active, Error, Failure};

use crate::conformance;
use crate::conformance::driver_response::Result as Outcome;

/// What came of a call, and all that is printed of the error, if it was one.
pub(crate) struct Answer {
    pub(crate) outcome: Outcome,
    pub(crate) shown: String,
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, shown: String::new() }
    }
}

/// Say what came of a validation.
pub(crate) fn of_validation(answer: Result<Active, Error>) -> Answer {
    match answer {
        Ok(active) => Outcome::Active(conformance::Active {
            session: Some(active.session),
            freshness: Some(active.freshness),
        })
        .into(),
        Err(error) => {
            let shown = shown(&error);
            let outcome = match error {
                Error::Unavailable(failure) => Outcome::Unavailable(failure_of(*failure)),
                error => outcome_of(error),
            };
            Answer { outcome, shown }
        }
    }
}

/// Say what another call failed with.
pub(crate) fn of_error(error: Error) -> Answer {
    Answer { shown: shown(&error), outcome: outcome_of(error) }
}

/// All that Rust prints of an error and of its sources.
fn shown(error: &Error) -> String {
    let mut all = String::new();
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        all.push_str(&format!("{error}\n{error:?}\n"));
        next = error.source();
    }
    all
}

fn outcome_of(error: Error) -> Outcome {
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
