"""Housekeeping on real processes: the command, the loop, the metrics, and a sidecar that was away for too long."""

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.flowless import Client, Flowless, running_flowless
from tools.processes import free_port

PAST = 1_000_000
ENOUGH_SECONDS = 20.0


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def flowless(run_dir: Path, port: int) -> Iterator[Flowless]:
    with running_flowless(
        run_dir, metrics_listen=f"127.0.0.1:{port}", housekeeping_interval_seconds="0.2", log_retention_seconds="60"
    ) as running:
        yield running


def _metrics(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def _age_everything(flowless: Flowless) -> None:
    with flowless.sql() as database:
        database.execute("UPDATE sessions SET expires_us = ?", (PAST,))
        database.execute("UPDATE revocations SET created_us = ?", (PAST,))


def _wait_for(port: int, name: str, value: float) -> None:
    deadline = time.monotonic() + ENOUGH_SECONDS
    while _metrics(port).get(name) != value:
        assert time.monotonic() < deadline, _metrics(port)
        time.sleep(0.05)


def test_a_replica_deletes_what_is_due_by_itself_and_metrics_show_it(flowless: Flowless, port: int) -> None:
    for _ in range(3):
        flowless.client.new_session()
    live = flowless.client.new_session()
    with flowless.sql() as database:
        database.execute("UPDATE sessions SET expires_us = ? WHERE handle <> ?", (PAST, live.session.handle))
    _wait_for(port, 'flowless_housekeeping_deleted_rows_total{kind="sessions"}', 3)
    assert flowless.client.denial(live.session_id) == ""
    shown = _metrics(port)
    assert shown['flowless_housekeeping_rounds_total{outcome="done"}'] >= 1
    assert shown["flowless_watchers"] == 0
    assert shown["flowless_revocation_tail_failing"] == 0
    with flowless.client.watch() as watch:
        watch.ready()
        flowless.client.revoke(live.session.handle)
        watch.ping(1)
        shown = _metrics(port)
        assert (shown["flowless_watchers"], shown["flowless_revocation_log_revision"]) == (1, 1)
        assert shown["flowless_revocation_tail_age_seconds"] < ENOUGH_SECONDS


def test_metrics_name_nobody_and_nothing(flowless: Flowless, port: int) -> None:
    login = flowless.client.new_session()
    flowless.client.denial(login.session_id)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    for secret in (login.session_id, login.session.handle, login.session.user.id, "@example.org", "brdg_"):
        assert secret not in text


def test_the_command_counts_and_then_deletes(run_dir: Path) -> None:
    with running_flowless(run_dir, housekeeping_interval_seconds="0") as flowless:
        for _ in range(2):
            flowless.client.new_session()
        _age_everything(flowless)
        counted = json.loads(flowless.process.run_command("gc", "--dry-run", "--json"))
        assert counted == {
            "sessions": 2,
            "bridge_secrets": 0,
            "revocations": 0,
            "trust_tokens": 0,
            "mail": 0,
            "audit": 0,
        }
        assert json.loads(flowless.process.run_command("gc", "--json")) == counted
        assert set(json.loads(flowless.process.run_command("gc", "--dry-run", "--json")).values()) == {0}


def test_a_watcher_that_was_away_for_longer_than_the_log_is_kept_has_to_start_over(run_dir: Path) -> None:
    with running_flowless(run_dir, housekeeping_interval_seconds="0") as flowless:
        client: Client = flowless.client
        revisions = [client.revoke(client.new_session().session.handle) for _ in range(4)]
        log_id, _ = client.end()
        with flowless.sql() as database:  # as housekeeping does when there are very many rows
            database.execute("DELETE FROM revocations WHERE revision <= ?", (revisions[1],))
            database.execute("UPDATE log_head SET compacted_through = ?", (revisions[1],))
        for last, reset in ((revisions[0], True), (revisions[1], False), (revisions[3], False)):
            with client.watch(log_id=log_id, last_revision=last) as watch:
                ready = watch.ready()
                assert ready.reset == reset
                assert ready.revision == last or (reset and ready.revision > revisions[1])
