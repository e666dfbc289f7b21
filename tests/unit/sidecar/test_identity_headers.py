"""Identity headers: nothing but the proxy may say them, and nothing in them can be more than a value."""

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_sidecar.identity_headers import KNOWN, IdentityTooLargeError, encode, guarded, identity_headers
from trustlayer.v1 import types_pb2


def _session(**user: object) -> types_pb2.Session:
    return types_pb2.Session(handle="sh_1", user=types_pb2.User(id="usr_1", **user))  # type: ignore[arg-type]


def test_the_headers_that_are_configured_are_written_in_their_order() -> None:
    session = _session(roles=["admin", "büro, nord"], email="ada@example.org", email_verified=True)
    assert identity_headers(session, ("x-user-roles", "x-user-id", "x-user-email", "x-user-email-verified")) == (
        ("x-user-roles", "admin,b%C3%BCro%2C%20nord"),
        ("x-user-id", "usr_1"),
        ("x-user-email", "ada@example.org"),
        ("x-user-email-verified", "true"),
    )


def test_a_header_without_a_value_is_left_out() -> None:
    assert identity_headers(_session(), ("x-user-roles", "x-user-email", "x-session-handle")) == (
        ("x-session-handle", "sh_1"),
    )


@given(st.text())
def test_a_value_holds_no_sign_that_ends_a_header_or_separates_a_list_and_can_be_read_back(text: str) -> None:
    encoded = encode(text)
    assert encoded.isascii()
    assert encoded.isprintable()
    assert not set(encoded) & set('\r\n\0 ,"\\')
    assert unquote(encoded) == text.encode("utf-8", "replace").decode()


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5))
def test_no_role_can_pretend_to_be_two(roles: list[str]) -> None:
    ((_, value),) = identity_headers(_session(roles=[r.encode("utf-8", "replace") for r in roles]), ("x-user-roles",))
    assert len(value.split(",")) == len(roles)


def test_what_is_too_large_is_refused_and_not_cut_short() -> None:
    with pytest.raises(IdentityTooLargeError):
        identity_headers(_session(roles=["\U0001f512" * 64] * 64), KNOWN)


@pytest.mark.parametrize(
    "name", ["x-user-id", "X-User-Id", "x_user_id", "x_user-id", "X.USER.ID", "x-user~roles", "x_session_handle"]
)
def test_every_spelling_that_a_server_may_fold_into_an_identity_header_is_found(name: str) -> None:
    assert guarded([("accept", "x"), (name, "usr_admin")]) == [name]


@pytest.mark.parametrize("name", ["x-user", "x-user-id2", "xuserid", "x-userid", "y-user-id", "x--user-id"])
def test_other_headers_are_let_through(name: str) -> None:
    assert guarded([(name, "x")]) == []
