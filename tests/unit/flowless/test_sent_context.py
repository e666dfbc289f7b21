"""What is compared of a context that somebody sends without saying which mode they want."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowless.domain.sent_context import check_sent
from trust_core import modes
from trust_core.modes import DEFAULT_PREFIXES, DenialReason, RequestContext, ValidationMode

KEY = bytes(32)
AT_LOGIN = RequestContext(client_ip="203.0.113.7", device_fingerprint="device", user_agent="agent")
ELSEWHERE = RequestContext(client_ip="198.51.100.9", device_fingerprint="another device", user_agent="another agent")
NOTHING = RequestContext()
MISMATCH = {
    "client_ip": DenialReason.IP_MISMATCH,
    "device_fingerprint": DenialReason.DEVICE_MISMATCH,
    "user_agent": DenialReason.USER_AGENT_MISMATCH,
}
PARTS = tuple(MISMATCH)
contexts = st.builds(
    RequestContext,
    client_ip=st.sampled_from(
        ["", AT_LOGIN.client_ip, ELSEWHERE.client_ip, "::ffff:203.0.113.7", "2001:db8::1", "x"]
    ),
    device_fingerprint=st.sampled_from(["", "device", "another device", "-"]),
    user_agent=st.sampled_from(["", "agent", "another agent", "-"]),
)
asked = st.sampled_from([None, *ValidationMode])


def _check(mode: ValidationMode | None, at_login: RequestContext, sent: RequestContext) -> DenialReason | None:
    return check_sent(mode, modes.bind(at_login, KEY), sent, DEFAULT_PREFIXES)


def test_who_asks_for_nothing_and_sends_nothing_is_let_pass() -> None:
    assert _check(None, AT_LOGIN, NOTHING) is None


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_sent_and_bound_has_to_be_the_same(part: str) -> None:
    same = replace(NOTHING, **{part: getattr(AT_LOGIN, part)})
    other = replace(NOTHING, **{part: getattr(ELSEWHERE, part)})
    assert _check(None, AT_LOGIN, same) is None
    assert _check(None, AT_LOGIN, other) is MISMATCH[part]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_was_not_bound_is_not_asked_for_unless_the_mode_does(part: str) -> None:
    at_login = replace(AT_LOGIN, **{part: ""})
    assert _check(None, at_login, AT_LOGIN) is None
    assert _check(ValidationMode.STRICT, at_login, AT_LOGIN) is DenialReason.CONTEXT_NOT_BOUND


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_missing_is_a_denial_in_the_mode_that_was_asked_for(part: str) -> None:
    assert _check(ValidationMode.STRICT, AT_LOGIN, replace(AT_LOGIN, **{part: ""})) is DenialReason.CONTEXT_MISSING


def test_a_user_agent_that_differs_is_a_denial_even_where_the_mode_does_not_look_at_it() -> None:
    sent = replace(AT_LOGIN, user_agent="another agent")
    assert _check(ValidationMode.STANDARD, AT_LOGIN, sent) is DenialReason.USER_AGENT_MISMATCH


@given(mode=asked, at_login=contexts, sent=contexts)
def test_nothing_passes_that_the_mode_asked_for_denies(
    mode: ValidationMode | None, at_login: RequestContext, sent: RequestContext
) -> None:
    reason = None if mode is None else modes.check(mode, modes.bind(at_login, KEY), sent)
    if reason is not None:
        assert _check(mode, at_login, sent) is reason


@given(at_login=contexts, sent=contexts)
def test_who_is_let_pass_without_a_mode_differs_in_nothing_that_was_sent_and_bound(
    at_login: RequestContext, sent: RequestContext
) -> None:
    binding = modes.bind(at_login, KEY)
    for part in PARTS:
        if getattr(sent, part) and getattr(binding, part):
            alone = replace(NOTHING, **{part: getattr(sent, part)})
            if _check(None, at_login, alone) is not None:
                assert _check(None, at_login, sent) is not None
