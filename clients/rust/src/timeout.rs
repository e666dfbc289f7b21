//! The `grpc-timeout` header: how a deadline travels, and how an app's `Request::set_timeout` reaches the transport.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

const NAME: &str = "grpc-timeout";
/// What eight digits can say.
const MOST: u128 = 99_999_999;
/// Longer than any call; what is longer yet is cut to it.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Read how long the call may take; none where nothing was said, or nothing that can be read.
pub(crate) fn of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(NAME)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Say how long the call may take.
pub(crate) fn set(headers: &mut HeaderMap, left: Duration) {
    let text = if left.as_micros() <= MOST {
        format!("{}u", left.as_micros())
    } else if left.as_millis() <= MOST {
        format!("{}m", left.as_millis())
    } else {
        format!("{}S", u128::from(left.as_secs()).min(MOST))
    };
    let value = HeaderValue::try_from(text).expect("digits and a unit");
    headers.insert(NAME, value);
}

/// The moment when that time is over.
pub(crate) fn after(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(FOREVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Option<Duration> {
        of(&HeaderMap::from_iter([(http::HeaderName::from_static(NAME), HeaderValue::from_static(text))]))
    }

    #[test]
    fn what_was_set_is_read_again() {
        for timeout in [
            Duration::from_micros(1),
            Duration::from_millis(250),
            Duration::from_secs(3_600),
            Duration::from_secs(200_000),
        ] {
            let mut headers = HeaderMap::new();
            set(&mut headers, timeout);
            assert_eq!(of(&headers), Some(timeout));
        }
    }

    #[test]
    fn all_units_are_read() {
        assert_eq!(read("2H"), Some(Duration::from_secs(7_200)));
        assert_eq!(read("2M"), Some(Duration::from_secs(120)));
        assert_eq!(read("2n"), Some(Duration::from_nanos(2)));
    }

    #[test]
    fn what_is_no_timeout_is_none() {
        for text in ["", "S", "1", "-1S", "1x", "123456789S", "+1S"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn the_longest_timeout_is_no_overflow() {
        after(Duration::MAX);
        let mut headers = HeaderMap::new();
        set(&mut headers, Duration::MAX);
        assert!(of(&headers).is_some());
    }
}
