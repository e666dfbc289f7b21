"""What is read from a request: the session id from one place, and nothing that was said twice."""

import pytest

from bridge_sidecar.http_requests import (
    MAX_DEVICE_CHARS,
    MAX_USER_AGENT_CHARS,
    RequestReader,
    SessionSource,
    SourceError,
)
from trust_core.modes import RequestContext


def _reader(*sources: str) -> RequestReader:
    return RequestReader(sources=tuple(map(SessionSource, sources)), device_header="x-device")


READER = _reader("cookie:sid", "bearer", "header:x-session-id")


@pytest.mark.parametrize(
    ("headers", "session_id"),
    [
        ([], None),
        ([("cookie", "a=b; sid=one; c=d")], "one"),
        ([("cookie", "a=b"), ("cookie", "sid=one")], "one"),
        ([("cookie", 'sid="one"')], "one"),
        ([("cookie", "sid=")], ""),
        ([("cookie", "SID=one")], None),
        ([("cookie", "xsid=one; sid")], None),
        ([("authorization", "Bearer two")], "two"),
        ([("authorization", "bearer  two ")], "two"),
        ([("authorization", "Basic dXNlcjpwYXNz")], None),
        ([("authorization", "Bearer two three")], None),
        ([("x-session-id", " three ")], "three"),
        ([("authorization", "Bearer two"), ("cookie", "sid=one")], "one"),
        ([("x-session-id", "three"), ("authorization", "Bearer two")], "two"),
    ],
)
def test_the_session_id_comes_from_the_first_place_where_one_was_sent(
    headers: list[tuple[str, str]], session_id: str | None
) -> None:
    assert READER.session_id(headers) == session_id


@pytest.mark.parametrize(
    "headers",
    [
        [("cookie", "sid=one; sid=two")],
        [("cookie", "sid=one; sid=one")],
        [("cookie", "sid=one"), ("cookie", "sid=two"), ("authorization", "Bearer three")],
        [("authorization", "Bearer one"), ("authorization", "Bearer two")],
        [("x-session-id", "one"), ("x-session-id", "two")],
        [("cookie", "sid=" + "a" * 10_000)],
    ],
)
def test_two_values_in_one_place_or_a_value_too_long_are_no_session_id(headers: list[tuple[str, str]]) -> None:
    assert READER.session_id(headers) == ""


def test_the_order_of_places_is_the_operators() -> None:
    headers = [("authorization", "Bearer two"), ("cookie", "sid=one")]
    assert _reader("bearer", "cookie:sid").session_id(headers) == "two"
    assert _reader("cookie:other").session_id(headers) is None


def test_the_context_holds_what_was_sent_once_and_in_bounds() -> None:
    headers = [("x-device", "device"), ("user-agent", "agent")]
    assert READER.context(headers, client_ip="203.0.113.7") == RequestContext("203.0.113.7", "device", "agent")
    assert READER.context([*headers, *headers], client_ip="") == RequestContext()
    long = [("x-device", "d" * (MAX_DEVICE_CHARS + 1)), ("user-agent", "u" * (MAX_USER_AGENT_CHARS + 1))]
    assert READER.context(long, client_ip="") == RequestContext()


@pytest.mark.parametrize(
    "text",
    ["", "cookie", "cookie:", "cookie:a b", "header:X-Session", "header:x_s", "header:cookie", "basic", "bearer:x"],
)
def test_a_place_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(SourceError):
        SessionSource(text)
