"""`flowless top` over real processes: a sidecar that tells figures, one of before that does not, and attackers."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from typer.testing import CliRunner

from flowless.cli import app
from tests.support.flowless import Client
from tests.support.repository import ROOT
from tests.support.system import System, running_system
from tools.processes import TESTING
from trustlayer.v1 import admin_pb2, bridge_pb2, types_pb2

pytestmark = pytest.mark.long

ENOUGH_SECONDS = 60.0
STALENESS = Duration(seconds=60)


@pytest.fixture(scope="module")
def system(module_dir: Path) -> Iterator[System]:
    with running_system(module_dir) as running:
        yield running


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Client]:
    """A bridge with every scope that this needs, past the sidecar."""
    secret = system.flowless.create_bridge("operators", ("validate", "admin")).secret
    with grpc.insecure_channel(system.flowless.address) as channel:
        yield Client(channel, secret)


def run(system: System, *arguments: str, code: int = 0) -> str:
    """Run a command in this process, which is quicker than to start one; return what it prints."""
    environment = {**TESTING, "FLOWLESS_DATABASE_URL": system.flowless.database_url, "COLUMNS": "160"}
    result = CliRunner().invoke(app, arguments, env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code == code, result.output
    return result.output


def top(system: System) -> dict[str, Any]:
    """What a script sees."""
    seen: dict[str, Any] = json.loads(run(system, "top", "--once", "--json"))
    return seen


def eventually(seen: Callable[[], Any]) -> Any:
    """What is seen when it is true; replicas report every few seconds."""
    deadline = time.monotonic() + ENOUGH_SECONDS
    while not (found := seen()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
    return found


def listed(client: Client, instance: str) -> admin_pb2.Watcher | None:
    """A watcher as the replica lists it, which reports anew whenever it is asked."""
    replicas = client.admin.ListWatchers(admin_pb2.ListWatchersRequest()).replicas
    return next((w for replica in replicas for w in replica.watchers if w.instance == instance), None)


def _row(system: System, instance: str) -> dict[str, Any] | None:
    return next((row for row in top(system)["sidecars"] if row["instance"] == instance), None)


def test_a_script_sees_what_the_sidecar_has_counted(system: System, client: Client) -> None:
    system.app.register("ada@example.org")
    session_id = system.app.log_in("ada@example.org").session_id
    for wanted in (session_id, session_id, session_id, "garbage"):
        system.app.validate(wanted)
    status = system.app.status()

    def figures() -> bridge_pb2.SidecarFigures | None:
        replicas = client.admin.ListWatchers(admin_pb2.ListWatchersRequest()).replicas
        told = [w.figures for replica in replicas for w in replica.watchers if w.HasField("figures")]
        return told[0] if told and told[0].hits >= status.hits else None

    told = eventually(figures)
    assert (told.hits, told.misses, told.lease_held) == (status.hits, status.misses, True)
    assert list(told.denials) == [bridge_pb2.DenialCount(reason=types_pb2.DENIAL_REASON_MALFORMED, count=1)]
    seen = top(system)
    (sidecar,) = seen["sidecars"]
    (replica,) = seen["replicas"]
    assert (replica["watchers"], replica["silent"], seen["warnings"]) == (1, False, [])
    assert 0 <= replica["reported_ago_seconds"] < ENOUGH_SECONDS
    assert (sidecar["bridge"], sidecar["lease"], sidecar["replica"]) == ("sidecar", "held", replica["name"])
    assert sidecar["figures"]["denials"] == {"MALFORMED": 1}
    assert sidecar["since_start"]["hits"] == status.hits
    assert sidecar["since_start"]["hit_ratio"] == status.hits / (status.hits + status.misses)
    assert sidecar["last_interval"] is None, "one look knows no rates"
    assert session_id not in json.dumps(seen)


def test_a_sidecar_from_before_is_listed_without_figures(system: System, client: Client) -> None:
    with client.watch(instance="old", max_staleness=STALENESS) as watch:
        watch.ready()
        watch.ping(1)
        watcher = listed(client, "old")
        assert watcher is not None
        assert not watcher.HasField("figures")
        row = _row(system, "old")
        assert row is not None
        assert (row["lease"], row["figures"], row["since_start"]) == ("held", None, None)
        text = run(system, "top")
    assert "(1 sidecar without figures)" in text
    assert [line.split()[4:] for line in text.splitlines() if line.startswith("operators/old")] == [["-"] * 7]


def test_figures_that_cannot_be_true_cost_no_lease_and_are_not_shown(client: Client) -> None:
    with client.watch(instance="liar", max_staleness=STALENESS) as watch:
        watch.ready()
        for nonce, figures in enumerate((bridge_pb2.SidecarFigures(hits=5), bridge_pb2.SidecarFigures(hits=-5)), 1):
            watch.send(ping=bridge_pb2.WatchPing(nonce=nonce, figures=figures))
            assert watch.rows_until("pong")[1].pong.nonce == nonce
            watcher = listed(client, "liar")
            assert watcher is not None
            assert watcher.HasField("figures") == (figures.hits >= 0)


def test_a_name_that_would_turn_the_line_around_arrives_escaped(system: System, client: Client) -> None:
    name = "\u202eniamod \u2066pod"
    with client.watch(instance=name, max_staleness=STALENESS) as watch:
        watch.ready()
        watch.ping(1)
        eventually(lambda: listed(client, name))
        for command in ("top", "doctor"):
            text = run(system, command)
            assert "\\u202eniamod \\u2066pod" in text, command
            assert text.replace("\n", "").isprintable(), command


def test_what_is_piped_is_one_look_and_has_no_colours(system: System) -> None:
    text = run(system, "top", "--interval", "0.5", "--sort", "lag")
    assert text.startswith("flowless top  ")
    assert text.count("SIDECAR ") == 1
    assert "\x1b" not in text


def test_a_limit_says_how_many_are_left_out(system: System, client: Client) -> None:
    with client.watch(instance="another", max_staleness=STALENESS) as watch:
        watch.ready()
        watch.ping(1)
        eventually(lambda: listed(client, "another"))
        limited = json.loads(run(system, "top", "--json", "--limit", "1"))
        assert re.search(r"\nand \d+ more sidecars?\n", run(system, "top", "--limit", "1"))
    assert len(limited["sidecars"]) == 1
    assert limited["sidecars_not_shown"] >= 1


def test_a_database_that_is_not_there_is_said_and_none_is_made(run_dir: Path) -> None:
    environment = {**TESTING, "FLOWLESS_DATABASE_URL": f"sqlite:///{run_dir}/none.db"}
    result = CliRunner().invoke(app, ["top", "--once"], env=environment)
    assert result.exit_code == 4, result.output
    assert "run `flowless migrate`" in result.output
    assert not (run_dir / "none.db").exists()


def test_there_is_no_way_to_ask_for_a_look_every_instant(system: System) -> None:
    assert "0.5" in run(system, "top", "--interval", "0", code=2)


class Terminal:
    """A terminal with `flowless top` in it."""

    def __init__(self, system: System) -> None:
        self._controller, self.terminal = pty.openpty()
        self.resize(80)
        self.found = termios.tcgetattr(self.terminal)
        self.text = ""
        environment = {
            "FLOWLESS_DATABASE_URL": system.flowless.database_url,
            "TERM": "xterm-256color",
            "COLUMNS": "80",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flowless", "top", "--interval", "0.5"],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=self.terminal,
            stdout=self.terminal,
            stderr=self.terminal,
            start_new_session=True,
        )

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self._controller, keys)

    def read_until(self, text: str) -> None:
        """Read until it is there, forgetting what was read before."""
        self.text = ""
        deadline = time.monotonic() + ENOUGH_SECONDS
        while text not in self.text:
            ready, _, _ = select.select([self._controller], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, self.text
            self.text += os.read(self._controller, 65_536).decode(errors="replace")

    def end(self) -> int:
        """Read to the end, and return the exit code."""
        self.read_until("\x1b[?1049l")
        return self.process.wait(ENOUGH_SECONDS)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._controller)
        os.close(self.terminal)


@pytest.fixture
def terminal(system: System) -> Iterator[Terminal]:
    terminal = Terminal(system)
    yield terminal
    terminal.close()


@pytest.mark.parametrize("how", [b"q", b"\x03", signal.SIGTERM], ids=str)
def test_whoever_has_seen_enough_gets_the_terminal_back_as_it_was(
    terminal: Terminal, how: bytes | signal.Signals
) -> None:
    terminal.read_until("q quits")
    assert "\x1b[?1049h" in terminal.text, "a screen of its own"
    assert termios.tcgetattr(terminal.terminal) != terminal.found
    if isinstance(how, bytes):
        terminal.press(b"xyz" + how)
    else:
        terminal.process.send_signal(how)
    assert terminal.end() == 0
    assert "Traceback" not in terminal.text
    assert termios.tcgetattr(terminal.terminal) == terminal.found


def test_a_terminal_of_another_size_is_filled_anew_and_rates_appear(system: System, terminal: Terminal) -> None:
    terminal.read_until("q quits")
    terminal.resize(30)
    terminal.process.send_signal(signal.SIGWINCH)
    terminal.read_until("log …")
    terminal.resize(120)
    terminal.process.send_signal(signal.SIGWINCH)
    terminal.read_until("unavailable/s")
    deadline = time.monotonic() + ENOUGH_SECONDS
    while "0 unavailable/s" not in terminal.text:
        assert time.monotonic() < deadline
        system.app.validate("garbage")
        terminal.read_until("unavailable/s")
    terminal.press(b"q")
    assert terminal.end() == 0
