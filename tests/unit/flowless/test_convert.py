"""Between records and messages: whatever a caller sends is a value or a violation, never another exception."""

import base64
import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf import duration_pb2, struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from flowless.domain.fields import Fields
from flowless.domain.sessions import ActiveSession
from flowless.grpc import convert
from flowless.grpc.session import _position
from tests.support.stores import HOUR, NOW, new_bridge, new_session, new_user
from trust_core.errors import Reason, TrustError
from trust_core.modes import DENIAL_TEXT, Binding, DenialReason, ValidationMode
from trustlayer.v1 import types_pb2

MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001


def _field(error: pytest.ExceptionInfo[TrustError]) -> str:
    assert error.value.reason is Reason.INVALID_FIELD
    (violation,) = error.value.violations
    return violation.field


@given(st.lists(st.from_regex(r"[!-~]{1,40}", fullmatch=True), min_size=1, max_size=3))
def test_a_page_token_gives_back_what_it_was_made_of(parts: list[str]) -> None:
    token = convert.page_token(*parts)
    assert convert.from_page_token(token, parts=len(parts)) == tuple(parts)


def test_an_empty_token_is_none() -> None:
    assert convert.page_token() == ""
    assert convert.from_page_token("", parts=1) is None


@given(st.text() | st.binary().map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_a_token_that_is_not_ours_is_a_position_or_a_violation(token: str) -> None:
    for read in (lambda: convert.from_page_token(token, parts=1), lambda: _position(token)):
        with contextlib.suppress(TrustError):
            read()


@pytest.mark.parametrize(
    "parts",
    [
        ("nonsense", "sh_" + "0" * 22),
        ("0001-01-01T00:00:00+14:00", "sh_" + "0" * 22),
        ("9999-12-31T23:59:59-14:00", "sh_" + "0" * 22),
        ("2030-01-01T00:00:00+00:00", "nonsense"),
        ("2030-01-01T00:00:00+00:00",),
        ("2030-01-01T00:00:00+00:00", "sh_" + "0" * 22, "more"),
        ("x" * 1_000, "sh_" + "0" * 22),
    ],
)
def test_a_position_in_a_list_of_sessions_is_a_moment_and_a_handle(parts: tuple[str, ...]) -> None:
    with pytest.raises(TrustError) as caught:
        _position(convert.page_token(*parts))
    assert _field(caught) == "page_token"


@given(MOMENTS)
def test_a_position_in_a_list_of_sessions_is_exact(moment: datetime) -> None:
    handle = "sh_" + "0" * 22
    assert _position(convert.page_token(moment.isoformat(), handle)) == (moment, handle)


@given(MOMENTS)
def test_moments_are_exact(moment: datetime) -> None:
    assert convert.timestamp(moment).ToDatetime(UTC) == moment


@given(st.timedeltas(timedelta(days=-3_000_000), timedelta(days=3_000_000)))
def test_durations_are_exact(delta: timedelta) -> None:
    fields = Fields()
    assert convert.time_delta("x", convert.duration(delta), fields) == delta
    fields.refuse()


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))
def test_a_duration_is_read_or_a_violation(seconds: int, nanos: int) -> None:
    fields = Fields()
    delta = convert.time_delta("x", duration_pb2.Duration(seconds=seconds, nanos=nanos), fields)
    if abs(seconds) > 315_576_000_000:
        with pytest.raises(TrustError) as caught:
            fields.refuse()
        assert (_field(caught), delta) == ("x", timedelta(0))
    else:
        assert delta == timedelta(0) or abs(delta - timedelta(seconds=seconds)) <= timedelta(seconds=3)


@pytest.mark.parametrize(
    "value",
    [
        {"number_value": float("nan")},
        {"number_value": float("inf")},
        {"list_value": struct_pb2.ListValue(values=[struct_pb2.Value(number_value=float("-inf"))])},
    ],
)
def test_attributes_that_json_cannot_express_are_a_violation(value: dict[str, Any]) -> None:
    struct = struct_pb2.Struct(fields={"x": struct_pb2.Value(**value)})
    with pytest.raises(TrustError) as caught:
        convert.plain("attributes", struct)
    assert _field(caught) == "attributes"


def test_a_value_of_no_kind_is_null() -> None:
    assert convert.plain("attributes", struct_pb2.Struct(fields={"x": struct_pb2.Value()})) == {"x": None}


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_known_modes_are_read(number: int) -> None:
    assert convert.mode(number) == (ValidationMode(number) if number else None)


@pytest.mark.parametrize("number", [-1, 4, 99, 2**31 - 1])
def test_unknown_modes_are_a_violation(number: int) -> None:
    with pytest.raises(TrustError) as caught:
        convert.mode(number)
    assert _field(caught) == "mode"


@pytest.mark.parametrize("reason", DenialReason)
def test_every_denial_has_its_reason_and_a_text(reason: DenialReason) -> None:
    message = convert.denial(reason)
    assert types_pb2.DenialReason.Name(message.reason) == f"DENIAL_REASON_{reason.name}"
    assert message.message == DENIAL_TEXT[reason]


def test_a_user_and_its_profile_say_the_same() -> None:
    user = new_user(user_name="ada")
    message = convert.user(user)
    assert convert.profile(message) == user.profile
    assert (message.id, message.email, message.email_verified) == (user.id, user.email, False)
    assert message.create_time.ToDatetime(UTC) == user.created_at


def test_what_an_app_may_see_of_a_session_holds_neither_digest_nor_binding() -> None:
    user = new_user()
    session = new_session(user.id)
    active = ActiveSession(
        session=session,
        user=user,
        absolute_remaining=timedelta(hours=1),
        idle_remaining=timedelta(minutes=1),
        authentication_age=timedelta(seconds=7),
    )
    seen = convert.session(active).SerializeToString()
    binding = session.binding
    for secret in (session.digest, binding.key, binding.device_fingerprint, binding.user_agent):
        assert secret not in seen
    assert convert.cacheable(active, with_binding=True).binding.key == binding.key
    assert convert.cacheable(active, with_binding=True).authentication_age.seconds == 7
    assert not convert.cacheable(active, with_binding=False).HasField("binding")


def test_a_summary_of_an_unbound_session_has_no_address() -> None:
    summary = convert.session_summary(new_session("usr", binding=Binding()))
    assert summary.client_ip == ""


def test_a_bridge_is_shown_without_its_secrets() -> None:
    bridge = new_bridge("shop", secrets=2)
    message = convert.bridge(bridge, NOW)
    assert (message.name, message.live_secrets, list(message.scopes)) == ("shop", 2, [1, 3])
    assert not message.HasField("revoke_time")
    assert not message.HasField("last_use_time")
    assert all(secret.digest not in message.SerializeToString() for secret in bridge.secrets)


def test_of_a_bridges_secrets_those_that_work_are_shown_with_their_end_and_last_use() -> None:
    made = new_bridge("shop", secrets=3)
    dead, old, new = made.secrets
    bridge = replace(
        made,
        client_id="shop.internal",
        last_used_at=NOW + HOUR,
        secrets=(
            replace(dead, expires_at=NOW),
            replace(old, expires_at=NOW + 2 * HOUR, last_used_at=NOW + HOUR),
            new,
        ),
    )
    message = convert.bridge(bridge, NOW)
    assert (message.live_secrets, message.client_id) == (2, "shop.internal")
    assert message.last_use_time == convert.timestamp(NOW + HOUR)
    first, second = message.secrets
    assert (first.expire_time, first.last_use_time) == (convert.timestamp(NOW + 2 * HOUR), message.last_use_time)
    assert not second.HasField("expire_time")
    assert not second.HasField("last_use_time")
