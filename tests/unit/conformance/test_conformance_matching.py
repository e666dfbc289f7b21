"""What matches and what does not: a runner that finds everything right is worth nothing."""

import math
from typing import Any

import pytest

from clients.conformance.matching import differences
from clients.conformance.references import UnknownReferenceError, resolve


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({}, {"a": 1}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": {"b": "x"}}, {"a": {"b": "x", "c": 1}}),
        ({"a": 0, "b": "", "c": False, "d": []}, {}),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2, "c": 3}]}),
        ({"a": {"$present": True}}, {"a": 1}),
        ({"a": {"$present": True}}, {"a": 0}),
        ({"a": {"$present": False}}, {"a": ""}),
        ({"a": {"$present": False}}, {}),
        ({"a": {"$matches": "x+"}}, {"a": "xxx"}),
        ({"a": {"$length": 2}}, {"a": [1, 2]}),
        ({"a": {"$length": 0}}, {}),
        ({"a": {"$contains": {"b": 1}}}, {"a": [{"b": 2}, {"b": 1, "c": 3}]}),
        ({"a": {"$contains": "lo"}}, {"a": "hello"}),
        ({"a": {"$not": 1}}, {"a": 2}),
        ({"a": {"$one_of": [1, 2]}}, {"a": 2}),
        ({"a": {"$at_least": 1}}, {"a": 1}),
        ({"a": {"$at_least": 0}}, {}),
        ({"a": {"$at_most": 1}}, {"a": 0.5}),
        ({"a": 9223372036854775807}, {"a": 9223372036854775807}),
    ],
)
def test_what_is_as_expected_matches(expected: Any, found: Any) -> None:
    assert list(differences(expected, found)) == []


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({"a": 1}, {}),
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"a": True}),
        ({"a": True}, {"a": 1}),
        ({"a": 0}, {"a": 1}),
        ({"a": ""}, {"a": "x"}),
        ({"a": False}, {"a": True}),
        ({"a": []}, {"a": [1]}),
        ({"a": {}}, {}),
        ({"a": {"b": 1}}, {"a": 1}),
        ({"a": {"b": 1}}, {}),
        ({"a": [1, 2]}, {"a": [1]}),
        ({"a": [1]}, {"a": [2]}),
        ({"a": [1]}, {"a": 1}),
        ({"a": {"$present": True}}, {}),
        ({"a": {"$present": True}}, {"a": ""}),
        ({"a": {"$present": False}}, {"a": 1}),
        ({"a": {"$matches": "x+"}}, {"a": "xxxy"}),
        ({"a": {"$matches": "x*"}}, {}),
        ({"a": {"$length": 2}}, {"a": [1]}),
        ({"a": {"$contains": 1}}, {"a": [2]}),
        ({"a": {"$contains": 1}}, {}),
        ({"a": {"$not": 1}}, {"a": 1}),
        ({"a": {"$one_of": [1, 2]}}, {"a": 3}),
        ({"a": {"$at_least": 1}}, {"a": 0.9}),
        ({"a": {"$at_least": 1}}, {}),
        ({"a": {"$at_least": 1}}, {"a": "2"}),
        ({"a": {"$at_most": 1}}, {"a": 1.1}),
        ({"a": 9223372036854775807}, {"a": 9223372036854775808}),
        ({"a": 1.0}, {"a": math.nan}),
    ],
)
def test_what_is_not_as_expected_is_told_with_its_place(expected: Any, found: Any) -> None:
    told = list(differences(expected, found))
    assert len(told) == 1
    assert ".a" in told[0]


def test_an_unknown_question_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="presnt"):
        list(differences({"a": {"$presnt": True}}, {"a": 1}))


def test_references_are_replaced_however_deep_and_keep_their_type() -> None:
    known = {"login": {"session": {"revision": 7}}, "users": [{"id": "usr_1"}], "email": "a@example.org"}
    assert resolve({"a": ["${login.session.revision}"]}, known) == {"a": [7]}
    assert resolve("new-${email}", known) == "new-a@example.org"
    assert resolve("${users.0.id}", known) == "usr_1"
    assert resolve({"$repeat": ["ab", 3]}, known) == "ababab"
    assert resolve({"$list": [{"name": "n#"}, 2]}, known) == [{"name": "n0"}, {"name": "n1"}]
    assert resolve({"$add": ["${login.session.revision}", 1]}, known) == 8
    assert resolve("${new_session_id}", known) != resolve("${new_session_id}", known)


@pytest.mark.parametrize("reference", ["${nothing}", "${login.session.nothing}", "${users.5.id}", "text ${nothing}"])
def test_a_reference_to_nothing_is_a_mistake(reference: str) -> None:
    with pytest.raises(UnknownReferenceError):
        resolve(reference, {"login": {"session": {}}, "users": []})
