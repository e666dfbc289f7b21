"""Attacks by guessing, one test each, named after what the attacker tries. Real processes throughout."""

import base64
import json
import os
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

import pytest

from tests.support.flowless import Client, Flowless, failure_of, fresh_email, prepare, running_flowless, served
from tests.support.guessing import (
    CHECKED,
    LIMITED,
    WRONG,
    addresses,
    logs_in,
    request,
    seconds_to_wait,
    tried,
    tried_at_once,
)
from tests.support.rpc import reason
from tools.processes import free_port, temporary_directory
from tools.redis_server import RedisServer

pytestmark = pytest.mark.long

FREE, PER_ACCOUNT, PER_IP = 5, 30, 40
SETTINGS = {
    "attempts_free": str(FREE),
    "attempts_failed_per_account_per_day": str(PER_ACCOUNT),
    "attempts_failed_per_ip_per_hour": str(PER_IP),
}
AT_ONCE = FREE + 1
"""Checked at once by one network: the free ones, and the one that sets the first wait."""
MEANWHILE = 7
"""More that get through while a test runs, at most: after 1, 2, 4, … seconds, and no test takes two minutes."""
WAIT_SECONDS = 30.0


@pytest.fixture(scope="module")
def flowless() -> Iterator[Flowless]:
    with temporary_directory() as directory, running_flowless(directory, **SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
def client(flowless: Flowless) -> Client:
    return flowless.client


def test_brute_force_on_one_account_from_one_ip_meets_a_wait_that_grows(client: Client) -> None:
    email, ip = client.register().email, next(addresses())
    checked, waits = 0, []
    while checked < AT_ONCE + 2:
        error = failure_of(lambda: client.sessions.Login(request(email, WRONG, ip)))
        if reason(error) == CHECKED:
            checked += 1
        else:
            waits.append((checked, seconds_to_wait(error)))
    assert waits
    assert all(before >= AT_ONCE and 1 <= wait <= 2 ** (before - AT_ONCE) for before, wait in waits)


def test_brute_force_on_one_account_from_many_ips_ends_at_the_accounts_limit(client: Client) -> None:
    email = client.register().email
    answers = Counter(tried(client, email, ip) for ip in islice(addresses(), 3 * PER_ACCOUNT))
    assert answers == {CHECKED: PER_ACCOUNT, LIMITED: 2 * PER_ACCOUNT}


def test_brute_force_on_many_accounts_from_one_ip_ends_at_the_networks_limit(client: Client) -> None:
    ip, other = islice(addresses(), 2)
    emails = [client.register().email if number % 2 else fresh_email() for number in range(2 * PER_IP)]
    answers = [tried(client, email, ip) for email in emails]
    assert answers == [CHECKED] * PER_IP + [LIMITED] * PER_IP
    assert tried(client, emails[0], other) == CHECKED


def test_brute_force_through_an_ipv6_network_is_of_one_client(client: Client) -> None:
    email = client.register().email
    answers = Counter(tried(client, email, f"2001:db8:1:2::{number:x}") for number in range(1, 3 * AT_ONCE))
    assert AT_ONCE <= answers[CHECKED] <= AT_ONCE + MEANWHILE < answers.total()
    assert tried(client, email, "2001:db8:1:3::1") == CHECKED


def test_concurrent_guesses_do_not_outrun_the_counter(client: Client) -> None:
    email, ip = client.register().email, next(addresses())
    answers = tried_at_once([client], [request(email, WRONG, ip)] * 200)
    assert set(answers) == {CHECKED, LIMITED}
    assert AT_ONCE <= answers[CHECKED] <= AT_ONCE + MEANWHILE


def test_concurrent_guesses_from_many_ips_do_not_outrun_the_accounts_counter(client: Client) -> None:
    email = client.register().email
    answers = tried_at_once([client], [request(email, WRONG, ip) for ip in islice(addresses(), 200)])
    assert answers == {CHECKED: PER_ACCOUNT, LIMITED: 200 - PER_ACCOUNT}


def test_an_attacker_cannot_shut_the_user_out(client: Client) -> None:
    """Where, or with what, somebody has logged in before, they are served while the attack goes on."""
    email, home, elsewhere, nowhere = client.register().email, *islice(addresses(), 3)
    assert logs_in(client, email, home, "phone")
    ended, seen = threading.Event(), list[str]()

    def attack() -> None:
        for ip in addresses():
            seen.append(tried(client, email, ip))
            if ended.is_set():
                return

    attackers = [threading.Thread(target=attack) for _ in range(4)]
    for attacker in attackers:
        attacker.start()
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while LIMITED not in seen:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for _ in range(10):
            assert logs_in(client, email, home)
            assert logs_in(client, email, elsewhere, "phone")
    finally:
        ended.set()
        for attacker in attackers:
            attacker.join()
    assert seen.count(CHECKED) == PER_ACCOUNT
    assert not logs_in(client, email, nowhere), "what nobody knows is what the attacker's guesses have used up"


def test_user_enumeration_by_limits_sees_none_between_accounts_that_exist_and_others(client: Client) -> None:
    for login in (client.register().email, fresh_email(), "no.such.user"):
        ip = next(addresses())
        one = Counter(tried(client, login, ip) for _ in range(3 * AT_ONCE))
        assert AT_ONCE <= one[CHECKED] <= AT_ONCE + MEANWHILE < one.total()
        many = Counter(tried(client, login, ip) for ip in islice(addresses(), PER_ACCOUNT))
        assert one[CHECKED] + many[CHECKED] == PER_ACCOUNT


def test_a_limited_account_leaves_one_event_that_does_not_name_it(flowless: Flowless) -> None:
    email, ip = flowless.client.register().email, next(addresses())
    for _ in range(AT_ONCE + 5):
        tried(flowless.client, email, ip)
    with flowless.sql() as database:
        found = database.execute(
            "SELECT outcome, user_id, subject, details FROM audit_events WHERE action = ? AND client_ip = ?",
            ("attempts.limited", ip),
        ).fetchall()
    ((outcome, user_id, subject, details),) = found
    assert (outcome, user_id, subject) == ("refused", "", "")
    assert json.loads(details) == {"kind": "login", "limit": "account"}


@contextmanager
def two_replicas(directory: Path, redis: RedisServer, *, metrics_port: int) -> Iterator[tuple[Flowless, Flowless]]:
    """Two replicas over one database and one Redis; the first shows metrics."""
    file, secret = prepare(directory)
    key_file = directory / "redis.key"
    key_file.write_text(base64.b64encode(os.urandom(32)).decode() + "\n")
    shared = {**SETTINGS, "redis_url": redis.url, "redis_key_file": str(key_file)}
    shared["busy_timeout_seconds"] = "30"  # two programs write one file, and how long that takes is not the question
    with ExitStack() as stack:
        one, two = (stack.enter_context(temporary_directory()) for _ in range(2))
        metrics = {"metrics_listen": f"127.0.0.1:{metrics_port}"}
        yield (
            stack.enter_context(served(one, file, secret, **shared, **metrics)),
            stack.enter_context(served(two, file, secret, **shared)),
        )


def _metric(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def test_brute_force_on_two_replicas_meets_one_counter(run_dir: Path) -> None:
    with RedisServer() as redis, two_replicas(run_dir, redis, metrics_port=free_port()) as (one, two):
        clients = [one.client, two.client]
        email, ip = one.client.register().email, next(addresses())
        answers = tried_at_once(clients, [request(email, WRONG, ip)] * 100)
        assert AT_ONCE <= answers[CHECKED] <= AT_ONCE + MEANWHILE
        other = one.client.register().email
        answers = tried_at_once(clients, [request(other, WRONG, ip) for ip in islice(addresses(), 100)])
        # A count that Redis does not answer in time, on a busy machine, is one replica's own.
        assert PER_ACCOUNT <= answers[CHECKED] < 2 * PER_ACCOUNT
        # What one replica saw succeed, the other knows.
        home, email = next(addresses()), one.client.register().email
        assert logs_in(one.client, email, home)
        tried_at_once(clients, [request(email, WRONG, ip) for ip in islice(addresses(), 100)])
        deadline = time.monotonic() + WAIT_SECONDS
        while not logs_in(two.client, email, home):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_killing_redis_in_the_attack_neither_lets_guesses_through_nor_shuts_anybody_out(run_dir: Path) -> None:
    port = free_port()
    with RedisServer() as redis, two_replicas(run_dir, redis, metrics_port=port) as (one, two):
        email, home = one.client.register().email, next(addresses())
        assert logs_in(one.client, email, home)
        assert _metric(port, "flowless_attempts_counted_alone") == 0
        with ThreadPoolExecutor(4) as pool:

            def attack(client: Client) -> list[str]:
                return [tried(client, email, ip) for ip in islice(addresses(), 3 * PER_ACCOUNT)]

            attacks = [pool.submit(attack, replica.client) for replica in (one, two) for _ in range(2)]
            redis.kill()
            answers = Counter(answer for each in attacks for answer in each.result())
        assert set(answers) == {CHECKED, LIMITED}
        assert PER_ACCOUNT <= answers[CHECKED] <= 3 * PER_ACCOUNT, "what was in common, and each replica's own"
        assert _metric(port, "flowless_attempts_counted_alone") == 1
        assert logs_in(one.client, email, home), "this replica saw it succeed"
        for replica in (one, two):
            assert logs_in(replica.client, replica.client.register().email, next(addresses()))
