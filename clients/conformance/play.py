"""Play one case with one driver: what is asked of it, and whether what comes back is what the case expects."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
from google.protobuf import message_factory
from google.protobuf.duration_pb2 import Duration

from clients.conformance.answers import Answer, answer_of
from clients.conformance.beforehand import beforehand
from clients.conformance.case_file import Call, Case, Do, Get, Saw, Step
from clients.conformance.driver import Driver, DriverError
from clients.conformance.matching import differences
from clients.conformance.methods import METHODS, VALIDATE, full_name
from clients.conformance.plain import fill
from clients.conformance.references import UnknownReferenceError, resolve
from clients.conformance.world import World, WorldError
from conformance.v1.conformance_pb2 import DriverRequest, DriverResponse, Rpc
from tools.processes import ProcessError
from trustlayer.v1 import validator_pb2

BROWSER: Final = {"client_ip": "203.0.113.7", "device_fingerprint": "device", "user_agent": "agent"}
_LONGEST_DEFAULT_SECONDS: Final = 10.0
_PATIENCE_SECONDS: Final = 5.0
"""So long after a call's deadline a driver has to have answered."""
_SEEN_SECONDS: Final = 3.0
_PAUSE_SECONDS: Final = 0.02
_BACK_SECONDS: Final = 2.5
"""So long a client may take to have its sidecar again: rule 5 says a second, and the machine may be busy."""
_SECRETS: Final = frozenset(("session_id", "token"))


class _FailedError(Exception):
    """The case fails; the text says how."""


def play(case: Case, driver: Driver, world: World) -> str:
    """Play the case, and mend the world; say what is not as it should be, or nothing.

    The next case may count on a client that has its sidecar again: one that does not come back has failed this case.
    Raises `WorldError`, `ScriptError` or ValueError where the case cannot be played, which is no driver's fault.
    """
    problem = _play(case, driver, world)
    world.mend()
    # Waited for in any case, so that one failure is not taken for two.
    not_back = _return(driver, world)
    return problem or not_back


def _play(case: Case, driver: Driver, world: World) -> str:
    playing = _Playing(driver, world, beforehand(case, world, BROWSER))
    for number, step in enumerate(case.steps, 1):
        try:
            playing.step(step)
        except (_FailedError, DriverError) as error:
            return f"step {number} ({_title(step)}): {error}"
        except (UnknownReferenceError, ProcessError, grpc.RpcError) as error:
            raise WorldError(f"step {number} ({_title(step)}): {error}") from None
    return ""


def _return(driver: Driver, world: World) -> str:
    """Wait until the driver's client has the sidecar again; say that it has not, or nothing."""
    # Answered by the sidecar itself, and with a definite no.
    request = DriverRequest(socket=str(world.socket("sidecar")), validate=validator_pb2.ValidateRequest())
    until = time.monotonic() + _BACK_SECONDS
    while driver.runs:
        try:
            response = driver.ask(request, timeout=_LONGEST_DEFAULT_SECONDS + _PATIENCE_SECONDS)
        except DriverError as error:
            return f"when all was mended: {error}"
        if not response.HasField("unavailable"):
            return ""
        if time.monotonic() > until:
            return f"the client is not back {_BACK_SECONDS:g} s after all was mended: {response.unavailable.message}"
        time.sleep(_PAUSE_SECONDS)
    return ""


def _title(step: Step) -> str:
    match step:
        case Call():
            return step.method
        case Saw():
            return f"what the server saw of {step.method}"
        case Do():
            return " ".join(step.action)
        case Get():
            return step.path


class _Playing:
    """One case under way."""

    def __init__(self, driver: Driver, world: World, known: dict[str, Any]) -> None:
        self._driver = driver
        self._world = world
        self._known = known

    def step(self, step: Step) -> None:
        """Take one step. Raises `_FailedError` or `DriverError` where the driver fails."""
        match step:
            case Do():
                self._world.do(resolve(step.action, self._known))
            case Saw():
                self._compare_seen(step)
            case Call():
                for number in range(step.repeat):
                    self._known["number"] = number
                    self._call(step)
            case Get():
                raise WorldError("a driver is no app")

    def _compare_seen(self, step: Saw) -> None:
        """Compare what the server saw; that a client has gone it may see a little later."""
        expected = resolve(step.expected, self._known)
        deadline = time.monotonic() + _SEEN_SECONDS
        while True:
            problems = list(differences(expected, self._world.scripted.script.seen(step.method), where="it"))
            if not problems:
                return
            if time.monotonic() > deadline:
                raise _FailedError("; ".join(problems))
            time.sleep(_PAUSE_SECONDS)

    def _call(self, step: Call) -> None:
        expected = resolve(step.expected, self._known)
        until = time.monotonic() + step.eventually
        while True:
            request = self._request(step)
            began = time.monotonic()
            response = self._ask(request, step)
            answer = answer_of(response, step.method)
            problems = _problems(step, expected, answer, time.monotonic() - began)
            if not problems:
                break
            if time.monotonic() > until:
                raise _FailedError("; ".join(problems))
            time.sleep(_PAUSE_SECONDS)
        if step.known_as:
            self._known[step.known_as] = answer.values

    def _ask(self, request: DriverRequest, step: Call) -> DriverResponse:
        patience = (_LONGEST_DEFAULT_SECONDS if step.timeout is None else step.timeout) + _PATIENCE_SECONDS
        if step.meanwhile is None:
            return self._driver.ask(request, timeout=patience)
        # Programs die with the thread that started them, so what changes the world is done by this thread.
        self._driver.start()
        with ThreadPoolExecutor(1) as asking:
            asked = asking.submit(self._driver.ask, request, timeout=patience)
            time.sleep(step.meanwhile.after)
            self._world.do(resolve(step.meanwhile.do, self._known))
            return asked.result()

    def _request(self, step: Call) -> DriverRequest:
        values = resolve(step.request, self._known)
        request = DriverRequest(
            socket=str(self._world.socket(step.socket)),
            timeout=None if step.timeout is None else _duration(step.timeout),
            cancel_after=None if step.cancel_after is None else _duration(step.cancel_after),
        )
        if step.method == VALIDATE:
            message = validator_pb2.ValidateRequest()
            fill(message, values)
            request.validate.CopyFrom(message)
            return request
        asked = message_factory.GetMessageClass(METHODS[step.method].input_type)()
        fill(asked, values)
        request.rpc.CopyFrom(Rpc(method=full_name(step.method), request=asked.SerializeToString()))
        return request


def _duration(seconds: float) -> Duration:
    nanos = round(seconds * 1e9)
    return Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)


def _problems(step: Call, expected: Any, answer: Answer, took: float) -> list[str]:
    problems: list[str] = []
    allowed = ("unavailable", "failure") if step.outcome == "error" else (step.outcome,)
    if answer.outcome not in allowed:
        shown = {name: value for name, value in answer.values.items() if name not in _SECRETS}
        problems.append(f"expected {step.outcome}, got {answer.outcome} {shown!r:.400}")
    else:
        problems += differences(expected, answer.values, where=answer.outcome)
    if answer.tells_a_secret:
        problems = ["the words of the answer hold a session id or a token"]
    if answer.hides_its_error:
        problems.append("the driver does not say what its language prints of the error")
    if step.at_most is not None and took > step.at_most:
        problems.append(f"took {took:.2f} s, more than {step.at_most:g} s")
    if step.at_least is not None and took < step.at_least:
        problems.append(f"took {took:.2f} s, less than {step.at_least:g} s")
    return problems
