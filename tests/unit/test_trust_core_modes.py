"""Does this context satisfy this mode? The one rule, as a table and as properties."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trust_core.modes import (
    DENIAL_TEXT,
    Binding,
    DenialReason,
    IpPrefixes,
    RequestContext,
    ValidationMode,
    bind,
    check,
    pack_ip,
    satisfiable_modes,
)

KEY = bytes(range(32))
FULL = RequestContext(client_ip="203.0.113.7", device_fingerprint="device", user_agent="agent")
STANDARD, ADVANCED, STRICT = ValidationMode

# For each part: what was bound at login, what the request carries, and what that means when the mode asks for it.
IP_CASES = [
    ("203.0.113.7", "203.0.113.7", None),
    ("203.0.113.7", "::ffff:203.0.113.7", None),
    ("::ffff:203.0.113.7", "203.0.113.7", None),
    ("2001:db8::1", "2001:0db8:0000:0000:0000:0000:0000:0001", None),
    ("203.0.113.7", "203.0.113.8", DenialReason.IP_MISMATCH),
    ("2001:db8::1", "2001:db8::2", None),  # one network of 64 bits
    ("2001:db8::1", "2001:db8:0:1::1", DenialReason.IP_MISMATCH),
    ("2001:db8::1", "203.0.113.7", DenialReason.IP_MISMATCH),
    ("::", "0.0.0.0", DenialReason.IP_MISMATCH),
    ("203.0.113.7", "::203.0.113.7", DenialReason.IP_MISMATCH),  # "IPv4-compatible" is another address
    ("203.0.113.7", "not an address", DenialReason.IP_MISMATCH),
    ("203.0.113.7", "203.0.113.7 ", DenialReason.IP_MISMATCH),
    ("203.0.113.7", "203.0.113.007", DenialReason.IP_MISMATCH),
    ("203.0.113.7", "203.0.113.7:443", DenialReason.IP_MISMATCH),
    ("fe80::1", "fe80::1%eth0", DenialReason.IP_MISMATCH),
    ("203.0.113.7", "", DenialReason.CONTEXT_MISSING),
    ("", "203.0.113.7", DenialReason.CONTEXT_NOT_BOUND),
    ("not an address", "not an address", DenialReason.CONTEXT_NOT_BOUND),
    ("fe80::1%eth0", "fe80::1%eth0", DenialReason.CONTEXT_NOT_BOUND),
    ("", "", DenialReason.CONTEXT_MISSING),
]


def _text_cases(mismatch: DenialReason) -> list[tuple[str, str, DenialReason | None]]:
    return [
        ("same", "same", None),
        ("same", "Same", mismatch),
        ("same", "same ", mismatch),
        ("same", "", DenialReason.CONTEXT_MISSING),
        ("", "some", DenialReason.CONTEXT_NOT_BOUND),
        ("", "", DenialReason.CONTEXT_MISSING),
    ]


TABLE = list(
    itertools.product(
        IP_CASES, _text_cases(DenialReason.DEVICE_MISMATCH), _text_cases(DenialReason.USER_AGENT_MISMATCH)
    )
)

parts = (
    st.sampled_from(["", "203.0.113.7", "::ffff:203.0.113.7", "2001:db8::1", "x", "\0", "é", "\ud800"]) | st.text()
)
contexts = st.builds(RequestContext, client_ip=parts, device_fingerprint=parts, user_agent=parts)


def test_a_mode_denies_for_the_first_part_that_it_asks_for_and_does_not_get() -> None:
    for (ip, device, agent), mode in itertools.product(TABLE, ValidationMode):
        binding = bind(RequestContext(ip[0], device[0], agent[0]), KEY)
        context = RequestContext(ip[1], device[1], agent[1])
        asked = [ip[2], device[2], agent[2]][: mode.value]
        expected = next((reason for reason in asked if reason is not None), None)
        assert check(mode, binding, context) is expected, (mode, ip, device, agent)


PREFIX_CASES = [
    # bits of IPv4 and IPv6, bound, sent, and whether they are one network
    (32, 64, "203.0.113.7", "203.0.113.7", True),
    (32, 64, "203.0.113.7", "203.0.113.6", False),
    (31, 64, "203.0.113.7", "203.0.113.6", True),
    (31, 64, "203.0.113.7", "203.0.113.8", False),
    (24, 64, "203.0.113.7", "203.0.113.255", True),
    (24, 64, "203.0.113.7", "203.0.114.0", False),
    (24, 64, "203.0.113.7", "::ffff:203.0.113.255", True),
    (24, 64, "::ffff:203.0.113.7", "203.0.114.0", False),
    (1, 64, "127.255.255.255", "0.0.0.0", True),
    (1, 64, "127.255.255.255", "128.0.0.0", False),
    (32, 128, "2001:db8::1", "2001:db8::1", True),
    (32, 128, "2001:db8::1", "2001:db8::2", False),
    (32, 127, "2001:db8::2", "2001:db8::3", True),
    (32, 65, "2001:db8::", "2001:db8:0:0:8000::", False),
    (32, 64, "2001:db8::", "2001:db8:0:0:ffff:ffff:ffff:ffff", True),
    (32, 63, "2001:db8::", "2001:db8:0:1::", True),
    (32, 48, "2001:db8::1", "2001:db8:0:ffff::1", True),
    (32, 48, "2001:db8::1", "2001:db8:1::1", False),
    (1, 1, "203.0.113.7", "2001:db8::1", False),
    # A prefix that compares nothing, or more than there is, lets only the address itself pass.
    (0, 0, "203.0.113.7", "198.51.100.1", False),
    (0, 0, "203.0.113.7", "203.0.113.7", True),
    (33, 129, "2001:db8::1", "2001:db8::2", False),
]


@pytest.mark.parametrize(("v4", "v6", "bound", "sent", "same"), PREFIX_CASES)
@pytest.mark.parametrize("mode", ValidationMode)
def test_as_many_leading_bits_of_the_address_are_compared_as_configured(
    v4: int, v6: int, bound: str, sent: str, same: bool, mode: ValidationMode
) -> None:
    binding = bind(RequestContext(bound, "device", "agent"), KEY)
    context = RequestContext(sent, "device", "agent")
    assert check(mode, binding, context, IpPrefixes(v4, v6)) is (None if same else DenialReason.IP_MISMATCH)


addresses = st.ip_addresses().map(str)


@given(addresses, addresses, st.integers(1, 32), st.integers(1, 128))
def test_a_longer_prefix_never_allows_what_a_shorter_one_denies(bound: str, sent: str, v4: int, v6: int) -> None:
    binding, context = bind(RequestContext(bound), KEY), RequestContext(sent)
    if check(STANDARD, binding, context, IpPrefixes(v4, v6)) is not None:
        longer = IpPrefixes(min(32, v4 + 1), min(128, v6 + 1))
        assert check(STANDARD, binding, context, longer) is DenialReason.IP_MISMATCH


@given(addresses, st.integers(1, 32), st.integers(1, 128))
def test_an_address_is_in_its_own_network_whatever_the_prefix(address: str, v4: int, v6: int) -> None:
    assert check(STANDARD, bind(RequestContext(address), KEY), RequestContext(address), IpPrefixes(v4, v6)) is None


@given(contexts, contexts)
def test_a_stricter_mode_never_allows_what_a_weaker_one_denies(
    login: RequestContext, request: RequestContext
) -> None:
    binding = bind(login, KEY)
    decisions = [check(mode, binding, request) for mode in sorted(ValidationMode)]
    for weaker, stricter in itertools.pairwise(decisions):
        if weaker is not None:
            assert stricter is weaker


@given(contexts, st.sampled_from(ValidationMode))
def test_the_context_of_the_login_satisfies_exactly_the_satisfiable_modes(
    login: RequestContext, mode: ValidationMode
) -> None:
    binding = bind(login, KEY)
    assert (check(mode, binding, login) is None) == (mode in satisfiable_modes(binding))


@given(contexts, st.sampled_from(ValidationMode))
def test_a_session_bound_to_nothing_satisfies_no_mode(request: RequestContext, mode: ValidationMode) -> None:
    assert check(mode, Binding(), request) is not None


@given(contexts, contexts, st.sampled_from(ValidationMode))
def test_a_passing_request_carries_the_address_of_the_login(
    login: RequestContext, request: RequestContext, mode: ValidationMode
) -> None:
    if check(mode, bind(login, KEY), request) is None:
        assert pack_ip(login.client_ip) == pack_ip(request.client_ip) is not None


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_and_its_mapped_ipv6_address_are_one(address: object) -> None:
    packed = pack_ip(str(address))
    assert packed is not None
    assert len(packed) == 4
    assert pack_ip(f"::ffff:{address}") == packed


@given(st.ip_addresses(v=6))
def test_every_spelling_of_an_ipv6_address_is_one(address: object) -> None:
    assert pack_ip(str(address)) == pack_ip(str(address).upper())


@pytest.mark.parametrize("text", ["", "x", "1.2.3", "1.2.3.4.5", "1.2.3.4/32", "fe80::1%eth0", "1.2.3.4\0", "\ud800"])
def test_what_is_no_address_packs_to_nothing(text: str) -> None:
    assert pack_ip(text) is None


def test_equal_devices_of_two_sessions_do_not_look_equal_in_storage() -> None:
    one, other = bind(FULL, bytes(32)), bind(FULL, b"\1" * 32)
    assert one.device_fingerprint != other.device_fingerprint
    assert one.user_agent != other.user_agent


def test_a_value_bound_as_device_does_not_pass_as_user_agent() -> None:
    binding = bind(RequestContext("203.0.113.7", "same", "same"), KEY)
    assert binding.device_fingerprint != binding.user_agent


def test_the_binding_does_not_hold_the_texts_that_it_was_made_from() -> None:
    binding = bind(FULL, KEY)
    assert b"device" not in binding.device_fingerprint
    assert b"agent" not in binding.user_agent


def test_modes_that_need_an_unbound_part_are_not_satisfiable() -> None:
    assert satisfiable_modes(bind(FULL, KEY)) == (STANDARD, ADVANCED, STRICT)
    assert satisfiable_modes(bind(RequestContext("203.0.113.7", "device"), KEY)) == (STANDARD, ADVANCED)
    assert satisfiable_modes(bind(RequestContext("203.0.113.7", "", "agent"), KEY)) == (STANDARD,)
    assert satisfiable_modes(bind(RequestContext("", "device", "agent"), KEY)) == ()


def test_every_denial_reason_has_a_text_for_people() -> None:
    assert set(DENIAL_TEXT) == set(DenialReason)
