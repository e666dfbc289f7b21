"""The cases themselves: what they cover, and that a mistake in one is not passed over."""

from collections.abc import Iterator

import pytest

from bridge_sidecar.relay import resolve as relayed
from clients.conformance.case_file import Call, Case, CaseError, Do, cases_of, read_cases
from clients.conformance.methods import METHODS, VALIDATE, full_name
from clients.conformance.references import resolve
from clients.conformance.scripted_sidecar import Script
from trustlayer.v1 import types_pb2, validator_pb2

CASES = read_cases()
REAL = ("sidecar", "narrow")


def calls(cases: tuple[Case, ...] = CASES) -> Iterator[Call]:
    for case in cases:
        yield from (step for step in case.steps if isinstance(step, Call))


def test_every_method_that_the_socket_serves_succeeds_in_a_case_with_a_real_pair() -> None:
    succeeded = {call.method for call in calls() if call.socket in REAL and call.outcome == "response"}
    validated = any(call.method == VALIDATE and call.outcome == "active" for call in calls() if call.socket in REAL)
    assert validated
    assert set(METHODS) - succeeded == {"ValidatorService/Validate"}


def test_the_methods_are_all_that_a_sidecar_relays_and_all_of_its_own() -> None:
    could_be = relayed(("IdentityService/*", "SessionService/*", "TrustTokenService/*"))
    own = {f"/{validator_pb2.DESCRIPTOR.package}.ValidatorService/{name}" for name in ("Validate", "GetStatus")}
    assert {f"/{full_name(method)}" for method in METHODS} == could_be | own


def test_every_reason_of_a_denial_has_a_case_with_a_real_pair() -> None:
    reasons = {
        call.expected["reason"]
        for call in calls()
        if call.outcome == "denied" and call.socket in REAL
        if isinstance(call.expected["reason"], str)
    }
    every = {name.removeprefix("DENIAL_REASON_") for name in types_pb2.DenialReason.keys()}  # noqa: SIM118 - no dict
    assert every - reasons == {"UNSPECIFIED"}


def test_every_script_can_be_played() -> None:
    scripts = [
        step.action["script"]
        for case in CASES
        for step in case.steps
        if isinstance(step, Do) and "script" in step.action
    ]
    assert len(scripts) > 20
    for script in scripts:
        Script(resolve(script, {}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("case: x", "must be a list"),
        ("- steps: []", "lacks case"),
        ("- {case: x, steps: [], extra: 1}", "has extra too many"),
        ("- {case: x, steps: []}", "calls nothing"),
        ("- {case: x, steps: [{do: {flowless: stop}}]}", "calls nothing"),
        ("- {case: x, given: {a: 1}, steps: [{call: validate, expect: {active: {}}}]}", "has a too many"),
        ("- {case: x, steps: [{call: validate}]}", "does not say what is expected"),
        ("- {case: x, steps: [{call: validate, expect: {response: {}}}]}", "does not come to response"),
        ("- {case: x, steps: [{call: validate, expect: {error: {}}}]}", "does not come to error"),
        ("- {case: x, steps: [{call: SessionService/Login, expect: {denied: REVOKED}}]}", "does not come to denied"),
        ("- {case: x, steps: [{call: SessionService/Login, expect: {response: {}, failure: {}}}]}", "must be one of"),
        ("- {case: x, steps: [{call: SessionService/Logn}]}", "is no method"),
        ("- {case: x, steps: [{call: validate, expect: {active: {}}, tmeout: 1}]}", "has tmeout too many"),
        ("- {case: x, steps: [{do: {explode: all}}]}", "do must be one of"),
        ("- {case: x, steps: [{saw: SessionService/Login}]}", "lacks expect"),
        ("- {case: x, steps: [{call: validate, expect: {active: {}}, meanwhile: {do: {}}}]}", "lacks after"),
        ("- {case: x, steps: [{get: /}]}", "must expect one of"),
        ("- {case: x, steps: [{get: /, passes: null, never_passes: true}]}", "must expect one of"),
        ("- {case: x, steps: [{get: /, refused: 401}]}", "a status and a reason"),
        ("- {case: x, steps: [{get: /, refused: [401, 7]}]}", "a status and a reason"),
        ("- {case: x, steps: [{get: /, passes: null, from: mars}]}", "from must be one of"),
        ("- {case: x, steps: [{get: /, passes: null, headers: [cookie]}]}", "a name and a value"),
        ("- {case: x, steps: [{get: /, passes: null, header: []}]}", "has header too many"),
        ("- {case: x, steps: [{get: /, passes: null}, {call: SessionService/Login}]}", "an app and a client"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_case_is_told(text: str, said: str) -> None:
    with pytest.raises(CaseError, match=said):
        cases_of("group", text)
