"""Logs tell what happened and never a secret."""

import asyncio
import gc
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from trust_core import logs
from trust_core.identifiers import new_bridge_secret, new_session_id

# Not random: redaction must not depend on luck.
SESSION_ID = new_session_id(lambda count: bytes(range(count)))
BRIDGE_SECRET = new_bridge_secret("0123456789abcdef", lambda count: bytes(range(count)))


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    target = io.StringIO()
    logs.configure(level="debug", style="json", stream=target)
    yield target
    logs.configure()


def _only_event(stream: io.StringIO) -> dict[str, Any]:
    (line,) = stream.getvalue().splitlines()
    event = json.loads(line)
    assert isinstance(event, dict)
    return event


@pytest.mark.parametrize("secret", [SESSION_ID, BRIDGE_SECRET], ids=["session id", "bridge secret"])
@pytest.mark.parametrize(
    "place",
    [
        lambda secret: {"value": secret},
        lambda secret: {"value": f"Bearer {secret}, twice {secret}"},
        lambda secret: {"value": {"inner": [secret, (secret,)]}},
        lambda secret: {"value": secret[:40]},
    ],
    ids=["whole value", "inside text", "nested", "cut short"],
)
def test_a_secret_is_redacted_wherever_it_stands(stream: io.StringIO, secret: str, place: Any) -> None:
    logs.get_logger("test").info("event", **place(secret))
    assert secret[5:20] not in stream.getvalue()
    assert f"{secret[:5]}[redacted]" in stream.getvalue()


@pytest.mark.parametrize("secret", [SESSION_ID, BRIDGE_SECRET], ids=["session id", "bridge secret"])
def test_a_secret_in_the_message_itself_is_redacted(stream: io.StringIO, secret: str) -> None:
    logs.get_logger("test").warning(f"refused {secret}")
    assert _only_event(stream)["event"] == f"refused {secret[:5]}[redacted]"


def test_an_event_names_its_program_level_and_time(stream: io.StringIO) -> None:
    logs.get_logger("flowless").info("started", port=1)
    event = _only_event(stream)
    assert (event["program"], event["level"], event["event"], event["port"]) == ("flowless", "info", "started", 1)
    assert event["timestamp"].endswith("Z")


def test_an_exception_is_described_by_type_and_place_of_each_cause_without_text() -> None:
    def fail() -> None:
        try:
            raise KeyError("hunter2")
        except KeyError as cause:
            raise ValueError("hunter3") from cause

    with pytest.raises(ValueError, match="hunter3") as caught:
        fail()
    described = logs.describe_exception(caught.value)
    assert "hunter" not in str(described)
    chain = described["exception"]
    assert isinstance(chain, list)
    assert [text.split(" at ")[0] for text in chain] == ["builtins.ValueError", "builtins.KeyError"]
    assert all(" at fail:" in text for text in chain)


def test_a_chain_of_exceptions_is_described_up_to_a_bound() -> None:
    error: Exception = ValueError()
    for _ in range(20):
        outer = ValueError()
        outer.__cause__ = error
        error = outer
    described = logs.describe_exception(error)["exception"]
    assert isinstance(described, list)
    assert len(described) == 5


def test_what_a_library_logs_loses_its_arguments_and_its_exception_text(stream: io.StringIO) -> None:
    try:
        raise RuntimeError("hunter2")
    except RuntimeError:
        logging.getLogger("library").exception("query %s failed", "SELECT hunter3")
    event = _only_event(stream)
    assert "hunter" not in stream.getvalue()
    assert (event["logger"], event["event"], event["level"]) == ("library", "query %s failed", "error")
    assert event["exception"][0].startswith("builtins.RuntimeError at ")


def test_the_exception_that_asyncio_writes_into_its_message_is_left_out(stream: io.StringIO) -> None:
    async def main() -> None:
        async def fails() -> None:
            raise RuntimeError("hunter2")

        asyncio.ensure_future(fails())  # noqa: RUF006 - that nobody waits for it is the point
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gc.collect()

    asyncio.run(main())
    assert "hunter2" not in stream.getvalue()
    assert _only_event(stream)["event"] == "Task exception was never retrieved"


def test_a_secret_in_a_librarys_message_is_redacted(stream: io.StringIO) -> None:
    logging.getLogger("library").warning(f"got {SESSION_ID}")
    assert _only_event(stream)["event"] == "got sess_[redacted]"


def test_chatter_of_libraries_below_warning_is_left_out(stream: io.StringIO) -> None:
    logging.getLogger("library").info("chatter")
    assert stream.getvalue() == ""


def test_events_below_the_level_are_left_out() -> None:
    target = io.StringIO()
    logs.configure(level="warning", style="json", stream=target)
    logs.get_logger("test").info("left out")
    logs.get_logger("test").warning("kept")
    logs.configure()
    assert _only_event(target)["event"] == "kept"


def test_the_automatic_style_is_json_where_there_is_no_terminal() -> None:
    target = io.StringIO()
    logs.configure(style="auto", stream=target)
    logs.get_logger("test").info("event")
    logs.configure()
    assert _only_event(target)["event"] == "event"


def test_the_console_style_is_one_readable_line_without_colour_codes_in_a_file() -> None:
    target = io.StringIO()
    logs.configure(style="console", stream=target)
    logs.get_logger("test").info("started", session=SESSION_ID)
    logs.configure()
    (line,) = target.getvalue().splitlines()
    assert "started" in line
    assert "sess_[redacted]" in line
    assert "\x1b" not in line


def test_the_console_style_shows_an_exception_by_type_and_place() -> None:
    target = io.StringIO()
    logs.configure(style="console", stream=target)
    try:
        raise ValueError("hunter4")
    except ValueError as error:
        logs.get_logger("program").error("failed", **logs.describe_exception(error))
    finally:
        logs.configure()
    assert "builtins.ValueError at " in target.getvalue()
    assert "hunter4" not in target.getvalue()
