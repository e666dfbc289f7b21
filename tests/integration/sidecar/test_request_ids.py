"""The request id on its way through the sidecar: from the app to Flowless and back, and what shares a question."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from bridge_sidecar.routes import OnMismatch, Rule
from tests.support.sidecar import CALL_SECONDS, CONTEXT, Running, new_id, running_sidecar, until
from trust_core import logs
from trust_core.errors import Reason, TrustError
from trustlayer.v1 import types_pb2, validator_pb2


@pytest.fixture
def log() -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level="debug", style="json", stream=stream)
    return stream


def _events(log: io.StringIO, name: str) -> list[dict[str, Any]]:
    return [event for event in map(json.loads, log.getvalue().splitlines()) if event["event"] == name]


async def _ask(
    app: Running, session_id: str, request_id: str | None = None, **fields: Any
) -> tuple[validator_pb2.ValidateResponse, str]:
    """Validate; also give the request id that the answer says."""
    request = validator_pb2.ValidateRequest(**{"session_id": session_id, "context": CONTEXT, **fields})
    metadata = () if request_id is None else (("x-request-id", request_id),)
    call = app.validator.Validate(request, timeout=CALL_SECONDS, metadata=metadata)
    answer = await call
    return answer, str(dict(await call.trailing_metadata()).get("x-request-id", ""))


async def test_a_question_to_flowless_carries_the_id_of_the_apps_request(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        _, said = await _ask(app, session_id, "from-the-app")
        assert app.flowless.validate_request_ids == ["from-the-app"]
        assert said == "from-the-app"


async def test_an_id_is_made_for_a_question_whose_app_sent_none(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        _, said = await _ask(app, new_id())
        assert len(said) == 16
        assert app.flowless.validate_request_ids == [said]


async def test_a_session_id_sent_as_a_request_id_goes_nowhere(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        secret = new_id()
        _, said = await _ask(app, new_id(), secret)
        assert app.flowless.validate_request_ids == [said]
        assert secret not in said


async def test_a_hit_about_which_nothing_is_written_needs_no_id(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        await _ask(app, session_id, "first")
        assert (await _ask(app, session_id, "second"))[1] == ""


async def test_a_shared_question_is_known_by_the_request_that_began_it_and_the_others_are_logged(
    run_dir: Path, log: io.StringIO
) -> None:
    async with running_sidecar(run_dir) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        app.flowless.validate_gate.clear()
        first = asyncio.ensure_future(_ask(app, session_id, "first"))
        await until(lambda: len(app.flowless.validate_requests) == 1)
        others = [asyncio.ensure_future(_ask(app, session_id, f"other-{number}")) for number in range(2)]
        await until(lambda: len(_events(log, "question shared")) == 2)
        app.flowless.validate_gate.set()
        await asyncio.gather(first, *others)
        assert app.flowless.validate_request_ids == ["first"]
        shared = _events(log, "question shared")
        assert {event["request_id"] for event in shared} == {"other-0", "other-1"}
        assert {event["asked_by"] for event in shared} == {"first"}


async def test_the_report_of_a_mismatch_carries_the_id(run_dir: Path) -> None:
    rule = Rule(name="vault", on_mismatch=OnMismatch.REVOKE)
    async with running_sidecar(run_dir, routes=(rule,)) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        elsewhere = types_pb2.RequestContext(client_ip="198.51.100.1")
        await _ask(app, session_id, "stolen", context=elsewhere, route="vault")
        assert app.flowless.mismatch_request_ids == ["stolen"]


async def test_an_error_of_flowless_comes_back_with_the_id_in_the_metadata_too(run_dir: Path) -> None:
    async with running_sidecar(run_dir) as app:
        app.flowless.validate_error = TrustError(Reason.STORAGE_UNAVAILABLE, "no disk")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _ask(app, new_id(), "failed-1")
        assert ("x-request-id", "failed-1") in tuple(caught.value.trailing_metadata())


def _lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [line for line in _events(log, "request") if line["method"].endswith("/Validate")]


@pytest.mark.parametrize(("which", "expected"), [("off", []), ("failed", ["b"]), ("all", ["a", "b"])])
async def test_a_line_for_each_request_is_written_as_far_as_the_operator_wants(
    run_dir: Path, log: io.StringIO, which: str, expected: list[str]
) -> None:
    async with running_sidecar(run_dir, log_requests=which) as app:
        session_id = new_id()
        app.flowless.add_session(session_id)
        await _ask(app, session_id, "a")
        app.flowless.validate_error = TrustError(Reason.STORAGE_UNAVAILABLE, "no disk")
        with pytest.raises(grpc.aio.AioRpcError):
            await _ask(app, new_id(), "b")
        # A call's line is written when the call is over, which its caller may know a moment before.
        await until(lambda: len(_lines(log)) >= len(expected))
    lines = _lines(log)
    assert [line["request_id"] for line in lines] == expected
    for line in lines:
        assert line["milliseconds"] > 0
        assert (line["code"], line.get("reason")) == {
            "a": ("OK", None),
            "b": ("UNAVAILABLE", "STORAGE_UNAVAILABLE"),
        }[line["request_id"]]
    assert session_id not in log.getvalue()


async def test_another_reason_within_an_outage_is_logged_and_the_same_again_is_not(
    run_dir: Path, log: io.StringIO
) -> None:
    async with running_sidecar(run_dir) as app:
        await app.flowless.stop()
        await until(lambda: len(_events(log, "revocation watch still down")) >= 2)
        app.flowless.secrets.clear()
        await app.flowless.start()
        changed = "revocation watch still down, for another reason"
        await until(lambda: len(_events(log, changed)) == 1)
        seen = len(_events(log, "revocation watch still down"))
        await until(lambda: len(_events(log, "revocation watch still down")) > seen)
        (event,) = _events(log, changed)
        assert "refuses" in event["why"]
        assert event["level"] == "warning"
