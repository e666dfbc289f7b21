"""What is accepted of users and passwords, and in which form; every refusal is collected, none is an exception."""

import json
import re
import unicodedata
from dataclasses import fields as fields_of
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flowless.adapters.email_addresses import LibraryEmailAddresses
from flowless.domain.fields import MAX_VIOLATIONS, Fields
from flowless.domain.users import (
    ATTRIBUTES_BYTES,
    ATTRIBUTES_DEPTH,
    PROFILE_FIELDS,
    Profile,
    canonical_user_name,
    checked_profile,
)
from trust_core.errors import TrustError

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(2**53), 2**53) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=20,
)


def _violations(fields: Fields) -> dict[str, str]:
    try:
        fields.refuse()
    except TrustError as error:
        return {violation.field: violation.description for violation in error.violations}
    return {}


# --- collecting violations --------------------------------------------------------------------------------------


def test_nothing_wrong_is_not_refused() -> None:
    Fields().refuse()


def test_everything_wrong_is_told_at_once() -> None:
    fields = Fields()
    fields.text("name", "x" * 5, most=4)
    fields.text("other", "", most=4, least=1)
    fields.matching("third", "x", re.compile("y"), "a y")
    fields.utf8("fourth", "üü", most=3)
    fields.size("fifth", [1, 2], most=1)
    assert _violations(fields) == {
        "name": "at most 4 characters",
        "other": "required",
        "third": "a y",
        "fourth": "at most 3 bytes",
        "fifth": "at most 1 items",
    }


def test_limits_are_inclusive() -> None:
    fields = Fields()
    fields.text("name", "xxxx", most=4, least=4)
    fields.utf8("fourth", "üü", most=4)
    fields.size("fifth", [1, 2], most=2)
    fields.matching("third", "y", re.compile("y"), "a y")
    assert _violations(fields) == {}


def test_a_pattern_has_to_match_the_whole_text() -> None:
    for text in ("yx", "xy", "y\n", ""):
        fields = Fields()
        fields.matching("third", text, re.compile("y"), "a y")
        assert _violations(fields) == {"third": "a y"}


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0xD800, 0xDFFF])
def test_no_character_that_breaks_or_steers_a_line_is_text(code: int) -> None:
    fields = Fields()
    fields.text("name", f"a{chr(code)}b", most=10)
    assert _violations(fields) == {"name": "must not hold control characters"}


def test_the_same_violation_is_told_once_and_very_many_are_cut() -> None:
    fields = Fields()
    for number in range(1_000):
        fields.add("roles", "the same")
        fields.add(f"field{number}", "another")
    with pytest.raises(TrustError) as caught:
        fields.refuse()
    assert len(caught.value.violations) == MAX_VIOLATIONS
    assert [v.field for v in caught.value.violations[:3]] == ["roles", "field0", "field1"]


# --- profiles ---------------------------------------------------------------------------------------------------


@given(st.builds(Profile, **dict.fromkeys(("user_name", "name", "phone", "picture_url", "locale"), ANY_TEXT)))
def test_a_profile_that_is_accepted_is_within_its_limits(profile: Profile) -> None:
    fields = Fields()
    checked = checked_profile(profile, fields)
    if _violations(fields):
        return
    assert checked == profile
    for name, most in {"user_name": 64, "name": 128, "phone": 32, "locale": 35, "picture_url": 2048}.items():
        value = getattr(checked, name)
        assert len(value) <= most
        assert not any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} for c in value)
    assert checked.user_name.isascii()
    assert not checked.picture_url or checked.picture_url.startswith("https://")


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=70), max_size=70))
def test_roles_that_are_accepted_are_sorted_single_and_fit_to_be_listed(roles: list[str]) -> None:
    fields = Fields()
    checked = checked_profile(Profile(roles=tuple(roles)), fields, only=frozenset({"roles"}))
    if _violations(fields):
        return
    assert checked.roles == tuple(sorted(set(roles)))
    assert len(roles) <= 64
    for role in checked.roles:
        role.encode()
        assert 1 <= len(role) <= 64
        assert "," not in role
        assert not any(c.isspace() or unicodedata.category(c) in {"Cc", "Cs"} for c in role)


@given(st.dictionaries(ANY_TEXT, JSON, max_size=5))
def test_attributes_that_are_accepted_survive_storage_as_they_are(attributes: dict[str, Any]) -> None:
    fields = Fields()
    checked_profile(Profile(attributes=attributes), fields)
    if _violations(fields):
        return
    text = json.dumps(attributes, ensure_ascii=False, allow_nan=False)
    assert len(text.encode()) <= ATTRIBUTES_BYTES
    assert json.loads(text) == attributes
    assert "\0" not in str(json.loads(text))


def _nested(depth: int, kind: type) -> dict[str, Any]:
    inner: Any = kind()
    for _ in range(depth - 2):
        inner = [inner] if kind is list else {"x": inner}
    return {"x": inner}


@pytest.mark.parametrize("kind", [dict, list])
def test_attributes_are_bounded_in_depth(kind: type) -> None:
    for depth, expected in ((ATTRIBUTES_DEPTH, set()), (ATTRIBUTES_DEPTH + 1, {"attributes"})):
        fields = Fields()
        checked_profile(Profile(attributes=_nested(depth, kind)), fields)
        assert set(_violations(fields)) == expected


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), "\0", "x\0y", "\ud800", {"a": "\udfff"}, {"\0": 1}, {1, 2}, b"x", "x" * 4_096],
)
def test_attributes_that_no_json_text_can_hold_are_refused(value: object) -> None:
    fields = Fields()
    checked_profile(Profile(attributes={"x": value}), fields)
    assert set(_violations(fields)) == {"attributes"}


def test_a_backslash_that_only_looks_like_nul_is_accepted() -> None:
    fields = Fields()
    checked_profile(Profile(attributes={"x": "\\u0000"}), fields)
    assert _violations(fields) == {}


@pytest.mark.parametrize("field", PROFILE_FIELDS)
def test_only_the_named_fields_are_checked(field: str) -> None:
    wrong: dict[str, Any] = {
        "user_name": "x", "name": "\0", "last_name": "\0", "phone": "\0", "picture_url": "x",
        "user_type": "\0", "locale": "!", "roles": (" ",), "attributes": {"x": "\0"},
    }  # fmt: skip
    assert set(wrong) == {f.name for f in fields_of(Profile)}
    fields = Fields()
    checked_profile(Profile(**wrong), fields, only=frozenset({field}))
    assert set(_violations(fields)) == {field}


@given(st.from_regex(r"[0-9A-Za-z][0-9A-Za-z._-]{2,63}", fullmatch=True))
def test_user_names_are_compared_without_case(name: str) -> None:
    fields = Fields()
    checked_profile(Profile(user_name=name), fields)
    assert _violations(fields) == {}
    assert canonical_user_name(name.upper()) == canonical_user_name(name) == canonical_user_name(name.lower())


# --- e-mail addresses -------------------------------------------------------------------------------------------

ADDRESSES = LibraryEmailAddresses()


@pytest.mark.parametrize(
    ("given_address", "canonical"),
    [
        ("Ada@Example.ORG", "ada@example.org"),
        ("ada+tag@example.org", "ada+tag@example.org"),
        ("ADA@bücher.example", "ada@xn--bcher-kva.example"),
        ("ada@xn--bcher-kva.example", "ada@xn--bcher-kva.example"),
        ("PELÉ@example.org", "pelé@example.org"),
        ("PELE\u0301@example.org", "pelé@example.org"),
    ],
)
def test_addresses_of_one_mailbox_have_one_form(given_address: str, canonical: str) -> None:
    assert ADDRESSES.canonical(given_address) == canonical


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("user@fa\u00df.example", "user@fass.example"),
        ("user@\u03b2\u03cc\u03bb\u03bf\u03c2.example", "user@\u03b2\u03cc\u03bb\u03bf\u03c3.example"),
        ("stra\u00dfe@example.org", "strasse@example.org"),
        ("\u017fam@example.org", "sam@example.org"),
    ],
)
def test_mailboxes_that_may_be_of_two_owners_have_two_forms(one: str, other: str) -> None:
    forms = ADDRESSES.canonical(one), ADDRESSES.canonical(other)
    assert None not in forms
    assert forms[0] != forms[1]


@pytest.mark.parametrize(
    "text",
    [
        "", "@", "ada", "ada@", "@example.org", "a b@example.org",
        "ada@example", "ada@example..org", "a\0@example.org",
        "ada@example.org\n", "Ada <ada@example.org>", "ada@[127.0.0.1]", '"a b"@example.org', "\ud800@example.org",
        "x" * 255 + "@example.org", "ada@localhost",
    ],
)  # fmt: skip
def test_what_is_no_address_has_no_form(text: str) -> None:
    assert ADDRESSES.canonical(text) is None


@given(st.emails() | ANY_TEXT | st.builds("{}@example.org".format, ANY_TEXT))
def test_a_canonical_form_is_its_own_and_fits_the_column(address: str) -> None:
    canonical = ADDRESSES.canonical(address)
    assume(canonical is not None)
    assert canonical is not None
    assert ADDRESSES.canonical(canonical) == canonical
    assert len(canonical.encode()) <= 254


@pytest.mark.parametrize("number", [2**53 + 1, -(10**400), 10**18])
def test_whole_numbers_that_clients_cannot_read_exactly_are_refused(number: int) -> None:
    fields = Fields()
    checked_profile(Profile(attributes={"deep": [{"n": number}]}), fields)
    assert "attributes" in _violations(fields)


def test_attributes_of_any_depth_are_measured_without_recursion() -> None:
    nested: Any = []
    for _ in range(900):
        nested = [nested]
    fields = Fields()
    checked_profile(Profile(attributes={"deep": nested}), fields)
    assert "attributes" in _violations(fields)
