//! What a request carries for a validation: session id, device fingerprint, user agent.
//!
//! Values are taken as one character per byte, as the sidecar's own gate takes them.

use http::header::{AUTHORIZATION, COOKIE, HeaderName};
use http::{HeaderMap, HeaderValue};

/// A place where a session id may stand in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionIdFrom {
    /// The cookie of this name; names differ by case.
    Cookie(String),
    /// `Authorization: Bearer …`.
    Bearer,
}

/// What stands in the places of a session id.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Nothing,
    Once(String),
    /// Several values, of which the app might take another one than we.
    Ambiguous,
}

/// Take the session id from the first place where anything was sent.
pub(super) fn session_id(headers: &HeaderMap, places: &[SessionIdFrom]) -> Sent {
    for place in places {
        let mut values = match place {
            SessionIdFrom::Cookie(name) => cookies(headers, name),
            SessionIdFrom::Bearer => headers.get_all(AUTHORIZATION).iter().filter_map(bearer).collect(),
        };
        values.dedup();
        match values.len() {
            0 => {}
            1 => return values.pop().map_or(Sent::Nothing, Sent::Once),
            _ => return Sent::Ambiguous,
        }
    }
    Sent::Nothing
}

/// Take what was sent once and is no longer than may be compared, in bytes; all else counts as not sent.
pub(super) fn only(headers: &HeaderMap, name: &HeaderName, most: usize) -> String {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => Some(text(line)).filter(|text| text.len() <= most),
        _ => None,
    }
    .unwrap_or_default()
}

fn text(value: &HeaderValue) -> String {
    value.as_bytes().iter().map(|byte| char::from(*byte)).collect()
}

/// Read cookies as RFC 6265 has a server read them.
fn cookies(headers: &HeaderMap, name: &str) -> Vec<String> {
    let blank = [' ', '\t'];
    let mut found = Vec::new();
    for line in headers.get_all(COOKIE).iter().map(text) {
        for pair in line.split(';') {
            if let Some((key, value)) = pair.split_once('=')
                && key.trim_matches(blank) == name
            {
                found.push(value.trim_matches(blank).trim_matches('"').to_owned());
            }
        }
    }
    found
}

fn bearer(line: &HeaderValue) -> Option<String> {
    let line = text(line);
    let (scheme, token) = line.trim_matches([' ', '\t']).split_once(' ')?;
    let token = token.trim_start_matches(' ');
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    (scheme.eq_ignore_ascii_case("bearer") && is_token).then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::USER_AGENT;

    fn sent(lines: &[(HeaderName, &str)]) -> Sent {
        let places = [SessionIdFrom::Cookie("session_id".into()), SessionIdFrom::Bearer];
        session_id(&headers(lines), &places)
    }

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn once(value: &str) -> Sent {
        Sent::Once(value.into())
    }

    #[test]
    fn a_session_id_is_found_in_each_place() {
        assert_eq!(sent(&[(COOKIE, "a=b; session_id = \"one\" ;c=d")]), once("one"));
        assert_eq!(sent(&[(AUTHORIZATION, "bEARER  one")]), once("one"));
        assert_eq!(sent(&[(COOKIE, "Session_Id=one")]), Sent::Nothing);
        assert_eq!(sent(&[(AUTHORIZATION, "Basic one")]), Sent::Nothing);
    }

    #[test]
    fn the_first_place_with_anything_in_it_counts() {
        assert_eq!(sent(&[(AUTHORIZATION, "Bearer two"), (COOKIE, "session_id=one")]), once("one"));
        assert_eq!(sent(&[(AUTHORIZATION, "Bearer two"), (COOKIE, "session_id=")]), once(""));
    }

    #[test]
    fn two_values_in_one_place_are_ambiguous_and_the_same_one_twice_is_not() {
        assert_eq!(sent(&[(COOKIE, "session_id=one; session_id=two")]), Sent::Ambiguous);
        assert_eq!(sent(&[(COOKIE, "session_id=one"), (COOKIE, "session_id=two")]), Sent::Ambiguous);
        assert_eq!(sent(&[(AUTHORIZATION, "Bearer a"), (AUTHORIZATION, "Bearer b")]), Sent::Ambiguous);
        assert_eq!(sent(&[(COOKIE, "session_id=one; session_id=one")]), once("one"));
    }

    #[test]
    fn a_value_that_differs_between_two_equal_ones_is_seen() {
        let cookies = "session_id=one; session_id=two; session_id=one";
        assert_eq!(sent(&[(COOKIE, cookies)]), Sent::Ambiguous);
    }

    #[test]
    fn what_was_sent_twice_or_is_too_long_counts_as_not_sent() {
        let one = headers(&[(USER_AGENT, "agent")]);
        assert_eq!(only(&one, &USER_AGENT, 5), "agent");
        assert_eq!(only(&one, &USER_AGENT, 4), "");
        assert_eq!(only(&headers(&[(USER_AGENT, "a"), (USER_AGENT, "a")]), &USER_AGENT, 5), "");
    }
}
