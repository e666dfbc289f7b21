"""The commands of the incident guides run as they stand there, one guide after the other, on a real pair.

Lines that begin with `#` are what an operator does by hand; the test does them too, and knows no others.
"""

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import grpc
import pytest

from tests.support.flowless import Client, outcome
from tests.support.repository import ROOT
from tests.support.system import BRIDGE, App, prepared_flowless
from tools.processes import FlowlessProcess, ProcessError, SidecarProcess, free_port
from trustlayer.v1 import session_pb2, trust_token_pb2, types_pb2

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
TEXT: Final = (ROOT / "docs" / "operations" / "incidents.md").read_text()
GUIDES: Final[Mapping[str, list[str]]] = {
    section.partition("\n")[0]: [
        line for block in re.findall(r"(?s)```console\n(.*?)```", section) for line in block.splitlines()
    ]
    for section in TEXT.split("\n## ")[1:]
}
ADA: Final = "ada@example.org"
LIN: Final = "lin@example.org"
"""Whose password a magic link makes void: nobody had proven the address."""
ENOUGH_SECONDS: Final = 60.0
PROGRAMS: Final = ("flowless", "bridge-sidecar", "openssl")


def _key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


class Site:
    """A Flowless, a sidecar and its app, and the operator's hands."""

    def __init__(self, *, directory: Path, flowless: FlowlessProcess, sidecar: SidecarProcess, app: App) -> None:
        self.directory = directory
        self.flowless = flowless
        self.sidecar = sidecar
        self.app = app
        self.printed: dict[str, str] = {}
        self.keys: list[str] = []
        self._signing_key_file = directory / "signing-key"
        self._backup = directory / "backup.db"
        self._database = directory / "flowless.db"
        self.hands: Mapping[str, Callable[[], object]] = {
            "put the new secret into the sidecars' file": self._take_new_secret,
            "put the new key into the Redis key file, and start the replicas anew": self.restart,
            "stop the replica, set the clock right, and start the replicas anew": self.restart,
            "put a new key first into the signing key file, and start the replicas anew": self._new_wrapping_key,
            "take the old key out of the signing key file, and start the replicas anew": self._only_new_wrapping_key,
            "put the lost pepper back if there is a copy, and start the replicas anew": self.restart,
            "stop the replicas": self.flowless.stop,
            "restore the backup": lambda: self._database.write_bytes(self._backup.read_bytes()),
            "start the replicas": self._start,
        }

    def follow(self, guide: str) -> None:
        """Do what a guide says, line by line."""
        for line in GUIDES[guide]:
            if line.startswith("# "):
                self.hands[line[2:]]()
            else:
                assert line.startswith("$ "), line
                self._run(line[2:])

    def _run(self, command: str) -> None:
        command, _, file = command.partition(" > ")
        program, *arguments = shlex.split(command.replace("shop", BRIDGE))
        assert program in PROGRAMS, command
        if program == "openssl":
            if shutil.which(program):
                subprocess.run([program, *arguments], check=True, capture_output=True, timeout=ENOUGH_SECONDS)
            return
        if "KEY_ID" in arguments:
            for key_id in self.keys:
                self.flowless.run_command(*(key_id if word == "KEY_ID" else word for word in arguments))
            return
        arguments = [self.printed["end"] if word == "SEQUENCE:HASH" else word for word in arguments]
        process = self.flowless if program == "flowless" else self.sidecar
        text = process.run_command(*arguments)
        self.printed[" ".join(arguments[:2])] = text
        if file:
            (self.directory / file).write_text(text)

    def note_the_end_of_the_audit_log(self) -> None:
        self.printed["end"] = json.loads(self.flowless.run_command("audit", "verify", "--json"))["end"]

    def note_keys(self) -> None:
        self.keys = [row["key_id"] for row in json.loads(self.flowless.run_command("keys", "list", "--json"))]

    def back_up(self) -> None:
        self.flowless.stop()
        self._backup.write_bytes(self._database.read_bytes())
        self.flowless.start()

    def restart(self) -> None:
        self.flowless.stop()
        self.flowless.start()

    def _start(self) -> None:
        self.flowless.start()
        self.leased()

    def leased(self) -> None:
        self.app.wait_for_lease(timeout=ENOUGH_SECONDS)

    def _take_new_secret(self) -> None:
        (secret,) = re.findall(r"brdg_\w+", self.printed["bridges rotate"])
        self.sidecar.write_secret(secret)
        self.leased()

    def _new_wrapping_key(self) -> None:
        self._signing_key_file.write_text(_key() + "\n" + self._signing_key_file.read_text())
        self.restart()

    def _only_new_wrapping_key(self) -> None:
        self._signing_key_file.write_text(self._signing_key_file.read_text().splitlines()[0] + "\n")
        self.restart()


@pytest.fixture(scope="module")
def site(module_dir: Path) -> Iterator[Site]:
    with prepared_flowless(module_dir, listen=f"127.0.0.1:{free_port()}") as (flowless, secret):
        sidecar = SidecarProcess(directory=module_dir, upstream=flowless.address, secret=secret)
        with sidecar, grpc.insecure_channel(sidecar.address) as channel:
            app = App(channel)
            app.wait_for_lease(timeout=ENOUGH_SECONDS)
            app.register(ADA, roles=("support",))
            app.register(LIN)
            yield Site(directory=module_dir, flowless=flowless, sidecar=sidecar, app=app)


@pytest.fixture
def in_order(site: Site) -> Iterator[Site]:
    """All is well at the beginning, and again at the end of a guide."""
    site.flowless.run_command("users", "enable", ADA)
    site.leased()
    yield site
    site.leased()
    deadline = time.monotonic() + ENOUGH_SECONDS
    while len(json.loads(site.flowless.run_command("top", "--once", "--json"))["sidecars"]) != 1:
        assert time.monotonic() < deadline  # a replica says now and then what its sidecars have told it
    site.flowless.run_command("audit", "verify")


def denial(site: Site, session_id: str) -> str:
    """Why a session is refused, when it is."""
    deadline = time.monotonic() + ENOUGH_SECONDS
    while True:
        try:
            answer = site.app.validate(session_id)
        except grpc.RpcError:
            assert time.monotonic() < deadline
            continue
        if not answer.HasField("denial"):
            return ""
        return types_pb2.DenialReason.Name(answer.denial.reason).removeprefix("DENIAL_REASON_")


def magic_link(site: Site) -> str:
    request = trust_token_pb2.IssueTrustTokenRequest(purpose="magic_link", subject=LIN, audience="shop")
    request.lifetime.FromSeconds(600)
    with grpc.insecure_channel(site.flowless.address) as channel:
        secret = site.sidecar.secret_file.read_text().strip()
        return Client(channel, secret).tokens.IssueTrustToken(request).token


def redeemed(site: Site, token: str) -> tuple[str, str]:
    request = session_pb2.LoginWithTrustTokenRequest(token=token, audience="shop")
    request.context.client_ip = "203.0.113.7"
    return outcome(lambda: site.app.sessions.LoginWithTrustToken(request, timeout=ENOUGH_SECONDS))


def test_each_guide_is_followed_by_a_test_and_says_what_it_should() -> None:
    assert sorted(re.findall(r'follow\("(.+?)"\)', Path(__file__).read_text())) == sorted(GUIDES)
    for section in TEXT.split("\n## ")[1:]:
        assert "**You notice**" in section
        assert "**It is over** when" in section


def test_a_stolen_bridge_secret_is_worth_nothing_afterwards(in_order: Site) -> None:
    site = in_order
    stolen = site.sidecar.secret_file.read_text().strip()
    session_id = site.app.log_in(ADA).session_id
    with grpc.insecure_channel(site.flowless.address) as channel:
        thief = Client(channel, stolen)
        assert thief.denial(session_id) == ""
        site.follow("A bridge secret was stolen")
        assert outcome(lambda: thief.validate(session_id))[1] == "BRIDGE_CREDENTIAL_REFUSED"
    assert denial(site, session_id) == "REVOKED"
    events = [json.loads(line) for line in (site.directory / "audit.jsonl").read_text().splitlines()]
    assert any(event["action"] == "session.login" and event["actor"].startswith("bridge:") for event in events)


def test_after_the_theft_of_a_database_a_log_that_was_written_anew_is_found(in_order: Site) -> None:
    site = in_order
    site.note_the_end_of_the_audit_log()
    site.follow("The database was stolen")
    sequence, _, hashed = site.printed["end"].partition(":")
    forged = hashed[:-1] + ("0" if hashed[-1] != "0" else "1")
    with pytest.raises(ProcessError, match="ended with 1"):
        site.flowless.run_command("audit", "verify", "--expect", f"{sequence}:{forged}")


def test_the_guide_to_a_compromised_redis_runs(in_order: Site) -> None:
    in_order.follow("Redis was compromised")


def test_the_guide_to_a_wrong_clock_runs(in_order: Site) -> None:
    in_order.follow("A clock is wrong")


def test_a_token_of_a_stolen_signing_key_redeems_nothing_afterwards(in_order: Site) -> None:
    site = in_order
    before, good = magic_link(site), magic_link(site)
    assert redeemed(site, before)[1] == "TRUST_TOKEN_REFUSED", "a later one voids it"
    site.note_keys()
    site.follow("A signing key was stolen")
    assert redeemed(site, good)[1] == "TRUST_TOKEN_REFUSED"
    states = {row["key_id"]: row["state"] for row in json.loads(site.flowless.run_command("keys", "list", "--json"))}
    assert {states[key_id] for key_id in site.keys} == {"destroyed"}
    assert sorted(state for key_id, state in states.items() if key_id not in site.keys) == ["active", "next"]
    assert redeemed(site, magic_link(site)) == ("OK", "")


def test_the_guide_to_a_lost_pepper_runs(in_order: Site) -> None:
    in_order.follow("The pepper was lost")


def test_an_account_that_was_guessed_is_closed(in_order: Site) -> None:
    session_id = in_order.app.log_in(ADA).session_id
    in_order.follow("A flood of logins")
    assert denial(in_order, session_id) != ""
    assert outcome(lambda: in_order.app.log_in(ADA))[1] == "LOGIN_REFUSED"


def test_sidecars_come_back_by_themselves_after_an_outage(in_order: Site) -> None:
    session_id = in_order.app.log_in(ADA).session_id
    in_order.flowless.kill()
    in_order.follow("Flowless is down")
    assert denial(in_order, session_id) == ""


def test_no_session_of_a_restored_backup_comes_back_to_life(in_order: Site) -> None:
    session_id = in_order.app.log_in(ADA).session_id
    in_order.back_up()
    in_order.leased()
    assert denial(in_order, session_id) == ""
    in_order.follow("A backup was restored")
    assert denial(in_order, session_id) == "REVOKED"
